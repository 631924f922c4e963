"""One suite a port; every adapter runs the same tests."""
