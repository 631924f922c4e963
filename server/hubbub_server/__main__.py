"""`python -m hubbub_server`: the server's own commands, without the client's."""

from hubbub_server.cli import app

app()
