"""Stored bytes, frames and errors are what they were."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2
from hubbub.chat.v1 import chat_service_pb2
from hubbub.errors.v1 import error_reason_pb2

from hubbub_server.app import frames
from hubbub_server.domain import errors, events
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from hubbub_server.wire.status import is_told, status_of
from tests.golden.samples import ERRORS, FOLDER, FRAMES, OLD_STATES, RECORDS, STATES, error_table, golden_files

_GOLDEN = golden_files()
_README = FOLDER.parents[1] / "proto" / "README.md"


@pytest.mark.parametrize("path", _GOLDEN, ids=lambda path: path.stem)
def test_the_bytes_are_what_they_were(path: Path) -> None:
    """A change of a record is a change of what is stored: old logs must still be read."""
    assert path.read_bytes() == _GOLDEN[path]


@pytest.mark.parametrize("name", RECORDS)
def test_stored_records_are_read_as_what_they_were(name: str) -> None:
    body = (FOLDER / "records" / f"{name}.bin").read_bytes()

    assert tuple(decoded.event for decoded in ProtoRecordCodec().decode(body)) == RECORDS[name]


@pytest.mark.parametrize("name", [*STATES, *OLD_STATES])
def test_stored_states_are_read_as_what_they_were(name: str) -> None:
    """They lie in STATE_k for as long as nobody speaks in the topic."""
    encoded = (FOLDER / "states" / f"{name}.bin").read_bytes()

    assert ProtoSnapshotCodec().decode(encoded) == {**STATES, **OLD_STATES}[name]


def test_no_golden_file_is_left_over() -> None:
    old = {FOLDER / "states" / f"{name}.bin" for name in OLD_STATES}

    assert {path for path in FOLDER.glob("*/*.bin")} == set(_GOLDEN) | old


def test_every_kind_of_event_has_a_record() -> None:
    sampled = {type(event.kind) for record in RECORDS.values() for event in record}

    assert sampled == set(get_args(events.EventKind)) - {events.UnknownKind}


def test_every_kind_of_frame_has_a_sample() -> None:
    controls = {
        chat_service_pb2.ConnectResponse.FromString(_GOLDEN[FOLDER / "frames" / f"{name}.bin"]).frame.WhichOneof(
            "control"
        )
        for name in FRAMES
    }

    assert {type(frame) for frame in FRAMES.values()} == {*get_args(frames.Control), frames.Events, frames.Signals}
    assert len(controls) == len(get_args(frames.Control)) + 1


# ---- errors


def test_the_table_of_errors_is_what_it_was() -> None:
    assert json.loads((FOLDER / "errors.json").read_text()) == error_table()


def _subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))


def test_every_error_of_domain_and_ports_is_in_the_table() -> None:
    ours = {
        kind.__name__
        for kind in _subclasses(errors.HubbubError)
        if kind.__module__.startswith(("hubbub_server.domain", "hubbub_server.ports"))
    }

    assert ours == set(ERRORS) - {"a fault"}


def test_every_reason_is_given_by_some_error_and_each_error_has_exactly_one() -> None:
    reasons = []
    for name, status in error_table().items():
        infos = [d for d in status["details"] if d["@type"].endswith("ErrorInfo")]  # type: ignore[index]  # JSON
        assert len(infos) == 1, name
        assert infos[0]["domain"] == "hubbub"
        reasons.append(infos[0]["reason"])

    assert set(reasons) == set(error_reason_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}


def test_what_is_not_ours_tells_nothing() -> None:
    for name in ("HubbubError", "NotFound", "a fault"):
        assert not is_told(ERRORS[name])
        assert "told to nobody" not in str(status_of(ERRORS[name]))


def test_the_readme_of_the_contract_has_the_same_codes() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_, ]+) \|", _README.read_text(), re.MULTILINE)
    told = {f"ERROR_REASON_{reason}": set(codes.replace(" ", "").split(",")) for reason, codes in rows}
    given: dict[str, set[str]] = {}
    for error in ERRORS.values():
        status = status_of(error)
        details = MessageToDict(status)["details"]
        reason = next(detail["reason"] for detail in details if "reason" in detail)
        given.setdefault(reason, set()).add(code_pb2.Code.Name(status.code))

    assert given == told
