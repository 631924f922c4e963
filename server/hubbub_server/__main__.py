"""`python -m hubbub_server`: the server's own commands, without the client's."""

import typer

from hubbub_server.cli import register

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
register(app)
app()
