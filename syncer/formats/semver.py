"""Semantic versions, and ranges of them in Helm's notation: ``^1.2``, ``~1.2.3``, ``>=1 <2 || 3.x``.

The rules are those of Masterminds/semver v3, which Helm and Flux use: a version may begin with ``v`` and
lack its minor or patch number; a part left out or written ``x``, ``X`` or ``*`` stands for any; comparisons
side by side (white space or commas) must all hold, ``||`` separates alternatives, ``1.2 - 1.4`` includes both
ends; a pre-release matches only where one of the comparisons beside it names a pre-release.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from syncer.errors import UsageError

_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(
    rf"v?(?P<major>[0-9]{{1,20}})(?:\.(?P<minor>[0-9]{{1,20}}))?(?:\.(?P<patch>[0-9]{{1,20}}))?"
    rf"(?:-(?P<prerelease>{_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?"
)
_PATTERN = rf"v?(?:[0-9]+|[xX*])(?:\.(?:[0-9]+|[xX*])){{0,2}}(?:-{_IDENTIFIERS})?(?:\+{_IDENTIFIERS})?"
_COMPARISON = re.compile(rf"(?P<operator>!=|>=|=>|<=|=<|~>|[=<>~^])?\s*(?P<version>{_PATTERN})(?=[\s,]|$)[\s,]*")
_HYPHEN = re.compile(rf"({_PATTERN})\s+-\s+({_PATTERN})")
_ALIASES = {"=>": ">=", "=<": "<=", "~>": "~", None: "="}
_WHOLE: dict[str, Callable[[Any, Any], Any]] = {"<": operator.lt, ">=": operator.ge}
_AS_FAR_AS_GIVEN: dict[str, Callable[[Any, Any], Any]] = {
    "!=": operator.ne,
    ">": operator.gt,  # >1.2 begins at 1.3.0
    "<=": operator.le,  # <=1.2 ends with the last 1.2.x
}


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A semantic version; versions are ordered as the specification says, build metadata does not count."""

    release: tuple[int, int, int]
    final: bool  # a pre-release comes before its release
    prerelease: tuple[tuple[int, int, str], ...]

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a version, in which missing numbers are 0; None when ``text`` is not a version, like ``latest``."""
        match = _VERSION.fullmatch(text.strip())
        if match is None:
            return None
        major, minor, patch, prerelease = match.group("major", "minor", "patch", "prerelease")
        identifiers = prerelease.split(".") if prerelease else []
        return cls((int(major), int(minor or 0), int(patch or 0)), not identifiers, tuple(map(_rank, identifiers)))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition, such as ``~1.2``; ``given`` is the count of numbers in it, from 0 to 3."""

    operator: str
    version: Version
    given: int

    def allows(self, version: Version) -> bool:
        """Tell whether ``version``, a pre-release or not, meets the condition."""
        wanted = self.version
        if compare := _WHOLE.get(self.operator):
            return bool(compare(version, wanted))
        if compare := _AS_FAR_AS_GIVEN.get(self.operator):
            if self.given == 3:
                return bool(compare(version, wanted))
            return bool(compare(version.release[: self.given], wanted.release[: self.given]))
        if self.operator == "=" and self.given == 3:
            return version == wanted
        fixed = self._fixed()
        return version >= wanted and version.release[:fixed] == wanted.release[:fixed]

    def _fixed(self) -> int:
        """The count of leading numbers that must be equal; with ``^``, those up to the first that is not 0."""
        if self.operator != "^":
            return min(self.given, 2)
        for place, number in enumerate(self.version.release[: self.given], start=1):
            if number:
                return place
        return self.given


@dataclass(frozen=True, slots=True)
class Range:
    """A range of versions: alternatives, each with conditions that must all hold."""

    alternatives: tuple[tuple[Comparison, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a range; an empty ``text`` means any release.  Raises ``UsageError``."""
        parts = _HYPHEN.sub(r">=\1, <=\2 ", text).split("||")
        return cls(tuple(_comparisons(part.strip(), text) for part in parts))

    def allows(self, version: Version) -> bool:
        """Tell whether ``version`` is in the range."""
        return any(
            (version.final or any(not each.version.final for each in alternative))
            and all(each.allows(version) for each in alternative)
            for alternative in self.alternatives
        )


def matches(version: str, range: str) -> bool:  # noqa: A002 - what everybody calls it
    """Tell whether ``version`` is in ``range``; False for a text that is not a version.

    Raises ``UsageError`` for a wrong range.

    >>> matches("v1.4.0", "^1.2"), matches("2.0.0", "^1.2"), matches("latest", "*")
    (True, False, False)
    """
    parsed = Version.parse(version)
    allowed = Range.parse(range)
    return parsed is not None and allowed.allows(parsed)


def is_exact_version(text: str) -> bool:
    """Tell whether ``text`` is one version with all three numbers, and so is not a range."""
    match = _VERSION.fullmatch(text)
    return match is not None and match["patch"] is not None


def newest(versions: Iterable[str], range: str = "*") -> str | None:  # noqa: A002 - what everybody calls it
    """The newest of ``versions`` in ``range``, as it was written; None when there is none.

    >>> newest(["1.9.0", "latest", "1.10.0", "2.0.0"], "1.x")
    '1.10.0'
    """
    allowed = Range.parse(range)
    fitting = [(parsed, text) for text in versions if (parsed := Version.parse(text)) and allowed.allows(parsed)]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _comparisons(text: str, whole: str) -> tuple[Comparison, ...]:
    if not text:
        return (_comparison(None, "*"),)
    found: list[Comparison] = []
    place = 0
    while place < len(text):
        match = _COMPARISON.match(text, place)
        if match is None:
            raise UsageError(
                f"{whole[:160]!r} is not a range of versions: {text[place : place + 40]!r} is no comparison",
                hint="write a version, or a range such as ^1.2, ~1.2.3, '>=1.2 <2' or 1.x",
            )
        found.append(_comparison(match["operator"], match["version"]))
        place = match.end()
    return tuple(found)


def _comparison(sign: str | None, pattern: str) -> Comparison:
    numbers, dash, rest = pattern.removeprefix("v").partition("+")[0].partition("-")
    given: list[str] = []
    for number in numbers.split("."):
        if number in ("x", "X", "*"):
            break
        given.append(number)
    filled = ".".join([*given, "0", "0", "0"][:3])
    version = Version.parse(filled + dash + rest)
    if version is None:
        raise UsageError(f"{pattern[:80]!r} is not a version")
    return Comparison(_ALIASES.get(sign, sign or "="), version, len(given))


def _rank(identifier: str) -> tuple[int, int, str]:
    """Numbers count as numbers and come before words (semver.org, rule 11)."""
    return (0, int(identifier), "") if identifier.isdecimal() else (1, 0, identifier)
