"""A chat in the terminal, and the same as JSON lines for scripts."""
