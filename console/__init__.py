"""The console: pages about sessions for a browser, and the same as JSON and CSV."""
