"""The contract as Envoy needs it, taken from the generated code: it cannot be out of step, and needs no path."""

from collections.abc import Iterable, Iterator

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from hubbub.auth.v1 import auth_service_pb2
from hubbub.chat.v1 import chat_service_pb2, marker_service_pb2
from hubbub.conversation.v1 import conversation_service_pb2
from hubbub.errors.v1 import error_reason_pb2
from hubbub.history.v1 import history_service_pb2
from hubbub.presence.v1 import presence_service_pb2
from hubbub.user.v1 import settings_service_pb2, user_service_pb2

_SERVICES = (
    auth_service_pb2.DESCRIPTOR,
    chat_service_pb2.DESCRIPTOR,
    conversation_service_pb2.DESCRIPTOR,
    history_service_pb2.DESCRIPTOR,
    marker_service_pb2.DESCRIPTOR,
    presence_service_pb2.DESCRIPTOR,
    settings_service_pb2.DESCRIPTOR,
    user_service_pb2.DESCRIPTOR,
)
# Without these the details of an error have no JSON form, and the whole error no body.
_DETAILS = (error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR, error_reason_pb2.DESCRIPTOR)


def descriptor_set() -> bytes:
    """Returns a serialized FileDescriptorSet of all services, of what they import and of error details."""
    files = descriptor_pb2.FileDescriptorSet()
    for each in _with_imports((*_SERVICES, *_DETAILS)):
        each.CopyToProto(files.file.add())
    return files.SerializeToString(deterministic=True)


def service_names() -> list[str]:
    """Returns the full names of all services."""
    return [service.full_name for each in _SERVICES for service in each.services_by_name.values()]


def streaming_paths() -> list[str]:
    """Returns the HTTP paths of all methods that stream in some direction."""
    return [
        f"/{method.containing_service.full_name}/{method.name}"
        for method in _methods()
        if method.client_streaming or method.server_streaming
    ]


def _methods() -> Iterator[MethodDescriptor]:
    for each in _SERVICES:
        for service in each.services_by_name.values():
            yield from service.methods


def _with_imports(files: Iterable[FileDescriptor]) -> list[FileDescriptor]:
    """Returns files in an order in which each comes after its imports."""
    found: dict[str, FileDescriptor] = {}

    def visit(each: FileDescriptor) -> None:
        for imported in each.dependencies:
            visit(imported)
        found.setdefault(each.name, each)

    for each in files:
        visit(each)
    return list(found.values())
