"""How each foreign client is built and started. What is built lies in var/foreign; the stubs come from proto/ there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hubbub_server.supervisor.leash import leashed
from tests.foreign.steps import Script
from tests.support.tools import find_tool

REPO: Final = Path(__file__).resolve().parents[2]
PROTO: Final = REPO / "proto"
BUILT: Final = REPO / "var" / "foreign"
# The first time everything is fetched.
BUILD_TIMEOUT_S: Final = 400.0
PLAY_TIMEOUT_S: Final = 150.0


class NotPlayed(Exception):
    """A client could not be built, or did not end well; the text has what it said."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client: `folder` beside this file has its program, `needs` names what must be installed."""

    name: str
    folder: str
    needs: Sequence[str]
    build: Callable[[Path], None]
    command: Callable[[Path], Sequence[str]]
    is_browser: bool = False

    def missing(self) -> str:
        """Names what it needs and is not there; empty when all is."""
        return " and ".join(tool for tool in self.needs if not find_tool(tool))

    def prepare(self) -> Path:
        """Builds it unless that has been done; returns the folder of what was built.

        Raises:
            NotPlayed: it could not be built.
        """
        source = Path(__file__).parent / self.folder
        built, done = BUILT / self.folder, BUILT / f"{self.folder}.built"
        digest = _digest(source)
        if not (done.exists() and done.read_text() == digest):
            done.unlink(missing_ok=True)
            shutil.rmtree(built, ignore_errors=True)
            shutil.copytree(source, built)
            self.build(built)
            done.write_text(digest)
        return built

    def play(self, script: Script) -> list[dict[str, Any]]:
        """Plays all steps; returns the line of each that was begun."""
        folder = BUILT / self.folder
        try:
            ended = subprocess.run(
                leashed(*self.command(folder)),
                cwd=folder,
                env=_environment(),
                input=json.dumps(script.as_json()),
                capture_output=True,
                text=True,
                timeout=PLAY_TIMEOUT_S,
                check=False,
            )
            printed, said, code = ended.stdout, ended.stderr, ended.returncode
        except subprocess.TimeoutExpired as error:
            printed, said, code = _text(error.stdout), _text(error.stderr), -1
        lines: list[dict[str, Any]] = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        if code != 0:
            why = f"it ended with {code}; it said: {said[-2_000:]}"
            lines.append({"step": "", "error": why})
        return lines


def run(folder: Path, *command: str | Path) -> None:
    """Runs a step of a build.

    Raises:
        NotPlayed: it failed.
    """
    try:
        subprocess.run(
            leashed(*command),
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise NotPlayed(f"{error}\n{_text(error.stdout)[-2_000:]}") from error


def protoc(folder: Path, *arguments: str, roots: Sequence[str] = ("hubbub",)) -> None:
    """Generates stubs of the contract; `roots` are the folders of proto/ to generate for."""
    files = [path for root in roots for path in (PROTO / root).rglob("*.proto") if "v1alpha1" not in path.parts]
    sources = sorted(path.relative_to(PROTO).as_posix() for path in files)
    (folder / "gen").mkdir(exist_ok=True)
    run(folder, sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *arguments, *sources)


def build_go(folder: Path) -> None:
    """Builds the plugins of protoc, the stubs and the program."""
    go = find_tool("go")
    tools = ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")
    run(folder, go, "build", "-o", "bin/", *tools)
    options = [f"--plugin={folder / 'bin' / tool.rpartition('/')[2]}" for tool in tools]
    for path in (PROTO / "hubbub").glob("*/v1/*.proto"):
        name = path.relative_to(PROTO)
        mapped = f"M{name.as_posix()}=hubbub.test/foreign/gen/{name.parent.as_posix()}"
        options += [f"--go_opt={mapped}", f"--go-grpc_opt={mapped}"]
    module = "module=hubbub.test/foreign"
    protoc(folder, *options, "--go_out=.", f"--go_opt={module}", "--go-grpc_out=.", f"--go-grpc_opt={module}")
    run(folder, go, "build", "-o", "bin/client", ".")


def build_java(folder: Path) -> None:
    """Generates and compiles with Maven, and lays the libraries beside it."""
    goals = ("compile", "dependency:copy-dependencies", "-DoutputDirectory=lib")
    run(folder, find_tool("mvn"), "-q", "-B", f"-Dproto.root={PROTO}", *goals)


def build_js(folder: Path) -> None:
    """Installs the libraries; this client reads the contract when it runs."""
    run(folder, *_npm(), "ci", "--no-audit", "--no-fund")


def build_web(folder: Path) -> None:
    """Installs the libraries, generates, and makes one script of the page."""
    build_js(folder)
    plugin = folder / "node_modules" / ".bin" / "protoc-gen-es"
    options = (f"--plugin={plugin}", "--es_out=gen", "--es_opt=target=js,import_extension=js")
    protoc(folder, *options, roots=("hubbub", "google"))
    esbuild = folder / "node_modules" / ".bin" / "esbuild"
    run(folder, esbuild, "page.mjs", "--bundle", "--format=esm", "--outfile=page.js")


CLIENTS: Final = (
    Client("grpcio", "grpcio", (), lambda _: None, lambda folder: [sys.executable, str(folder / "client.py")]),
    Client("grpc-go", "grpc_go", ("go",), build_go, lambda folder: [str(folder / "bin" / "client")]),
    Client("grpc-js", "grpc_js", ("node",), build_js, lambda _: [find_tool("node"), "client.mjs"]),
    Client(
        "connect-web",
        "connect_web",
        ("node", "chromium"),
        build_web,
        lambda _: [find_tool("node"), "browser.mjs", find_tool("chromium")],
        is_browser=True,
    ),
    Client(
        "grpc-java",
        "grpc_java",
        ("javac", "mvn"),
        build_java,
        lambda folder: [find_tool("java"), "-cp", f"target/classes{os.pathsep}lib/*", "-Xmx256m", "Client"],
    ),
)


def _npm() -> list[str]:
    """npm runs by node itself: a wheel has no programs on the path."""
    node = Path(find_tool("node")).resolve()
    for place in ("lib/node_modules/npm", "share/nodejs/npm"):
        if (script := node.parents[1] / place / "bin" / "npm-cli.js").exists():
            return [str(node), str(script)]
    return [str(shutil.which("npm") or "npm")]


def _environment() -> dict[str, str]:
    """What is started finds the node that we found."""
    node = Path(find_tool("node")).parent
    return {**os.environ, "PATH": f"{node}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}


def _digest(source: Path) -> str:
    files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    digest = hashlib.sha256()
    for path in sorted([*files, *PROTO.glob("hubbub/*/v1/*.proto"), Path(__file__)]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
