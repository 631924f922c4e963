"""Protobuf's variable-length integers, for the few places that join or split bytes without decoding them."""

_VARINT_MAX_BYTES = 5  # lengths are below 2**31


def encode_varint(number: int) -> bytes:
    """Returns a number, at least 0, as a varint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Returns the length at `start` and where it ends. Raises ValueError when the bytes are cut or it is too long."""
    number = 0
    for index, byte in enumerate(data[start : start + _VARINT_MAX_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, start + index + 1
    raise ValueError("not a length")
