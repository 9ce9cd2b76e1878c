"""The metrics of every process: their names, and the page that Prometheus reads."""
