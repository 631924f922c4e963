"""The settings tree: read once, by main."""
