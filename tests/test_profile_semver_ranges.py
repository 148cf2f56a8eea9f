from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import UsageError
from syncer.formats.semver import Range, Version, matches, newest

_ORDERED = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
]


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        ("1.2.3", "1.2.3 v1.2.3 1.2.3+build", "1.2.4 1.2.3-rc.1"),
        ("=1.2", "1.2.0 1.2.9", "1.3.0"),
        ("1.2", "1.2.0 1.2.9", "1.1.9 1.3.0"),
        ("1.x", "1.0.0 1.99.0", "0.9.0 2.0.0 1.5.0-rc.1"),
        ("v1.2.x", "1.2.0 v1.2.7", "1.3.0"),
        ("*", "0.0.0 99.0.0", "1.0.0-rc.1 latest"),
        ("", "0.0.0 99.0.0", "1.0.0-rc.1"),
        ("^1.2.3", "1.2.3 1.9.0", "1.2.2 2.0.0 2.0.0-rc.1"),
        ("^1", "1.0.0 1.9.0", "2.0.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2"),
        ("^0.0.3", "0.0.3", "0.0.4 0.1.0"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.0.0 0.9.0", "1.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"),
        ("~1.2", "1.2.0 1.2.9", "1.3.0"),
        ("~1", "1.0.0 1.9.9", "2.0.0"),
        ("~> 1.2", "1.2.5", "1.3.0"),
        (">=1.2 <2", "1.2.0 1.9.9", "1.1.9 2.0.0"),
        (">=1.2, <2", "1.2.0 1.9.9", "1.1.9 2.0.0"),
        ("=> 1.2 =< 1.4", "1.2.0 1.4.9", "1.5.0"),
        (">11", "12.0.0", "11.1.0 11.0.0"),
        (">11.1", "11.2.0", "11.1.1"),
        (">11.1.0", "11.1.1", "11.1.0"),
        ("<=11", "11.9.0", "12.0.0"),
        ("!=1.2.3", "1.2.4", "1.2.3"),
        ("!=1.2", "1.3.0", "1.2.7"),
        ("1.2 - 1.4.5", "1.2.0 1.4.5", "1.4.6 1.1.9"),
        ("^1.2 || 3.x", "1.5.0 3.1.0", "2.0.0"),
        (">=1.2.3-0", "1.2.3-rc.1 1.2.3 2.0.0-alpha", "1.2.2"),
        (">=1.2.3-beta.2 <2", "1.2.3-beta.11 1.9.0-rc.1", "1.2.3-beta.1"),
    ],
)
def test_a_range_means_what_it_means_to_helm(range_: str, inside: str, outside: str) -> None:
    assert [version for version in inside.split() if not matches(version, range_)] == []
    assert [version for version in outside.split() if matches(version, range_)] == []


def test_versions_come_in_the_order_of_the_specification() -> None:
    parsed = [Version.parse(text) for text in _ORDERED]

    assert [version for version in parsed if version is None] == []
    assert sorted(version for version in parsed if version) == parsed


def test_the_newest_is_found_by_number_and_keeps_its_spelling() -> None:
    assert newest(["v1.9.0", "latest", "v1.10.0", "2.0.0-rc.1"]) == "v1.10.0"
    assert newest(["1.9.0", "1.10.0", "2.0.0"], "<2") == "1.10.0"


def test_nothing_is_the_newest_of_nothing() -> None:
    assert newest(["latest", "main"], "^1") is None


@pytest.mark.parametrize("range_", ["latest", "^", "1.2.3.4", ">=1,,x.y", "1.2 -", "^1 nonsense", ">>1"])
def test_a_wrong_range_is_refused(range_: str) -> None:
    with pytest.raises(UsageError, match="range"):
        Range.parse(range_)


@given(st.text(max_size=40))
def test_any_text_is_a_range_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        Range.parse(text)


@given(st.tuples(*[st.integers(0, 99)] * 3), st.tuples(*[st.integers(0, 99)] * 3))
def test_a_caret_never_leaves_its_major(low: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    first, second = ".".join(map(str, low)), ".".join(map(str, other))

    if matches(second, f"^{first}"):
        assert other >= low
        assert other[0] == low[0]
