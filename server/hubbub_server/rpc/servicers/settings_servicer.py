"""Serves hubbub.user.v1.SettingsService."""

from hubbub.user.v1 import settings_service_pb2 as pb
from hubbub.user.v1 import settings_service_pb2_grpc

from hubbub_server.app.settings import UserSettings
from hubbub_server.rpc.call import current_call
from hubbub_server.wire.preferences import conversation_preferences_to_pb, preferences_to_pb
from hubbub_server.wire.requests import required
from hubbub_server.wire.settings import read_conversation_preferences, read_preferences
from hubbub_server.wire.times import timestamp
from hubbub_server.wire.values import cursor_to_pb


class SettingsServicer(settings_service_pb2_grpc.SettingsServiceServicer):
    """Reads and changes what the caller wants."""

    def __init__(self, settings: UserSettings) -> None:
        """Takes the use cases."""
        self._settings = settings

    async def GetPreferences(self, request: pb.GetPreferencesRequest, context: object) -> pb.GetPreferencesResponse:
        """Gets what the caller wants everywhere."""
        preferences = await self._settings.preferences(current_call().authenticated.user_id)
        return pb.GetPreferencesResponse(preferences=preferences_to_pb(preferences))

    async def UpdatePreferences(
        self, request: pb.UpdatePreferencesRequest, context: object
    ) -> pb.UpdatePreferencesResponse:
        """Changes what the caller wants everywhere."""
        preferences, cursor = await self._settings.update_preferences(
            current_call().authenticated.user_id, *read_preferences(request.preferences, request.update_mask)
        )
        return pb.UpdatePreferencesResponse(preferences=preferences_to_pb(preferences), cursor=cursor_to_pb(cursor))

    async def UpdateConversationPreferences(
        self, request: pb.UpdateConversationPreferencesRequest, context: object
    ) -> pb.UpdateConversationPreferencesResponse:
        """Changes how the caller wants to hear of a conversation."""
        preferences, cursor = await self._settings.update_conversation_preferences(
            current_call().authenticated.user_id,
            _conversation_id(request.conversation_id),
            *read_conversation_preferences(request.preferences, request.update_mask),
        )
        return pb.UpdateConversationPreferencesResponse(
            preferences=conversation_preferences_to_pb(preferences), cursor=cursor_to_pb(cursor)
        )

    async def SetDraft(self, request: pb.SetDraftRequest, context: object) -> pb.SetDraftResponse:
        """Keeps a draft."""
        cursor = await self._settings.set_draft(
            current_call().authenticated.user_id, _conversation_id(request.conversation_id), request.text
        )
        return pb.SetDraftResponse(cursor=cursor_to_pb(cursor))

    async def ListDrafts(self, request: pb.ListDraftsRequest, context: object) -> pb.ListDraftsResponse:
        """Lists all drafts."""
        drafts = await self._settings.list_drafts(current_call().authenticated.user_id)
        return pb.ListDraftsResponse(
            drafts=[
                pb.Draft(conversation_id=conversation_id, text=draft.text, change_time=timestamp(draft.change_time_ms))
                for conversation_id, draft in drafts
            ]
        )

    async def BlockUser(self, request: pb.BlockUserRequest, context: object) -> pb.BlockUserResponse:
        """Blocks a user."""
        cursor = await self._settings.block(current_call().authenticated.user_id, required("user_id", request.user_id))
        return pb.BlockUserResponse(cursor=cursor_to_pb(cursor))

    async def UnblockUser(self, request: pb.UnblockUserRequest, context: object) -> pb.UnblockUserResponse:
        """Blocks a user no longer."""
        cursor = await self._settings.unblock(
            current_call().authenticated.user_id, required("user_id", request.user_id)
        )
        return pb.UnblockUserResponse(cursor=cursor_to_pb(cursor))

    async def ListBlockedUsers(
        self, request: pb.ListBlockedUsersRequest, context: object
    ) -> pb.ListBlockedUsersResponse:
        """Lists whom the caller blocks."""
        user_ids, next_page_token = await self._settings.list_blocked(
            current_call().authenticated.user_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListBlockedUsersResponse(user_ids=user_ids, next_page_token=next_page_token)


def _conversation_id(text: str) -> str:
    current_call().conversation_id = text[:32]
    return required("conversation_id", text)
