"""The stream edge without sockets."""
