"""Errors go from process to process, whatever they are made of, and what they say is shown safely."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from syncer import errors
from syncer.errors import Denied, InvalidFile, NotFound, SyncerError, printable
from syncer.fleet.result import Lacking, OutOfTime
from syncer.oci import Digest


def _made() -> Iterator[SyncerError]:
    """One of each kind."""
    others: dict[str, tuple[Any, ...]] = {
        "InvalidReference": ("A//b", "it is wrong"),
        "InvalidFile": ("sync.yaml", "it is wrong"),
        "Waiting": ("t.io", 300, 120),
        "OutOfFiles": (),
        "RegistryError": ("GET x", 500, ["no"]),
        "Denied": ("GET x", 401, ["no"]),
        "NotFound": ("GET x", 404),
        "NameMissing": ("t.io/app has no tag 2", NotFound("GET x", 404)),
        "ChildrenUnknown": ("PUT x", 400, ["no"], [str(Digest.of(b""))]),
    }
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, SyncerError):
            yield kind(*others.get(name, ("it is wrong",)))
    yield from (Lacking(2, 30), OutOfTime())


@pytest.mark.parametrize("error", list(_made()), ids=lambda error: type(error).__name__)
def test_each_error_survives_pickle(error: SyncerError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_what_an_error_carries_survives_pickle() -> None:
    file = InvalidFile("a.yaml", "one", line=2, hint="do it", more=[InvalidFile("a.yaml", "two", line=3)])
    again = pickle.loads(pickle.dumps(file))
    denied = pickle.loads(pickle.dumps(Denied("GET x", 401, ["no"], codes=["DENIED"], hint="log in")))

    assert (again.line, again.hint, [str(each) for each in again.more]) == (2, "do it", ["a.yaml:3: two"])
    assert (denied.status, denied.problems, denied.codes, denied.hint) == (401, ("no",), ("DENIED",), "log in")


def test_the_cause_of_most_failures_is_told_first() -> None:
    """Of a run, a fleet, a page and the live table; causes of as many failures stay as they came."""
    told = [("down", "a"), ("full", "b"), ("denied", "c"), ("full", "d")]

    assert errors.by_cause(told) == [("full", ["b", "d"]), ("down", ["a"]), ("denied", ["c"])]


def test_what_others_wrote_is_shown_on_one_line_that_steers_no_terminal_and_that_any_stream_takes() -> None:
    assert printable("é") == "é"
    assert printable("a\x1b[31m\nb\x9b\u2028c\udcff").encode() == rb"a [31m b  c\udcff"
