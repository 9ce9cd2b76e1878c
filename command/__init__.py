"""The `desk` command: command line, settings, logs, processes and their supervisor."""
