"""The settings tree."""

import os
import re

import pytest
from pydantic import BaseModel, ValidationError

from hubbub_server import config
from hubbub_server.config import BadSettings, Settings, read_settings

SECTIONS = [cls for cls in vars(config).values() if isinstance(cls, type) and issubclass(cls, BaseModel)]
NUMBER_UNITS = re.compile(r"seconds|bytes|days|[Pp]ort|[Ss]treams of|[Cc]opies|[Rr]ecords")


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


def test_settings_cannot_be_changed_after_the_start() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1
