"""Serves hubbub.presence.v1.PresenceService. Streams carry bytes, and each transport has its own pump for them."""

from hubbub.presence.v1 import presence_service_pb2 as pb
from hubbub.presence.v1 import presence_service_pb2_grpc

from hubbub_server.app.presence import Presence
from hubbub_server.rpc.call import current_call
from hubbub_server.wire.presence import (
    presence_to_pb,
    read_subscribe_request,
    read_watch_request,
    status_from_pb,
    status_to_pb,
)
from hubbub_server.wire.requests import required


class PresenceServicer(presence_service_pb2_grpc.PresenceServiceServicer):
    """Tells presence."""

    def __init__(self, presence: Presence) -> None:
        """Takes the use cases."""
        self._presence = presence

    # The generated base knows only generators; grpc.aio also takes coroutines that read and write themselves.

    async def Watch(self, request_iterator: object, context: object) -> None:  # type: ignore[override]  # see above
        """Watches users, in both directions."""
        call = current_call()
        watch = self._presence.streams.open(call.authenticated)
        await call.pump(call, watch, takes_frames=True, read=read_watch_request)

    async def Subscribe(self, request: pb.SubscribeRequest, context: object) -> None:  # type: ignore[override]  # see above
        """Watches a fixed set of users."""
        call = current_call()
        command = read_subscribe_request(request)
        watch = self._presence.streams.open(call.authenticated)
        watch.receive(command)
        await call.pump(call, watch, takes_frames=False)

    async def SetPresence(self, request: pb.SetPresenceRequest, context: object) -> pb.SetPresenceResponse:
        """Sets what the caller shows by hand."""
        status = status_from_pb(request.presence)
        await self._presence.status.set(current_call().authenticated.user_id, status)
        return pb.SetPresenceResponse(presence=status_to_pb(status))

    async def GetPresence(self, request: pb.GetPresenceRequest, context: object) -> pb.GetPresenceResponse:
        """Gets the presence of one user."""
        caller_id = current_call().authenticated.user_id
        user_id = required("user_id", request.user_id)
        is_own = user_id in ("me", caller_id)
        (report,) = await self._presence.reader.list(caller_id, [caller_id if is_own else user_id])
        own = status_to_pb(await self._presence.status.get(caller_id)) if is_own else None
        return pb.GetPresenceResponse(presence=presence_to_pb(report), own=own)

    async def ListPresence(self, request: pb.ListPresenceRequest, context: object) -> pb.ListPresenceResponse:
        """Lists the presence of several users."""
        reports = await self._presence.reader.list(current_call().authenticated.user_id, request.user_ids)
        return pb.ListPresenceResponse(presences=map(presence_to_pb, reports))

    async def GetPresenceSummary(
        self, request: pb.GetPresenceSummaryRequest, context: object
    ) -> pb.GetPresenceSummaryResponse:
        """Counts who is there in a conversation."""
        call = current_call()
        call.conversation_id = request.conversation_id[:32]  # for the log: what a client sends may be anything
        conversation_id = required("conversation_id", request.conversation_id)
        summary = await self._presence.reader.summarize(call.authenticated.user_id, conversation_id)
        return pb.GetPresenceSummaryResponse(
            member_count=summary.member_count,
            present_count=summary.present_count or 0,
            unknown=summary.present_count is None,
        )
