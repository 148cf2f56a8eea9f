"""What is written without PyYAML is what PyYAML reads."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from syncer.profiles.definition.definition import yaml_text

_TEXTS = st.text(max_size=12) | st.sampled_from(
    ["No", "on", "null", "1.10", "1:30", "10.0.0.1:5000/a:1", "1/2", "a:", "a: b", "a #b", " a\nb\n", "~"]
)
_VALUES = st.recursive(
    _TEXTS | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["name", "images", "size"]), _VALUES, min_size=1))
def test_every_document_is_read_back(document: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_text(document)) == document


@pytest.mark.parametrize(
    "text",
    [
        "quay.io/a/b:v1",
        "sha256:0123abc",
        "linux/arm64",
        "registry.example.com:5000/a_b/c:1.2-3+4",
        "10.0.0.1:5000/a:1",
        "y",
    ],
)
def test_names_need_no_quotes(text: str) -> None:
    assert yaml_text({"images": [{"image": text}], "packs": [text]}) == (
        f"images:\n  - image: {text}\npacks:\n  - {text}\n"
    )


@pytest.mark.parametrize("text", ["yes", "Off", "NULL", "1.10", "2024-01-01", "", "a:", "#a", "-"])
def test_what_yaml_would_take_for_something_else_gets_quotes(text: str) -> None:
    assert yaml_text({"version": text}) == f"version: '{text}'\n"
