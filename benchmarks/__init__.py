"""Benchmarks: ours beside what else one could run, in turn, on the same machine. See README.md."""
