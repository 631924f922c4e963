"""The contract says what it does: every element is commented, every reason is explained to client authors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hubbub.auth.v1 import auth_service_pb2
from hubbub.chat.v1 import chat_service_pb2, frame_pb2, marker_service_pb2
from hubbub.conversation.v1 import conversation_service_pb2
from hubbub.errors.v1 import error_reason_pb2
from hubbub.history.v1 import history_service_pb2
from hubbub.presence.v1 import presence_service_pb2
from hubbub.user.v1 import settings_service_pb2, user_service_pb2

REPO = Path(__file__).resolve().parents[2]
PROTO = REPO / "proto"
GUIDE = (PROTO / "README.md").read_text(encoding="utf-8")
SOURCES = sorted((PROTO / "hubbub").rglob("*.proto"))

REASONS = [name for name in error_reason_pb2.ErrorReason.keys() if name != "ERROR_REASON_UNSPECIFIED"]  # noqa: SIM118  # not a dict
GOODBYES = [name for name in frame_pb2.GoodbyeReason.keys() if name != "GOODBYE_REASON_UNSPECIFIED"]  # noqa: SIM118  # not a dict
METHODS: list[MethodDescriptor] = [
    method
    for module in (
        *(auth_service_pb2, user_service_pb2, settings_service_pb2, conversation_service_pb2),
        *(chat_service_pb2, marker_service_pb2, history_service_pb2, presence_service_pb2),
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def test_every_service_file_is_looked_at_here() -> None:
    assert {method.containing_service.file.name for method in METHODS} == {
        path.relative_to(PROTO).as_posix() for path in SOURCES if path.name.endswith("_service.proto")
    }


@pytest.mark.parametrize("reason", REASONS)
def test_guide_explains_every_reason_in_a_row_of_its_table(reason: str) -> None:
    row = rf"^\| `{reason.removeprefix('ERROR_REASON_')}` \| [A-Z_]+.* \| .+ \| .+ \| .+ \|$"

    assert re.search(row, GUIDE, re.MULTILINE)


@pytest.mark.parametrize("reason", GOODBYES)
def test_guide_explains_every_goodbye(reason: str) -> None:
    row = rf"^\| `{reason.removeprefix('GOODBYE_REASON_')}` \| .+ \| .+ \|$"

    assert re.search(row, GUIDE, re.MULTILINE)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_guide_names_every_rpc(method: MethodDescriptor) -> None:
    assert f"`{method.name}`" in GUIDE or f"`{method.containing_service.name}.{method.name}`" in GUIDE


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_rpc_is_commented_and_its_errors_exist(method: MethodDescriptor) -> None:
    source = (PROTO / method.containing_service.file.name).read_text(encoding="utf-8")
    found = re.search(rf"((?:^  //.*\n)+)^  rpc {method.name}\(", source, re.MULTILINE)

    assert found
    comment = " ".join(line.strip().removeprefix("//").strip() for line in found[1].splitlines())
    assert re.match(r"[A-Z][a-z]+s ", comment), "begins with a verb in the third person"
    known = {reason.removeprefix("ERROR_REASON_") for reason in REASONS}
    named = re.search(r"Errors: ([^.]*)\.", comment)
    words = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", named[1])) if named else set()
    assert words <= known


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_unary_rpc_has_a_rest_mapping_in_the_guide(method: MethodDescriptor) -> None:
    descriptor_set = FileDescriptorSet.FromString((PROTO / "gen" / "hubbub.pb").read_bytes())
    source = (PROTO / method.containing_service.file.name).read_text(encoding="utf-8")
    rule = re.search(
        rf"rpc {method.name}\([^)]*\) returns \([^)]*\) \{{\s*option \(google\.api\.http\) = \{{\s*(\w+): \"([^\"]+)\"",
        source,
    )
    is_unary = not any(
        entry.client_streaming or entry.server_streaming
        for file in descriptor_set.file
        if file.name == method.containing_service.file.name
        for service in file.service
        if service.name == method.containing_service.name
        for entry in service.method
        if entry.name == method.name
    )

    assert (rule is not None) == is_unary
    if rule:
        assert f"`{rule[1].upper()} {rule[2]}`" in GUIDE


def test_descriptor_set_for_envoy_knows_the_details_of_errors() -> None:
    names = {file.name for file in FileDescriptorSet.FromString((PROTO / "gen" / "hubbub.pb").read_bytes()).file}

    assert "google/rpc/error_details.proto" in names
    assert "google/rpc/status.proto" in names


def test_lint_is_clean_without_exceptions() -> None:
    buf = Path(sys.executable).parent / "buf"

    result = subprocess.run([str(buf), "lint"], cwd=REPO, capture_output=True, text=True, check=False, timeout=60)

    assert (result.returncode, result.stdout) == (0, "")
    configuration = (REPO / "buf.yaml").read_text(encoding="utf-8")
    assert "except" not in configuration
    assert re.findall(r"ignore: \[(.*?)\]", configuration) == ["proto/google", "proto/google"]
    assert not [path for path in SOURCES if "buf:lint:ignore" in path.read_text(encoding="utf-8")]
