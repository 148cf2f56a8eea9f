"""Expressions and ranges of tools written in Go choose the tags that Go's own libraries choose.

``data/re2.json`` and ``data/regclient_semver.json`` hold what Go's ``regexp`` (1.26) and regclient's
``internal/semver`` (0.11.7) chose from a list of tags; null is a refusal.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import UsageError
from syncer.formats.re2 import whole_match
from syncer.profiles.syncfile.tags import TagPattern

_DATA = Path(__file__).parent / "data"


def _recorded(name: str) -> list[tuple[str, list[str], list[str] | None]]:
    document = json.loads((_DATA / name).read_text())
    return [(text, document["tags"], chosen) for text, chosen in document["choices"]]


@pytest.mark.parametrize(("text", "tags", "chosen"), _recorded("re2.json"))
def test_an_expression_finds_the_tags_that_go_finds(text: str, tags: list[str], chosen: list[str] | None) -> None:
    if chosen is None:
        with pytest.raises(UsageError, match="is not an expression of RE2: "):
            whole_match(text)
    else:
        pattern = TagPattern.regex(whole_match(text))
        assert [tag for tag in tags if pattern.fits(tag)] == chosen


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("^v1.0$", "v1.0"),
        (r"^v\d+\.\d+$", r"v\d+\.\d+"),
        ("^v.*-rc|latest$", "v.*-rc.*|.*latest"),
        ("(?i)^rc[0-9]*$", "(?i:rc[0-9]*)"),
        ("^(?P<major>[[:digit:]]+)", "(?:[0-9]+).*"),
    ],
)
def test_a_translated_expression_is_one_that_people_would_write(text: str, translated: str) -> None:
    assert whole_match(text) == translated


@given(st.text(alphabet=r"ab1.-_\\^$|()[]{}*+?:iQEdp,", max_size=20))
def test_any_text_is_translated_into_what_python_takes_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        TagPattern.regex(whole_match(text)).fits("v1.0")


@pytest.mark.parametrize(("text", "tags", "chosen"), _recorded("regclient_semver.json"))
def test_a_range_finds_the_tags_that_regclient_finds(text: str, tags: list[str], chosen: list[str] | None) -> None:
    if chosen is None:
        with pytest.raises(UsageError, match="is not a range of versions"):
            TagPattern.semver_regclient(text)
    else:
        pattern = TagPattern.semver_regclient(text)
        assert [tag for tag in tags if pattern.fits(tag)] == chosen
