"""Generators and checks of derived files, which make runs. Not shipped."""
