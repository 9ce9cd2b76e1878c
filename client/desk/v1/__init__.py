"""The wire contract as Python: generated from proto/desk/v1 by `make stubs`; do not edit."""
