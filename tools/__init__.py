"""Programs that `make` runs to write and check generated files. Not shipped."""
