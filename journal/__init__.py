"""The log between gateway and service: the only truth. The promises are in `journal.port`."""
