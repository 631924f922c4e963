"""The Python SDK of hubbub."""
