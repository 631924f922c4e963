"""The streaming methods, for a transport that is not grpc.aio: the same servicers with the same layers around them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from hubbub_server.domain.errors import DeadlinePassed, InvalidField
from hubbub_server.rpc.call import Call, CallContext, Proceed, Pump
from hubbub_server.rpc.interceptors.layered import Layers
from hubbub_server.wire.requests import read_request

_REQUEST_WITHIN_S: Final = 10.0

_Request = TypeVar("_Request")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingMethod:
    """A method whose answers are a stream; with `takes_stream` its requests are one too."""

    path: str
    takes_stream: bool
    behaviour: Any
    parse: Any


class StreamingCalls:
    """All streaming methods of our services."""

    def __init__(self, servicers: Mapping[ServiceDescriptor, object], layers: Layers) -> None:
        """Takes who serves each service."""
        self._layers = layers
        methods = [
            _method_of(servicer, method)
            for service, servicer in servicers.items()
            for method in service.methods
            if method.server_streaming
        ]
        self.services = frozenset(service.full_name for service in servicers)
        """Full names of the services that have a streaming method."""
        self._methods = {method.path: method for method in methods}

    def find(self, path: str) -> StreamingMethod | None:
        """Returns the method of a path, None when it is none of these."""
        return self._methods.get(path)

    async def serve(self, method: StreamingMethod, context: CallContext, pump: Pump) -> None:
        """Serves one call to its end, or until it goes on without this task: then its transport lets it `finish`.

        Raises:
            grpc.aio.AbortError: it ended with a status, which was given to the context.
        """
        call = self._layers.call(method.path, context, is_stream=True, pump=pump)
        await self._layers.serve(call, partial(_behave, method, call))

    async def finish(self, call: Call, behave: Proceed) -> None:
        """Serves the rest of a call that went on; raises as `serve` does."""
        await self._layers.finish(call, behave)


def _method_of(servicer: object, method: MethodDescriptor) -> StreamingMethod:
    service = method.containing_service
    assert service is not None  # noqa: S101  # the descriptor came from one
    request = message_factory.GetMessageClass(method.input_type)
    return StreamingMethod(
        path=f"/{service.full_name}/{method.name}",
        takes_stream=method.client_streaming,
        behaviour=getattr(servicer, method.name),
        parse=request.FromString,
    )


async def _behave(method: StreamingMethod, call: Call) -> None:
    request: Any = None
    if not method.takes_stream:
        request = await read_only_request(call.context, method.parse)
    await method.behaviour(request, call.context)


async def read_only_request(context: CallContext, parse: Callable[[bytes], _Request]) -> _Request:
    """Reads the request of a method that takes one.

    Raises:
        InvalidField: there is none, or it is malformed.
        DeadlinePassed: it did not come in time.
    """
    try:
        async with asyncio.timeout(_REQUEST_WITHIN_S):
            message = await context.read()
    except TimeoutError as exc:
        raise DeadlinePassed("no request came in time") from exc
    if message is grpc.aio.EOF:
        raise InvalidField("request", "one message")
    return read_request(parse, message)
