"""Files that several processes share: the lock of the only writer, the watch for its commits."""
