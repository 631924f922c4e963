"""Turns parts of a text into the contract's messages and back."""

from collections.abc import Iterable

from hubbub.conversation.v1 import message_pb2

from hubbub_client import entities


def read_entities(pb: Iterable[message_pb2.TextEntity]) -> tuple[entities.TextEntity, ...]:
    """Returns the parts of a text; kinds newer than this client are words."""
    return tuple(found for one in pb if (found := _read_entity(one)) is not None)


def _read_entity(pb: message_pb2.TextEntity) -> entities.TextEntity | None:
    start, length = pb.start, pb.length
    match pb.WhichOneof("kind"):
        case "user_mention":
            return entities.UserMention(start=start, length=length, user_id=pb.user_mention.user_id)
        case "broadcast_mention":
            is_here = pb.broadcast_mention.audience == message_pb2.BROADCAST_AUDIENCE_HERE
            audience = entities.BroadcastAudience.HERE if is_here else entities.BroadcastAudience.ALL
            return entities.BroadcastMention(start=start, length=length, audience=audience)
        case "code":
            return entities.Code(start=start, length=length, is_block=pb.code.block, language=pb.code.language)
        case "link":
            return entities.Link(start=start, length=length, url=pb.link.url)
        case _:
            return None


def write_text(text: str, parts: Iterable[entities.TextEntity]) -> message_pb2.Content:
    """Returns the content of a message."""
    return message_pb2.Content(text=message_pb2.TextContent(text=text, entities=map(_write_entity, parts)))


def _write_entity(entity: entities.TextEntity) -> message_pb2.TextEntity:
    pb = message_pb2.TextEntity(start=entity.start, length=entity.length)
    match entity:
        case entities.UserMention(user_id=user_id):
            pb.user_mention.user_id = user_id
        case entities.BroadcastMention(audience=audience):
            is_here = audience is entities.BroadcastAudience.HERE
            pb.broadcast_mention.audience = (
                message_pb2.BROADCAST_AUDIENCE_HERE if is_here else message_pb2.BROADCAST_AUDIENCE_ALL
            )
        case entities.Code(is_block=is_block, language=language):
            pb.code.CopyFrom(message_pb2.Code(block=is_block, language=language))
        case entities.Link(url=url):
            pb.link.url = url
    return pb


def is_mentioned(message: message_pb2.Message, user_id: str) -> bool:
    """Tells whether a message mentions a user, by id or with everybody."""
    return any(
        entity.user_mention.user_id == user_id or entity.WhichOneof("kind") == "broadcast_mention"
        for entity in message.content.text.entities
    )
