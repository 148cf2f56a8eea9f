"""The plain part of YAML, which ``yaml_text`` writes, read without PyYAML: a bundle's definition is mostly that."""

from __future__ import annotations

import re
from typing import Any

from syncer.profiles.yaml_tree import NOTHING, Map, Seq

_WORD = r"[A-Za-z0-9][A-Za-z0-9._/@+-]*(?::[A-Za-z0-9._/@+-]+)*"
_LINE = re.compile(
    r"(?P<indent> *)(?P<dash>- )?(?:(?P<key>[A-Za-z]+):(?: |$))?"
    rf"(?:(?P<plain>{_WORD}(?: {_WORD})*)|'(?P<quoted>[A-Za-z0-9 ._/@:+-]*)')?"
)
_MOST_LINES = 300_000
_DEEPEST = 20


def read_plain(text: str) -> Map | None:
    """The tree that ``parse_yaml`` would make of ``text``; None when that can only be told by asking it.

    Read are mappings and lists that are indented as ``yaml_text`` does it, their texts in one line, and comments in
    lines of their own.
    """
    lines = text.split("\n")
    reader = _Reader()
    is_plain = len(lines) <= _MOST_LINES and all(
        reader.take(line, number) for number, line in enumerate(lines, start=1) if line
    )
    return reader.root if is_plain and reader.root and reader.waiting is None else None


class _Reader:
    def __init__(self) -> None:
        self.root = Map()
        self.waiting: str | None = None  # a key whose value begins in the next line
        self._around: list[tuple[int, Map | Seq]] = [(0, self.root)]  # what is open, and how far it is indented

    def take(self, line: str, number: int) -> bool:
        """Read one line; False when it is none of those that are known here."""
        if line.startswith("#"):
            return line.isascii() and line.isprintable()
        found = _LINE.fullmatch(line)
        node = self._node(len(found["indent"]), number, is_list=found["dash"] is not None) if found else None
        if found is None or node is None:
            return False
        key = found["key"]
        if isinstance(node, Seq) and key is not None:
            entry = Map()
            _put(node, None, entry, number)
            self._around.append((len(found["indent"]) + 2, entry))
            node = entry
        if found["plain"] is None and found["quoted"] is None:
            self.waiting = key
            return key is not None
        return _put(node, key, _value(found), number)

    def _node(self, indent: int, number: int, *, is_list: bool) -> Map | Seq | None:
        """What a line belongs to that is indented so far; None when that is not what is open there."""
        depth, node = self._around[-1]
        if self.waiting is not None:
            inner = Seq() if is_list else Map()
            if len(self._around) > _DEEPEST or not _put(node, self.waiting, inner, number):
                return None
            self._around.append((depth + 2, inner))
            self.waiting = None
        else:
            while self._around[-1][0] > indent:
                self._around.pop()
        depth, node = self._around[-1]
        return node if depth == indent and isinstance(node, Seq) is is_list else None


def _put(node: Map | Seq, key: str | None, value: Any, line: int) -> bool:
    """Add ``value``, unless it lacks a key where it needs one, or the key is taken."""
    if isinstance(node, Seq):
        node.append(value)
        node.lines.append(line)
        return True
    if key is None or key in node or key in NOTHING:
        return False
    node[key], node.lines[key] = value, line
    return True


def _value(found: re.Match[str]) -> str | None:
    quoted: str | None = found["quoted"]
    plain: str | None = found["plain"]
    return quoted if quoted is not None else None if plain in NOTHING else plain
