"""The SDK against a server that does what the test says."""
