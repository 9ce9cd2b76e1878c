"""The gRPC API over the view. Never reads the journal."""
