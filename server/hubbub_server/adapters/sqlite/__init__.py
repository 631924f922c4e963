"""The embedded store: read models in one SQLite file."""
