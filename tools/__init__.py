"""What `make` runs to write and check the files that are derived from others. Not shipped."""
