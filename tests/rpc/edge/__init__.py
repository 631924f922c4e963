"""The stream edge on sockets."""
