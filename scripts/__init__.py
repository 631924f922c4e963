"""What `make` runs besides tests."""
