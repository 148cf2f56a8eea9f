"""Plots as SVG, without a library: bars of ratios, and lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

_LONGEST = 8.0  # of a bar, times 1: one slow tool would make the others too short to compare
_WIDTH, _LEFT, _RIGHT, _LINE = 900, 300, 120, 18
_COLOURS = ("#0b6fa4", "#d1495b", "#edae49", "#3a7d44", "#7d5ba6", "#8a8a8a", "#2e4057", "#c06c84")


def bars(title: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """For each group a bar for each name; the longest bar fills the width, and 1 is marked by a line."""
    longest = min(_LONGEST, max((value for group in groups.values() for value in group.values()), default=1.0))
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    parts = []
    y = 50
    for heading, group in groups.items():
        parts.append(_text(10, y + 13, heading, weight="bold"))
        for name, value in group.items():
            y += _LINE
            width = min(value, longest) * scale
            cut = " (bar cut)" if value > longest else ""
            parts.append(_text(_LEFT - 8, y + 13, name, anchor="end"))
            parts.append(
                f'<rect x="{_LEFT}" y="{y + 2}" width="{width:.1f}" height="{_LINE - 4}" '
                f'fill="{_COLOURS[names.index(name) % len(_COLOURS)]}"/>'
            )
            parts.append(_text(_LEFT + width + 5, y + 13, f"{value:.2f}{cut}"))
        y += 2 * _LINE
    one = _LEFT + scale
    parts.insert(0, f'<line x1="{one:.1f}" y1="40" x2="{one:.1f}" y2="{y}" stroke="#444" stroke-dasharray="4 3"/>')
    return _document(title, y + 10, parts)


def lines(
    title: str,
    across: str,
    up: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    axis: Callable[[float], float] = float,
) -> str:
    """A line for each series of (x, y); x lies along ``axis``, such as ``math.log``, and y begins at 0."""
    points = [point for line in series.values() for point in line]
    if not points:
        return _document(title, 60, [])
    height, top, left = 420, 50, 90
    low, high = (axis(pick(x for x, _ in points)) for pick in (min, max))
    most = max(y for _, y in points) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        along = (axis(x) - low) / (high - low) if high > low else 0.5
        return left + along * (_WIDTH - left - 220), top + (1 - y / most) * (height - top - 50)

    bottom = place(points[0][0], 0)[1]
    parts = [
        f'<line x1="{left}" y1="{bottom:.1f}" x2="{_WIDTH - 220}" y2="{bottom:.1f}" stroke="#444"/>',
        f'<line x1="{left}" y1="{top}" x2="{left}" y2="{bottom:.1f}" stroke="#444"/>',
        _text((left + _WIDTH - 220) / 2, height - 8, across, anchor="middle"),
        _text(left, top - 8, up),
    ]
    parts += [_text(place(x, 0)[0], bottom + 18, f"{x:g}", anchor="middle") for x in sorted({x for x, _ in points})]
    parts += [
        _text(left - 6, place(points[0][0], most * part)[1] + 4, f"{most * part:.3g}", anchor="end")
        for part in (0, 0.5, 1)
    ]
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in (place(*at) for at in line)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(_WIDTH - 205, top + 10 + number * _LINE, name, colour=colour))
    return _document(title, height, parts)


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'font-family="sans-serif" font-size="12">'
    )
    white = f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#fff"/>'
    halo = "<style>text { paint-order: stroke; stroke: #fff; stroke-width: 3px }</style>"
    return "\n".join([head, halo, white, _text(10, 24, title, weight="bold"), *parts, "</svg>"]) + "\n"
