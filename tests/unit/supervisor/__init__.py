"""Tests of hubbub_server.supervisor that start nothing."""
