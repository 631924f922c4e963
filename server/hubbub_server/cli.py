"""The sub-commands that the server adds to `hubbub`: up, node, nodes, worker, migrate, log. No logic."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from hubbub_server import main, maintenance
from hubbub_server.app.take_snapshots import UnknownEvents
from hubbub_server.config import BadSettings, Settings, read_settings
from hubbub_server.domain.errors import StoreUnavailable, Unavailable
from hubbub_server.supervisor.data_folder import DataFolder
from hubbub_server.supervisor.programs import CannotStart, UpPlan
from hubbub_server.supervisor.up import run_up

T = TypeVar("T")
Running = Annotated[Path | None, typer.Option("--data", exists=True, help="Folder of a running `hubbub up`.")]

worker_app = typer.Typer(pretty_exceptions_enable=False, invoke_without_command=True)
log_app = typer.Typer(no_args_is_help=True, help="Looks after the topic log.")


def up(
    nodes: Annotated[int, typer.Option(min=1, max=16, help="How many nodes.")] = 1,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many workers.")] = 1,
    nats: Annotated[int, typer.Option(min=1, max=5, help="How many NATS servers; up to 3 keep each record.")] = 1,
    cassandra: Annotated[int, typer.Option(min=0, max=3, help="How many, as the store; 0: as the settings say.")] = 0,
    valkey: Annotated[bool, typer.Option(help="Run Valkey, which presence is kept in.")] = True,
    data: Annotated[Path, typer.Option(help="Folder for everything that is kept.")] = Path("var"),
) -> None:
    """Runs everything on this machine until Ctrl-C: servers, workers, nodes, Envoy on 127.0.0.1:$HUBBUB_PORT."""
    settings = _settings()
    plan = UpPlan(
        data=data,
        port=settings.port,
        nodes=nodes,
        workers=workers,
        nats=nats,
        cassandra=cassandra,
        valkey=valkey,
        cors_origins=settings.up.cors_origins,
        nats_ports=settings.up.nats_ports,
        node_nats_servers=settings.up.node_nats_servers,
    )
    try:
        run_up(plan, say=_say)
    except CannotStart as error:
        raise _refuse(error) from error


def node() -> None:
    """Runs one node; its settings come from the environment."""
    main.run_node(_settings())


@worker_app.callback()
def worker(context: typer.Context) -> None:
    """Runs one worker; its settings come from the environment. Any number of workers share the shards."""
    if context.invoked_subcommand is None:
        main.run_worker(_settings())


@worker_app.command()
def replay(
    topic: Annotated[str | None, typer.Option(help="Only this conversation or user id.")] = None,
    data: Running = None,
) -> None:
    """Handles dead letters again, with this version of the program; workers may run. Exits with 1 if some stay."""
    _try(data, lambda settings: maintenance.run_replay(settings, topic))


def migrate() -> None:
    """Makes the tables of a CQL store, or adds what they lack; nodes may run meanwhile. Run one at a time."""
    try:
        typer.echo(maintenance.migrate(_settings()))
    except StoreUnavailable as error:
        raise _refuse(error) from error


def nodes(data: Running = None) -> None:
    """Lists the nodes that live, as the registry in HUBBUB_REDIS__URL has them: state, name, address, life."""
    _try(data, lambda settings: maintenance.run_nodes(settings, _say))


@log_app.command()
def verify(data: Running = None) -> None:
    """Compares the log with the store, topic by topic, and names what is missing; exits with 1 when something is."""
    if not _try(data, lambda settings: maintenance.run_log_verify(settings, _say)):
        raise typer.Exit(1)


@log_app.command()
def new_epoch(
    shard: Annotated[list[int] | None, typer.Option(min=0, help="Only these; else all that are refused.")] = None,
    data: Running = None,
) -> None:
    """Takes a log as it is from now on: positions go on above all that is stored, clients start over (Reset)."""
    _try(data, lambda settings: maintenance.run_log_new_epoch(settings, shard or [], _say))


def register(root: typer.Typer) -> None:
    """Adds the server's commands to an application: to `hubbub`, and to that of __main__.py."""
    root.command()(up)
    root.command()(node)
    root.add_typer(worker_app, name="worker")
    root.command()(migrate)
    root.command()(nodes)
    root.add_typer(log_app, name="log")


def _try(data: Path | None, tool: Callable[[Settings], T]) -> T:
    try:
        if data is not None:
            os.environ.update(DataFolder(data).read_settings())
        return tool(_settings())
    except FileNotFoundError as error:
        raise _refuse(CannotStart(f"no instance runs on {data}")) from error
    except (Unavailable, UnknownEvents, ValueError) as error:
        raise _refuse(error) from error


def _say(line: str) -> None:
    print(line, flush=True)


def _settings() -> Settings:
    try:
        return read_settings()
    except BadSettings as error:
        raise _refuse(error) from error


def _refuse(error: Exception) -> typer.Exit:
    typer.echo(f"hubbub: {error}", err=True)
    return typer.Exit(1)
