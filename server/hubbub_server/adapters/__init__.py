"""One folder a technology, one file a port."""
