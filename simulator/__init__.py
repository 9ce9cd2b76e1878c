"""Simulated Desk traffic, and a check of the service's sessions against it.

Knows Desk's callbacks and the public API only, not the service's own rules, which it tests.
"""
