"""Clients of other people's libraries."""
