"""The sub-commands that the server adds to `hubbub`: up, node, worker, migrate. No logic."""

from pathlib import Path
from typing import Annotated

import typer

from hubbub_server import main
from hubbub_server.config import BadSettings, Settings, read_settings
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.supervisor.up import CannotStart, UpPlan, run_up

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=16, help="How many nodes.")] = 1,
    data: Annotated[Path, typer.Option(help="Folder for everything that is kept.")] = Path("var"),
) -> None:
    """Runs everything on this machine until Ctrl-C: nats-server, a worker, nodes, Envoy on 127.0.0.1:$HUBBUB_PORT."""
    settings = _settings()
    plan = UpPlan(
        data=data,
        port=settings.port,
        nodes=nodes,
        cors_origins=settings.up.cors_origins,
        nats_port=settings.up.nats_port,
        node_nats_servers=settings.up.node_nats_servers,
    )
    try:
        run_up(plan, say=lambda line: print(line, flush=True))
    except CannotStart as error:
        raise _refuse(error) from error


@app.command()
def node() -> None:
    """Runs one node; its settings come from the environment."""
    main.run_node(_settings())


worker_app = typer.Typer(pretty_exceptions_enable=False, invoke_without_command=True)


@worker_app.callback()
def worker(context: typer.Context) -> None:
    """Runs one worker; its settings come from the environment. Any number of workers share the shards."""
    if context.invoked_subcommand is None:
        main.run_worker(_settings())


@worker_app.command()
def replay(
    topic: Annotated[str | None, typer.Option(help="Only this conversation or user id.")] = None,
) -> None:
    """Handles dead letters again, with this version of the program; workers may run. Exits with 1 if some stay."""
    main.run_replay(_settings(), topic)


app.add_typer(worker_app, name="worker")


@app.command()
def migrate() -> None:
    """Makes the tables of a CQL store, or adds what they lack; nodes may run meanwhile. Run one at a time."""
    try:
        typer.echo(main.migrate(_settings()))
    except StoreUnavailable as error:
        raise _refuse(error) from error


def register(root: typer.Typer) -> None:
    """Adds the server's commands to those of `hubbub`."""
    root.command()(up)
    root.command()(node)
    root.add_typer(worker_app, name="worker")
    root.command()(migrate)


def _settings() -> Settings:
    try:
        return read_settings()
    except BadSettings as error:
        raise _refuse(error) from error


def _refuse(error: Exception) -> typer.Exit:
    typer.echo(f"hubbub: {error}", err=True)
    return typer.Exit(1)
