"""What chance does to a conversation: to its frames, and to its bytes."""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

_HEADER_BYTES: Final = 9
_TYPES: Final = (*range(11), 0x10, 0xFA)
_IDS: Final = (0, 1, 2, 3, 5, 7, 99, 2**31 - 1, 2**31 + 1)
_LENGTHS: Final = (0, 1, 4, 5, 8, 16_384, 16_385, 2**24 - 1)
_TIMES: Final = (2, 3, 30, 300, 3_000)
_FLOOD_BYTES: Final = 30_000
_READS_MAX: Final = 3_000

Pieces = list[bytes]


def mutate(chance: random.Random, pieces: Pieces) -> Pieces:
    """Returns a conversation that was changed in no, one or a few places; the first piece is the preface."""
    pieces = list(pieces)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
        chance.choice(_MUTATIONS)(chance, pieces)
    if chance.random() < 0.02:
        return [chance.randbytes(chance.choice((1, 24, 200, 3_000)))]
    if chance.random() < 0.03:
        return [*pieces[:1], chance.randbytes(chance.choice((9, 100, 2_000)))]
    return pieces


def cut(chance: random.Random, data: bytes) -> list[bytes]:
    """Cuts bytes into reads, in one of many ways."""
    step = chance.choice((1, 2, 3, 5, 7, 8, 9, 10, 23, 24, 25, 100, 1_000, 0, 0, 0, 0))
    if step:
        step = max(step, len(data) // _READS_MAX)
        return [data[start : start + step] for start in range(0, len(data), step)]
    cuts = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(chance.choice((1, 3, 10, 50))))})
    return [data[start:end] for start, end in pairwise(cuts)]


def _pick(chance: random.Random, pieces: Pieces) -> int:
    return chance.randrange(len(pieces))


def _drop(chance: random.Random, pieces: Pieces) -> None:
    if len(pieces) > 1:
        del pieces[_pick(chance, pieces)]


def _repeat(chance: random.Random, pieces: Pieces) -> None:
    at = _pick(chance, pieces)
    times = min(chance.choice(_TIMES), max(2, _FLOOD_BYTES // max(1, len(pieces[at]))))
    pieces[at:at] = [pieces[at]] * times


def _swap(chance: random.Random, pieces: Pieces) -> None:
    one, other = _pick(chance, pieces), _pick(chance, pieces)
    pieces[one], pieces[other] = pieces[other], pieces[one]


def _edit_header(chance: random.Random, pieces: Pieces) -> None:
    """Changes length, type, flags or stream of a frame."""
    at = _pick(chance, pieces)
    frame = bytearray(pieces[at])
    if len(frame) < _HEADER_BYTES:
        return
    part = chance.randrange(4)
    if part == 0:
        near = (len(frame) - _HEADER_BYTES + chance.choice((-1, 1))) % 2**24
        frame[0:3] = chance.choice((*_LENGTHS, near, near)).to_bytes(3)
    elif part == 1:
        frame[3] = chance.choice(_TYPES)
    elif part == 2:
        frame[4] ^= 1 << chance.randrange(8)
    else:
        frame[5:9] = chance.choice(_IDS).to_bytes(4)
    pieces[at] = bytes(frame)


def _edit_payload(chance: random.Random, pieces: Pieces) -> None:
    """Puts other bytes into a frame and keeps its length right."""
    at = _pick(chance, pieces)
    head, payload = pieces[at][:_HEADER_BYTES], bytearray(pieces[at][_HEADER_BYTES:])
    if len(head) < _HEADER_BYTES:
        return
    where = chance.randrange(len(payload) + 1)
    payload[where : where + chance.choice((0, 1, 4))] = chance.randbytes(chance.choice((0, 1, 1, 4, 50)))
    pieces[at] = len(payload).to_bytes(3) + head[3:] + payload


def _insert(chance: random.Random, pieces: Pieces) -> None:
    """Puts in a frame of any kind."""
    payload = chance.randbytes(chance.choice((0, 0, 1, 4, 5, 6, 8, 12, 100)))
    head = len(payload).to_bytes(3) + bytes((chance.choice(_TYPES), chance.choice((0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF))))
    pieces.insert(1 + _pick(chance, pieces), head + chance.choice(_IDS).to_bytes(4) + payload)


def _flip_bits(chance: random.Random, pieces: Pieces) -> None:
    at = _pick(chance, pieces)
    piece = bytearray(pieces[at])
    for _ in range(chance.choice((1, 1, 2, 8)) if piece else 0):
        piece[chance.randrange(len(piece))] ^= 1 << chance.randrange(8)
    pieces[at] = bytes(piece)


def _cut_off(chance: random.Random, pieces: Pieces) -> None:
    at = _pick(chance, pieces)
    pieces[at] = pieces[at][: chance.randrange(len(pieces[at]) + 1)]


def _stop(chance: random.Random, pieces: Pieces) -> None:
    del pieces[1 + _pick(chance, pieces) :]


_MUTATIONS: Final[Sequence[Callable[[random.Random, Pieces], None]]] = (
    _drop,
    _repeat,
    _swap,
    _edit_header,
    _edit_header,
    _edit_payload,
    _edit_payload,
    _insert,
    _insert,
    _flip_bits,
    _cut_off,
    _stop,
)
