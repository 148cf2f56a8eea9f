"""What is read without PyYAML is read as PyYAML reads it, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import InvalidFile
from syncer.profiles.yaml_document import parse_yaml
from syncer.profiles.yaml_plain import read_plain
from syncer.profiles.yaml_text import yaml_text
from syncer.profiles.yaml_tree import Map, Seq
from tests.test_yaml_text import VALUES

_INDENTS = st.sampled_from(["", "  ", "    ", " "])
_STARTS = st.sampled_from(["a:", "b:", "a: ", "b: ", "- ", "- a: ", "null: ", "- b:", "", "# "])
_ENDS = st.sampled_from(["v1", "'1.10'", "''", "null", "~", "a: b", "x:y", "\t", "é", '"q"', "", ""])
_LINES = st.tuples(_INDENTS, _STARTS, _ENDS).map("".join)


def lines(tree: Any) -> Any:
    """The tree with the lines that it remembers."""
    if isinstance(tree, Map):
        return [(key, tree.lines[key], lines(value)) for key, value in tree.items()]
    return [*zip(tree.lines, map(lines, tree), strict=True)] if isinstance(tree, Seq) else tree


def parsed(text: str) -> Any:
    try:
        return parse_yaml(text, "a.yaml")
    except InvalidFile:
        return None


@given(st.lists(_LINES, max_size=8).map("\n".join))
def test_whatever_is_read_is_what_it_is(text: str) -> None:
    tree = read_plain(text)

    assert tree is None or lines(tree) == lines(parsed(text))


@given(st.dictionaries(st.sampled_from(["name", "images", "size"]), VALUES, min_size=1))
def test_documents_are_read_as_they_were_written(document: dict[str, Any]) -> None:
    text = yaml_text(document)
    tree = read_plain(text)

    assert tree is None or lines(tree) == lines(parsed(text))


def test_what_a_definition_holds_is_read_here() -> None:
    text = """\
# c
name: edge
images:
  - image: a.io/b:1
    packs:
      - c 1.10
    size: 12
  - image: d
last: '1.10'
"""

    assert read_plain(text) == {
        "name": "edge",
        "images": [{"image": "a.io/b:1", "packs": ["c 1.10"], "size": "12"}, {"image": "d"}],
        "last": "1.10",
    }


@pytest.mark.parametrize(
    "text",
    ["", "a", "- a\n", "a: b\na: c\n", "a: |\n  b\n", "a: &b c\n", "a:\n- b\n", "a:\n", "a: {b: c}\n", "a: b # c\n"],
)
def test_all_else_is_left_to_pyyaml(text: str) -> None:
    assert read_plain(text) is None
