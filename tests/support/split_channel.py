"""Channels that are two, as by Envoy: streaming methods go to a node's stream edge, all others to its port of gRPC."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc.aio
import pytest


class SplitChannel:
    """Stands for the channel that stubs are made on."""

    def __init__(self, others: grpc.aio.Channel, streams: grpc.aio.Channel) -> None:
        """Takes the channels; closes both."""
        self._channels = (others, streams)
        self.unary_unary = others.unary_unary
        self.unary_stream = streams.unary_stream
        self.stream_unary = others.stream_unary
        self.stream_stream = streams.stream_stream

    async def close(self, grace: float | None = None) -> None:
        """Closes both."""
        await asyncio.gather(*(channel.close(grace) for channel in self._channels))


@contextmanager
def split_channels(streams_at: Mapping[str, str]) -> Iterator[None]:
    """Within the block, a channel that is opened to one of these addresses has its streams at the address beside it."""
    open_channel = grpc.aio.insecure_channel

    def open_split(target: str, **options: Any) -> Any:
        channel = open_channel(target, **options)
        if target not in streams_at:
            return channel
        return SplitChannel(channel, open_channel(streams_at[target], **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpc.aio, "insecure_channel", open_split)
        yield
