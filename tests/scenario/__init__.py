"""User stories, told by real clients to real nodes."""
