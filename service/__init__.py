"""Journal in, gRPC out: folds callbacks into sessions, keeps the view, answers and streams."""
