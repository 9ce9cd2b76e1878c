"""Made-up Desk traffic, and a check of what the service made of it.

Knows Desk's callbacks and the public API only: never the service's own rules, which it tests.
"""
