"""Durable consumers of the log: projector and relay."""
