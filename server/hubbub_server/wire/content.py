"""What messages say, to protobuf and back; with what a client says and what was stored alike."""

from typing import assert_never

from hubbub.conversation.v1 import message_pb2

from hubbub_server.domain.ids import TopicId, UserId
from hubbub_server.domain.message import (
    BroadcastAudience,
    BroadcastMention,
    Code,
    Content,
    EntityKind,
    Link,
    TextContent,
    TextEntity,
    UnknownContent,
    UnknownEntity,
    UserMention,
)

_AUDIENCE_TO_PB = {
    BroadcastAudience.ALL: message_pb2.BROADCAST_AUDIENCE_ALL,
    BroadcastAudience.HERE: message_pb2.BROADCAST_AUDIENCE_HERE,
}
_AUDIENCE_FROM_PB = {number: audience for audience, number in _AUDIENCE_TO_PB.items()}


def fill_content(pb: message_pb2.Content, content: Content) -> None:
    """Makes `pb` say content as it is committed. Raises ValueError for what only travels."""
    match content:
        case TextContent(text=text, entities=entities):
            pb.text.text = text
            if entities:
                pb.text.entities.extend(map(_entity_to_pb, entities))
        case UnknownContent():
            raise ValueError("unknown content cannot be encoded again")
        case _:
            assert_never(content)


def _entity_to_pb(entity: TextEntity) -> message_pb2.TextEntity:
    pb = message_pb2.TextEntity(start=entity.start, length=entity.length)
    match entity.kind:
        case UserMention(user_id=user_id):
            pb.user_mention.user_id = user_id
        case BroadcastMention(audience=audience):
            pb.broadcast_mention.audience = _AUDIENCE_TO_PB[audience]
        case Code(block=block, language=language):
            pb.code.CopyFrom(message_pb2.Code(block=block, language=language))
        case Link(url=url):
            pb.link.url = url
        case UnknownEntity():
            raise ValueError("an unknown entity cannot be encoded again")
        case _:
            assert_never(entity.kind)
    return pb


def content_from_pb(pb: message_pb2.Content) -> Content:
    """Reads content; nothing of it is checked here, and what this version does not know is Unknown…."""
    if pb.WhichOneof("kind") != "text":
        return UnknownContent()
    return TextContent(text=pb.text.text, entities=tuple(map(_entity_from_pb, pb.text.entities)))


def _entity_from_pb(pb: message_pb2.TextEntity) -> TextEntity:
    return TextEntity(start=pb.start, length=pb.length, kind=_entity_kind_from_pb(pb))


def _entity_kind_from_pb(pb: message_pb2.TextEntity) -> EntityKind:
    match pb.WhichOneof("kind"):
        case "user_mention":
            return UserMention(user_id=UserId(TopicId(pb.user_mention.user_id)))
        case "broadcast_mention":
            audience = _AUDIENCE_FROM_PB.get(pb.broadcast_mention.audience)
            return UnknownEntity() if audience is None else BroadcastMention(audience=audience)
        case "code":
            return Code(block=pb.code.block, language=pb.code.language)
        case "link":
            return Link(url=pb.link.url)
        case None:
            return UnknownEntity()
