"""Benchmarks of this service and of alternatives, in turn on one machine. See README.md."""
