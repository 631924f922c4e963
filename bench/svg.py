"""Pictures of figures, as small SVG files that are the same for the same figures."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_WIDTH: Final = 760
_TEXT: Final = 'font-family="sans-serif" font-size="12"'
_COLOURS: Final = ("#3465a4", "#c17d11", "#73a839", "#a03a5a", "#666666")


def bars(title: str, values: Mapping[str, float], *, unit: str, goal: float | None = None) -> str:
    """Draws a bar for each value, and a line at the goal."""
    largest = max([*values.values(), goal or 0.0, 1e-9])
    left, room = 190, _WIDTH - 290
    parts = []
    for index, (name, value) in enumerate(values.items()):
        top = 34 + index * 26
        width = value / largest * room
        parts += [
            f'<text x="{left - 8}" y="{top + 14}" text-anchor="end" {_TEXT}>{escape(name)}</text>',
            f'<rect x="{left}" y="{top}" width="{width:.1f}" height="20" fill="{_COLOURS[index % len(_COLOURS)]}"/>',
            f'<text x="{left + width + 6:.1f}" y="{top + 14}" {_TEXT}>{value:g} {escape(unit)}</text>',
        ]
    height = 44 + len(values) * 26
    if goal is not None:
        at = left + goal / largest * room
        parts.append(f'<line x1="{at:.1f}" y1="28" x2="{at:.1f}" y2="{height - 8}" stroke="#cc0000"/>')
    return _picture(title, height, parts)


def curve(title: str, points: Mapping[str, float], *, unit: str) -> str:
    """Draws a line over values at even distances, from 0 up; each value is written at its point."""
    largest = max([*points.values(), 1e-9])
    step = (_WIDTH - 160) / max(len(points) - 1, 1)
    places = [(80 + index * step, 200 - value / largest * 140) for index, value in enumerate(points.values())]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [
        f'<polyline points="{line}" fill="none" stroke="{_COLOURS[0]}" stroke-width="2"/>',
        f'<line x1="60" y1="200" x2="{_WIDTH - 60}" y2="200" stroke="#888888"/>',
    ]
    for (x, y), (name, value) in zip(places, points.items(), strict=True):
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_COLOURS[0]}"/>',
            f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle" {_TEXT}>{value:g} {escape(unit)}</text>',
            f'<text x="{x:.1f}" y="218" text-anchor="middle" {_TEXT}>{escape(name)}</text>',
        ]
    return _picture(title, 230, parts)


def flames(title: str, stacks: Mapping[str, int], *, least_share: float = 0.004) -> str:
    """Draws a flame graph: the width of a box is the share of samples in which a function was on the stack there.

    `stacks` are samples by stack, outermost function first, `;` between.
    """
    total = sum(stacks.values())
    rows = [(stack.split(";"), count / total) for stack, count in sorted(stacks.items())]
    boxes: list[tuple[int, float, float, str]] = []
    _stack(rows, 0, 0.0, least_share, boxes)
    depth = 1 + max((level for level, *_ in boxes), default=0)
    height = 34 + depth * 17
    parts = []
    for level, start, share, name in boxes:
        x, width, y = start * _WIDTH, share * _WIDTH, height - (level + 1) * 17 - 4
        colour = _COLOURS[sum(name.encode()) % len(_COLOURS)]
        label = escape(name[: int(width / 6)]) if width > 24 else ""
        parts.append(
            f'<g><title>{escape(name)} {share:.1%}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="16" '
            f'fill="{colour}" fill-opacity="0.45" stroke="#ffffff"/>'
            f'<text x="{x + 2:.1f}" y="{y + 12}" font-family="sans-serif" font-size="10">{label}</text></g>'
        )
    return _picture(title, height, parts)


def _stack(
    rows: Sequence[tuple[list[str], float]],
    level: int,
    start: float,
    least_share: float,
    boxes: list[tuple[int, float, float, str]],
) -> None:
    """Adds the boxes of a level and of all above it."""
    groups: dict[str, list[tuple[list[str], float]]] = {}
    for row in rows:
        if len(row[0]) > level:
            groups.setdefault(row[0][level], []).append(row)
    for name, members in groups.items():
        share = sum(each[1] for each in members)
        if share >= least_share:
            boxes.append((level, start, share, name))
            _stack(members, level + 1, start, least_share, boxes)
        start += share


def _picture(title: str, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" role="img">'
    ground = f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    heading = f'<text x="10" y="18" font-family="sans-serif" font-size="14">{escape(title)}</text>'
    return "\n".join((head, ground, heading, *parts, "</svg>", ""))
