"""What documents become: trees of mappings, lists and texts that remember where in the file they stand."""

from __future__ import annotations

import difflib
from typing import Any, TypeAlias

Step: TypeAlias = str | int

NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
"""How an unquoted nothing is written."""


class Map(dict[str, Any]):
    """A mapping that remembers the line (from 1) of each of its values."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


class Seq(list[Any]):
    """A list that remembers the line (from 1) of each of its entries."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


def line_of(root: Any, path: tuple[Step, ...]) -> int | None:
    """The line of what ``path`` leads to in a tree of ``parse_yaml``, or of the nearest known part of the way."""
    line: int | None = None
    for step in path:
        try:
            line, root = root.lines[step], root[step]
        except (AttributeError, LookupError, TypeError):
            break
    return line


def spell_path(path: tuple[Step, ...]) -> str:
    """``path`` as people write it: ``pack.content.images[0].image``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def unknown_field(name: str, known: list[str]) -> str:
    """What is wrong with a field ``name`` where only those in ``known`` are."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"there is no such field; did you mean {near[0]}?" if near else f"no such field; known: {', '.join(known)}"
