"""Tables in Markdown, and numbers as they stand in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.results import Spread


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Empty when there are no lines."""
    body = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body]) if body else ""


def spread(found: Spread | None) -> str:
    """The median, with the least and the most in brackets."""
    if found is None:
        return "–"
    if found.low == found.high:
        return f"{found.median:.2f}"
    return f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"


def number(value: float | None, unit: float, digits: int) -> str:
    return "–" if value is None else f"{value / unit:,.{digits}f}"
