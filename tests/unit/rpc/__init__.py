"""The gRPC edge without a network."""
