"""Verified fakes: they pass the contract suites that the real adapters pass."""
