"""The settings tree."""

import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from hubbub_server import config
from hubbub_server.config import BadSettings, Settings, read_settings

SECTIONS = [cls for cls in vars(config).values() if isinstance(cls, type) and issubclass(cls, BaseModel)]
NUMBER_UNITS = re.compile(r"seconds|bytes|days|[Pp]ort|[Ss]treams of|[Cc]opies|[Rr]ecords|[Mm]embers")


@pytest.fixture(autouse=True)
def no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HUBBUB_"):
            monkeypatch.delenv(name)


def test_every_field_has_a_default_and_says_what_it_is() -> None:
    Settings()
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            if field.annotation in (int, float):
                assert NUMBER_UNITS.search(field.description), f"{section.__name__}.{name} has no unit"


def test_levels_of_a_name_are_parted_by_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBBUB_PORT", "8081")
    monkeypatch.setenv("HUBBUB_NATS__SERVERS", '["nats://one:1", "nats://two:2"]')
    monkeypatch.setenv("HUBBUB_NATS__REPLICAS", "3")
    settings = Settings()
    assert settings.port == 8081
    assert settings.nats.servers == ["nats://one:1", "nats://two:2"]
    assert settings.nats.replicas == 3
    assert settings.nats.shards == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HUBBUB_PORT", "65536"),
        ("HUBBUB_PORT", "http"),
        ("HUBBUB_NATS__SHARDS", "0"),
        ("HUBBUB_NATS__SHARD", "8"),
        ("HUBBUB_NODE__DRAIN_TIMEOUT_S", "0"),
        ("HUBBUB_REDIS__URL", "127.0.0.1:6379"),
    ],
)
def test_a_bad_value_or_an_unknown_name_in_a_section_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=f"^{name}: "):
        read_settings()


def test_a_list_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBBUB_NATS__SERVERS", "nats://one")
    with pytest.raises(BadSettings, match="nats"):
        read_settings()


def test_a_variable_may_be_a_file_of_its_name_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "HUBBUB_NATS__SERVERS").write_text('["nats://hubbub:secret@nats-1:4222"]\n')
    (tmp_path / "HUBBUB_REDIS__URL").write_text("redis://:secret@valkey:6379/0\n")
    (tmp_path / "HUBBUB_NATS__REPLICAS").write_text("5\n")
    (tmp_path / "signing_key.pem").write_text("another's business")
    monkeypatch.setenv("HUBBUB_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("HUBBUB_NATS__REPLICAS", "3")

    settings = read_settings()

    assert settings.nats.servers == ["nats://hubbub:secret@nats-1:4222"]
    assert settings.redis.url == "redis://:secret@valkey:6379/0"
    assert settings.nats.replicas == 3


def test_a_folder_of_files_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HUBBUB_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(BadSettings, match="nowhere"):
        read_settings()


def test_a_file_with_a_bad_value_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "HUBBUB_NATS__SHARDS").write_text("0\n")
    monkeypatch.setenv("HUBBUB_SECRETS_DIR", str(tmp_path))
    with pytest.raises(BadSettings, match=r"^HUBBUB_NATS__SHARDS: "):
        read_settings()


def test_settings_cannot_be_changed_after_the_start() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1
