"""The folder of one instance: who has it, its secrets, and where everything listens.

lock          held while an instance runs; the kernel lets it go when the instance dies, however it dies
run.json      ports and process ids of the running instance
secrets/      made once, readable by the owner only
nats/         the log          store.db, cassandra/   the read models          config/   rendered at each start
log/          one file a program, bounded
hold/         a file with the name of a program keeps it from being started
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_LOG_MAX_BYTES: Final = 32 * 1024 * 1024
_LOG_KEPT_BYTES: Final = 8 * 1024 * 1024


class FolderTaken(Exception):
    """Another instance runs on this folder."""


class DataFolder:
    """Names the files of an instance. Makes the folders, mode 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.nats = self.path / "nats"
        self.store = self.path / "store.db"
        self.cassandra = self.path / "cassandra"
        self.secrets = self.path / "secrets"
        self.config = self.path / "config"
        self._settings = self.config / "settings.json"
        self.logs = self.path / "log"
        self._hold = self.path / "hold"
        self._run = self.path / "run.json"
        for folder in (self.path, self.nats, self.cassandra, self.secrets, self.config, self.logs, self._hold):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process.

        Raises:
            FolderTaken: another process holds it.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise FolderTaken(f"{self.path} is in use by process {holder}; give --data another folder") from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            try:
                yield
            finally:
                self._run.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def log_of(self, name: str) -> Path:
        """Returns the log file of a program."""
        return self.logs / f"{name}.log"

    def hold_of(self, name: str) -> Path:
        """Returns the file that keeps a program from being started while it exists."""
        return self._hold / name

    def bound_logs(self) -> None:
        """Cuts logs above 32 MiB; their last 8 MiB are kept in `<name>.log.1`. Lines written meanwhile may be lost."""
        for path in self.logs.glob("*.log"):
            size_bytes = path.stat().st_size
            if size_bytes <= _LOG_MAX_BYTES:
                continue
            with path.open("rb") as log:
                log.seek(size_bytes - _LOG_KEPT_BYTES)
                path.with_suffix(".log.1").write_bytes(log.read(_LOG_KEPT_BYTES))
            os.truncate(path, 0)

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Replaces run.json in one step."""
        self.write(self._run, json.dumps(run, indent=2) + "\n")

    def read_run(self) -> dict[str, Any]:
        """Reads run.json. Raises FileNotFoundError while no instance runs."""
        run: dict[str, Any] = json.loads(self._run.read_text())
        return run

    def write_settings(self, environment: Mapping[str, str]) -> None:
        """Keeps the settings that all programs of the instance share."""
        self.write(self._settings, json.dumps(environment, indent=2) + "\n")

    def read_settings(self) -> dict[str, str]:
        """Reads the settings of the running instance, as environment. Raises FileNotFoundError while none runs."""
        self.read_run()
        environment: dict[str, str] = json.loads(self._settings.read_text())
        return environment

    def write(self, path: Path, content: str | bytes) -> None:
        """Replaces a file in one step, mode 0600: readers see the old content or the new."""
        raw = content.encode() if isinstance(content, str) else content
        draft = path.with_name(path.name + ".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
        draft.replace(path)

    def make_secrets(self) -> None:
        """Makes the secrets that are missing; those that are there stay: tokens and ids depend on them."""
        for name, content in (
            ("signing_key.pem", _new_signing_key),
            ("refresh_key", _new_secret),
            ("id_key", _new_secret),
            ("nats_password", _new_secret),
            ("valkey_password", _new_secret),
            ("demo_password", _new_secret),
        ):
            if not (self.secrets / name).exists():
                self.write(self.secrets / name, content())

    def read_secret(self, name: str) -> str:
        """Reads a secret as text."""
        return (self.secrets / name).read_text().strip()


def _new_secret() -> str:
    return secrets.token_hex(32) + "\n"


def _new_signing_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
