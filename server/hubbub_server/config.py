"""The settings tree: read once, by cli and main, from the environment.

Every field has a default that runs in development. Names are `HUBBUB_` and the path with two underscores between
levels: `HUBBUB_PORT=8081`, `HUBBUB_NATS__REPLICAS=3`; lists are JSON. A variable may also be a file of its name in the
folder HUBBUB_SECRETS_DIR, for what must not be in an environment; the environment wins. `hubbub up` sets what its
programs need.
"""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from hubbub_server.domain.limits import GROUP_MAX_MEMBERS, TYPING_MAX_MEMBERS

_SECRETS_DIR: Final = "HUBBUB_SECRETS_DIR"
Port = Annotated[int, Field(ge=0, le=65_535)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class NatsSettings(_Section):
    """The topic log and the accounts: NATS with JetStream."""

    servers: list[str] = ["nats://127.0.0.1:4222"]
    """Addresses of all servers of one cluster, with user and password when they ask for them."""
    shards: Annotated[int, Field(ge=1, le=64)] = 8
    """Streams of the log. Fixed for the life of a cluster: stored subjects depend on it."""
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Copies of each stream: 1 in development, 3 in production."""
    shard_max_bytes: Annotated[int, Field(ge=-1)] = -1
    """Size at which a stream of the log refuses more, in bytes; -1: only the disk is the limit."""


class CqlSettings(_Section):
    """A cluster of ScyllaDB or Apache Cassandra. Its tables are made by `hubbub migrate`."""

    contact_points: list[str] = ["127.0.0.1"]
    """Addresses of some of its servers; the driver learns the others."""
    port: Port = 9_042
    """Port of CQL."""
    datacenter: str = "datacenter1"
    """The local one: where requests go, and where quorums are."""
    keyspace: str = "hubbub"
    """Name of the keyspace."""
    username: str = ""
    """Empty: the cluster asks for none."""
    password: Annotated[str, Field(repr=False)] = ""
    """The password of `username`."""
    replicas: Annotated[int, Field(ge=1, le=9)] = 1
    """Copies of each row in the datacenter, for `hubbub migrate`: 3 in production."""
    tablets: bool | None = None
    """For ScyllaDB, whether a new keyspace has tablets; leave it out for Cassandra."""


class StoreSettings(_Section):
    """The read models. Only the worker writes them."""

    kind: Literal["sqlite", "cql"] = "sqlite"
    """sqlite: one file, for one machine. cql: a cluster."""
    path: Path = Path("var/store.db")
    """SQLite file."""
    cql: CqlSettings = CqlSettings()
    """See CqlSettings."""


class RedisSettings(_Section):
    """Redis or Valkey: which nodes live. Nodes serve without it, and go on when it is away."""

    url: Annotated[str, Field(pattern=r"^((redis|rediss|unix)://.+)?$", repr=False)] = ""
    """Its address, with password and number of the database: redis://:password@127.0.0.1:6379/0. Empty: there is none;
    right for a single node."""


class AuthSettings(_Section):
    """Secrets and names of tokens."""

    secrets: Path = Path("var/secrets")
    """Folder with signing_key.pem (Ed25519), refresh_key and id_key (hex). The same on all nodes of a cluster."""
    issuer: str = "hubbub"
    """The `iss` of access tokens."""
    audience: str = "hubbub"
    """The `aud` of access tokens."""


class NodeSettings(_Section):
    """One node."""

    name: str = "node-1"
    """Names the node in logs and at the NATS server."""
    host: str = "127.0.0.1"
    """Address to listen on. gRPC without TLS: only Envoy may reach it."""
    port: Port = 50_051
    """Port of gRPC; 0 takes a free one."""
    metrics_port: Port = 9_464
    """Port of Prometheus on `host`; 0 takes a free one. It answers when the node serves."""
    announce_s: Annotated[float, Field(ge=0)] = 3.0
    """How long a node that is told to end says NOT_SERVING before it ends streams, in seconds: as long as balancers
    take to notice. A node without streams does not wait."""
    drain_timeout_s: Annotated[float, Field(gt=0)] = 15.0
    """How long streams may take to end after that, in seconds; they end over ten of them when there are many."""
    max_opening_streams: Annotated[int, Field(ge=1)] = 10_000
    """Streams of clients that may be opening at once; more are refused and told when to come again."""
    group_max_members: Annotated[int, Field(ge=2, le=10_000)] = GROUP_MAX_MEMBERS
    """Members that a group may have; the same on all nodes. Larger groups stay as they are when it is lowered."""
    typing_max_members: Annotated[int, Field(ge=0)] = TYPING_MAX_MEMBERS
    """Members up to which those of a conversation are told who types, inclusive; the same on all nodes."""
    stop_grace_s: Annotated[float, Field(gt=0)] = 3.0
    """How long other calls may take after that, in seconds."""
    reflection: bool = True
    """Whether gRPC reflection is served; switch it off in production."""


class EdgeSettings(_Section):
    """The stream edge of a node: a port beside that of gRPC, for the streaming methods alone."""

    enabled: bool = True
    """Whether nghttp2 serves the port, for a fraction of the work that grpcio has with a stream. Otherwise, and where
    ngh2 is not installed, grpcio serves it."""
    port: Port = 50_052
    """Port of the streaming methods on the node's host; 0 takes a free one."""
    peers: Literal["proxy", "strangers"] = "proxy"
    """Who connects, which bounds what one connection may use: a proxy with many clients, or clients themselves."""
    tls_certificate: Path | None = None
    """PEM file with the chain of the port's certificate; without one, TLS ends at the proxy."""
    tls_key: Path | None = None
    """PEM file with its key."""


class WorkerSettings(_Section):
    """One worker. Any number of them share the shards."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "worker-1"
    """Names the worker in logs, at the NATS server and in the table of leases; no two that run have the same."""
    lag_alarm_records: Annotated[int, Field(ge=1)] = 10_000
    """Records that a shard may be behind before that is logged as an error."""
    metrics_host: str = "127.0.0.1"
    """Address of Prometheus."""
    metrics_port: Port = 9_465
    """Port of Prometheus; 0 takes a free one. It answers when streams and schema are there."""
    log_kept_days: Annotated[float, Field(ge=2)] = 7.0
    """How many days the log keeps every record at least; older ones are trimmed when store and states have them."""
    begins_epochs: bool = False
    """Whether a log that was lost or is older than what is stored gets another epoch by itself, as `hubbub up` has it.
    Otherwise a person looks (`hubbub log verify`) and runs `hubbub log new-epoch`."""


class UpSettings(_Section):
    """What `hubbub up` alone needs."""

    cors_origins: list[str] = ["http://localhost:5173"]
    """Origins of web pages that may call, exactly: scheme, host and port."""
    nats_ports: list[Port] = []
    """Ports of the NATS servers; without one a server takes a free port."""
    node_nats_servers: list[list[str]] = []
    """NATS addresses for node 1, 2 …, instead of the servers themselves, for tests with a proxy between; "{password}"
    in one stands for the generated password."""


class Settings(BaseSettings):
    """The root."""

    model_config = SettingsConfigDict(
        env_prefix="HUBBUB_", env_nested_delimiter="__", frozen=True, use_attribute_docstrings=True
    )

    secrets_dir: Path | None = None
    """Folder with files that stand for variables; only read from the environment."""
    port: Port = 8_080
    """Envoy's port on 127.0.0.1, for `hubbub up`; 0 takes a free one."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged: this and worse."""
    nats: NatsSettings = NatsSettings()
    """See NatsSettings."""
    store: StoreSettings = StoreSettings()
    """See StoreSettings."""
    redis: RedisSettings = RedisSettings()
    """See RedisSettings."""
    auth: AuthSettings = AuthSettings()
    """See AuthSettings."""
    node: NodeSettings = NodeSettings()
    """See NodeSettings."""
    edge: EdgeSettings = EdgeSettings()
    """See EdgeSettings."""
    worker: WorkerSettings = WorkerSettings()
    """See WorkerSettings."""
    up: UpSettings = UpSettings()
    """See UpSettings."""
    clock_shifts: Path | None = None
    """For tests of wrong clocks, never in production: a folder; a file in it with the name of a node or worker holds
    the seconds by which the wall clock of that process is wrong, read each time it is asked."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Says where values come from, the strongest first; files are nested like variables."""
        files = NestedSecretsSettingsSource(
            file_secret_settings,
            secrets_dir=os.environ.get(_SECRETS_DIR) or None,
            secrets_dir_missing="error",
            secrets_nested_delimiter="__",
        )
        return init_settings, env_settings, files


class BadSettings(Exception):
    """The environment holds a value that cannot be; the text names the variables, one a line."""


def read_settings() -> Settings:
    """Reads the environment.

    Raises:
        BadSettings: a value is out of its bounds or of another type, or a section has no such field.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"HUBBUB_{'__'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in error.errors()]
        raise BadSettings("\n".join(lines)) from error
    except SettingsError as error:
        raise BadSettings(str(error)) from error
