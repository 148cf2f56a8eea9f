"""The words of the house: docstrings that a reader who is not at home in English understands at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.test_architecture import TREES, part_of

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_OPENERS = frozenset(
    {
        *("what", "whatever", "who", "whoever", "whom", "whose", "where", "wherever", "which", "how", "whether"),
        *("it", "as", "those", "these"),
    }
)
"""Words that put something else before the subject of a sentence; see CONTRIBUTING.md, "Rules"."""

_NOT_DONE_YET = frozenset({"api", "bundle", "cli", "registry", "serve", "transport"})
"""Parts whose docstrings are still to be rewritten; to be emptied, part by part."""


@pytest.mark.parametrize("part", sorted({part_of(module) for module in TREES} - _NOT_DONE_YET))
def test_a_docstring_begins_with_its_subject(part: str) -> None:
    """A module, a public class and a public function say first what they are about, or what they do."""
    found = [name for module, tree in TREES.items() if part_of(module) == part for name in _riddles(module, tree)]

    assert not found, found


def test_the_parts_that_are_still_to_be_rewritten_need_it() -> None:
    """A part whose docstrings are plain is held to it from then on."""
    parts = {part_of(module) for module, tree in TREES.items() if list(_riddles(module, tree))}

    assert parts >= _NOT_DONE_YET, f"take out of the list: {_NOT_DONE_YET - parts}"


def _riddles(name: str, node: ast.AST) -> Iterator[str]:
    """The names of what ``node`` holds, itself included, whose docstring opens with one of ``_OPENERS``."""
    text = ast.get_docstring(node) if isinstance(node, (ast.Module, *_DEFINITIONS)) else None
    first = (text or "").partition(" ")[0].strip("`,.:;").lower()
    if first in _OPENERS:
        yield name
    for inner in getattr(node, "body", ()):
        if isinstance(inner, _DEFINITIONS) and not inner.name.startswith("_"):
            yield from _riddles(f"{name}.{inner.name}", inner)
