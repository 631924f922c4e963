"""The command `hubbub`: `chat` from here, and what other packages add (the server: up, node, worker)."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Final

import grpc
import typer

from hubbub_client.chat.json_lines import JsonLines, stopped_line
from hubbub_client.chat.room import Room, find_conversation
from hubbub_client.chat.terminal import Terminal
from hubbub_client.client import HubbubClient
from hubbub_client.errors import HubbubError, NameTaken, first_error
from hubbub_client.model import Login, Registration

_DEMO_PASSWORD: Final = Path("var/secrets/demo_password")  # where `hubbub up` puts it
_PLUGINS: Final = "hubbub.commands"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="hubbub, a chat.")


@app.callback()
def _root() -> None:
    """hubbub, a chat."""


@app.command()
def chat(  # noqa: PLR0913, PLR0917  # each is an option of the command line
    me: Annotated[str, typer.Argument(help="Login name to sign in with.")],
    peer: Annotated[str | None, typer.Argument(help="Login name of the other one.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Id of a conversation, instead of PEER.")] = None,
    server: Annotated[
        str | None, typer.Option(envvar="HUBBUB_SERVER", help="host:port; 127.0.0.1:$HUBBUB_PORT (8080) if not given.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS with the server.")] = False,
    password: Annotated[str | None, typer.Option(envvar="HUBBUB_PASSWORD", help="Better in the environment.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help=f"File with the password; {_DEMO_PASSWORD} if there is one.")
    ] = None,
    register: Annotated[bool, typer.Option("--register", help="Make the account first when it is missing.")] = False,
    history: Annotated[int, typer.Option(min=0, max=200, help="How many older messages to show first.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on stdin and stdout, for scripts.")] = False,
) -> None:
    """Talks with somebody. Lines that the server has not acknowledged are repeated until it has, each is shown once."""
    if (peer is None) == (conversation is None):
        raise typer.BadParameter("give either PEER or --conversation")
    credentials = grpc.ssl_channel_credentials() if tls else None
    target = server or f"127.0.0.1:{os.environ.get('HUBBUB_PORT', '8080')}"
    login = Login(me.lower(), password or _read_password(password_file, may_ask=not json))
    failure: HubbubError | None = None
    try:
        client = _sign_in(target, login, credentials, register=register)
        asyncio.run(_chat(client, login, peer, conversation, is_json=json, history=history))
    except* HubbubError as group:
        failure = first_error(group)
    if failure is not None:
        if json:
            typer.echo(stopped_line(failure))
        typer.echo(f"hubbub: {failure}", err=True)
        raise typer.Exit(1)


def _read_password(file: Path | None, *, may_ask: bool) -> str:
    if file is not None or _DEMO_PASSWORD.is_file():
        try:
            return (file or _DEMO_PASSWORD).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise typer.BadParameter(f"cannot read the password: {error}") from error
    if not may_ask:
        raise typer.BadParameter("give a password: HUBBUB_PASSWORD or --password-file")
    return str(typer.prompt("Password", hide_input=True))


async def _chat(
    opening: AbstractAsyncContextManager[HubbubClient],
    login: Login,
    peer: str | None,
    conversation: str | None,
    *,
    is_json: bool,
    history: int,
) -> None:
    async with opening as client:
        conversation_id = conversation or await find_conversation(client, peer or "")
        room = Room(client, conversation_id, history_messages=history)
        if is_json:
            await JsonLines(client, room, sys.stdin, sys.stdout).run()
        else:
            await Terminal(client, room, me=login.login_name, title=peer or conversation_id).run()


@asynccontextmanager
async def _sign_in(
    target: str, login: Login, credentials: grpc.ChannelCredentials | None, *, register: bool
) -> AsyncIterator[HubbubClient]:
    async with AsyncExitStack() as stack:
        yield await _open_client(stack, target, login, credentials, register=register)


async def _open_client(
    stack: AsyncExitStack, target: str, login: Login, credentials: grpc.ChannelCredentials | None, *, register: bool
) -> HubbubClient:
    if register:
        registration = Registration(login.login_name, login.password, login.login_name)
        newcomer = HubbubClient(target, registration, channel_credentials=credentials, keeps_counters=True)
        try:
            return await stack.enter_async_context(newcomer)
        except NameTaken:
            pass  # it is there already
    client = HubbubClient(target, login, channel_credentials=credentials, keeps_counters=True)
    return await stack.enter_async_context(client)


def main() -> None:
    """Runs the command line with what other packages add to it."""
    for plugin in entry_points(group=_PLUGINS):
        try:
            plugin.load()(app)
        except ImportError as error:  # a half-installed server must not take the client with it
            print(f"hubbub: no commands of {plugin.value}: {error}", file=sys.stderr)
    app()
