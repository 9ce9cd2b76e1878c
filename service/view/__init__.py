"""The view: a disposable SQLite index over the journal. One writer (the follower), many readers."""
