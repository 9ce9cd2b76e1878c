"""The gRPC API over the view. Opens no journal."""
