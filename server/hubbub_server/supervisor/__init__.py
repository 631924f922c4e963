"""Runs everything on one machine: `hubbub up`. Knows programs, ports and files; of chat only the first message."""
