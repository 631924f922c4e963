"""Runs every static check, each to its end, then says which failed. No network, no servers."""

import filecmp
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scripts import gen, gen_envoy

REPO = gen.REPO
BIN = Path(sys.executable).parent
TYPED = ("server/hubbub_server", "clients/python/hubbub_client", "tests", "bench", "scripts")


def run(*command: str, cwd: Path = REPO) -> bool:
    """Runs one of the environment's programs and tells whether it succeeded."""
    program, *arguments = command
    return subprocess.run([str(BIN / program), *arguments], cwd=cwd, check=False).returncode == 0


def types() -> bool:
    """Checks types, strictly, of everything that is written by hand."""
    return run("mypy", *(name for name in TYPED if any((REPO / name).rglob("*.py"))))


def dependencies() -> bool:
    """Finds dependencies that are declared and not used, or used and not declared, for server and client."""
    server = run("deptry", "server/hubbub_server")
    client = run("deptry", "hubbub_client", cwd=REPO / "clients/python")
    return server and client


def breaking() -> bool:
    """Compares the contract with the last commit and the one before it: what clients read stays readable."""
    sound = True
    for revision in ("HEAD", "HEAD~1"):
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "contract.tar"
            command = ["git", "archive", f"--output={archive}", revision, "buf.yaml", "proto/hubbub", "proto/google"]
            if subprocess.run(command, cwd=REPO, check=False, capture_output=True).returncode != 0:
                print(f"nothing to compare with at {revision}")
                continue
            shutil.unpack_archive(archive, folder)
            archive.unlink()
            sound &= run("buf", "breaking", "--against", folder)
    return sound


def drift() -> bool:
    """Generates into a scratch folder and compares with what is committed."""
    with tempfile.TemporaryDirectory() as folder:
        proto_root, gen_root = Path(folder) / "proto", Path(folder) / "gen"
        shutil.copytree(REPO / "proto/hubbub", proto_root / "hubbub")
        gen.vendor(proto_root)
        gen.generate(proto_root, gen_root)
        stale = [
            *differences(REPO / "proto/google", proto_root / "google"),
            *differences(REPO / "proto/gen/python/hubbub", gen_root / "python/hubbub"),
        ]
        if not filecmp.cmp(REPO / "proto/gen/hubbub.pb", gen_root / "hubbub.pb", shallow=False):
            stale.append("proto/gen/hubbub.pb")
    for path, content in gen_envoy.rendered().items():
        if path.read_text(encoding="utf-8") != content:
            stale.append(path.relative_to(REPO).as_posix())
    for name in stale:
        print(f"stale: {name} (run `make gen`)")
    return not stale


def differences(committed: Path, fresh: Path) -> list[str]:
    """Lists files that are only on one side or differ, caches left out."""

    def listing(root: Path) -> set[str]:
        return {
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    def is_stale(name: str) -> bool:
        ours, theirs = committed / name, fresh / name
        return not (ours.is_file() and theirs.is_file() and filecmp.cmp(ours, theirs, shallow=False))

    return sorted(f"{committed.name}/{name}" for name in listing(committed) | listing(fresh) if is_stale(name))


CHECKS: dict[str, Callable[[], bool]] = {
    "ruff check": lambda: run("ruff", "check", "."),
    "ruff format": lambda: run("ruff", "format", "--check", "."),
    "mypy": types,
    "layers": lambda: run("lint-imports"),
    "dependencies": dependencies,
    "buf lint": lambda: run("buf", "lint"),
    "buf format": lambda: run("buf", "format", "--diff", "--exit-code", "--path", "proto/hubbub"),
    "buf breaking": breaking,
    "generated code": drift,
    "dockerfile": lambda: run("hadolint", "Dockerfile"),
    "contract documents": lambda: run("python", "-m", "pytest", "-q", "tests/proto"),
}


def main(names: list[str]) -> int:
    """Runs the named checks, or all; 0 when all passed."""
    failed = []
    for name in names or CHECKS:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        if not CHECKS[name]():
            failed.append(name)
        print(f"   {time.monotonic() - started:.1f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
