"""Snapshots of the view in an object store, from which a new replica starts.

A snapshot is the view's file, compressed, with what identifies it. The journal stays the only
truth: a snapshot that is not whole, or of other entries, is not used, and the replica replays.
"""
