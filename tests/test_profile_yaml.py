from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import InvalidFile
from syncer.formats.yaml import line_of, parse_yaml, spell_path


def test_scalars_stay_as_they_were_written() -> None:
    text = "version: 1.10\nanswer: no\ndate: 2024-01-01\noctal: 0755\nempty:\nquoted: ''\ntilde: ~\nword: 'null'\n"

    assert parse_yaml(text, "values.yaml") == {
        "version": "1.10",
        "answer": "no",
        "date": "2024-01-01",
        "octal": "0755",
        "empty": None,
        "quoted": "",
        "tilde": None,
        "word": "null",
    }


def test_an_empty_file_holds_nothing() -> None:
    assert parse_yaml("", "values.yaml") is None
    assert parse_yaml("# only a comment\n", "values.yaml") is None


def test_anchors_and_merge_keys_are_followed_and_own_keys_win() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 8}, *a]}\nd: *a\n"

    document = parse_yaml(text, "values.yaml")

    assert document["b"] == {"x": "1", "y": "3"}
    assert document["c"] == {"x": "8", "y": "2"}
    assert document["d"] == {"x": "1", "y": "2"}


def test_the_line_of_each_value_is_known() -> None:
    document = parse_yaml("pack:\n  content:\n    images:\n      - image: a\n\n      - image: b\n", "values.yaml")

    assert line_of(document, ("pack", "content", "images", 1, "image")) == 6
    assert line_of(document, ("pack", "content", "charts", 0)) == 3
    assert spell_path(("pack", "content", "images", 1, "image")) == "pack.content.images[1].image"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b: c", "values.yaml:1: column 5: .*mapping values"),
        (
            "a: 1\nb:\n  c: 1\n  c: 2\n",
            "values.yaml:4: b.c: the key 'c' stands twice in one mapping, on line 3 as well",
        ),
        ("a:\n\tb: 1", "values.yaml:2: column 1: .*cannot start any token"),
        ("image: {{.spectro.var.x}}", "values.yaml:1: column 9: a key must be a text; .* needs quotes"),
        ("a: 1\n---\nb: 2\n", "values.yaml:2: it holds 2 documents"),
        ("[" * 500, "deeper than 100"),
        ("a: *b", "values.yaml:1: .*no anchor"),
        ("a: &a [*a]", "no anchor"),
        ("<<: text", "only bring in mappings"),
        ("a: \x01", "control characters"),
        ('a: "open', "end of stream"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InvalidFile, match=problem):
        parse_yaml(text, "values.yaml")


def test_aliases_that_multiply_are_refused_before_they_cost_anything() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    with pytest.raises(InvalidFile, match="aliases counted"):
        parse_yaml("\n".join(lines), "values.yaml")


@given(st.text(alphabet="ab:- \n\t{}[]&*<'\"#|>?~!%,", max_size=60))
def test_any_text_is_a_document_or_an_invalid_file(text: str) -> None:
    with contextlib.suppress(InvalidFile):
        parse_yaml(text, "values.yaml")
