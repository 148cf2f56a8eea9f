"""Semantic versions, and ranges of them in Helm's notation: ``^1.2``, ``~1.2.3``, ``>=1 <2 || 3.x``.

The rules are those of Masterminds/semver v3, which Helm and Flux use: a version may begin with ``v`` and
lack its minor or patch number; a part left out or written ``x``, ``X`` or ``*`` stands for any; comparisons
side by side (white space or commas) must all hold, ``||`` separates alternatives, ``1.2 - 1.4`` includes both
ends; a pre-release matches only where one of the comparisons beside it names a pre-release.

``RegclientRange`` has the rules of regclient, whose ``semverRange`` looks alike and means something else.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, Self

from msgspec import Struct

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


class Version(Struct, frozen=True, order=True):
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


class Comparison(Struct, frozen=True):
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


class Range(Struct, frozen=True):
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


class RegclientRange(Struct, frozen=True):
    """A range by the rules of regclient (its ``internal/semver``), as regsync's ``semverRange`` has it.

    Comparisons stand side by side and must all hold: ``=``, ``>``, ``>=``, ``<``, ``<=``, ``^`` and ``~``, with no
    space before the version.  A version has any count of numbers, and those that are left out are 0: ``1.2`` is 1.2.0
    alone, and ``~1`` ends before 1.1.  Pre-releases are versions like others.
    """

    conditions: tuple[tuple[str, _RegclientVersion], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a range; raises ``UsageError`` for one that regclient refuses."""
        conditions = [each for part in text.split() for each in _regclient_conditions(part, text)]
        if not conditions:
            raise UsageError("it is not a range of versions: it is empty")
        return cls(tuple(conditions))

    def allows(self, text: str) -> bool:
        """Tell whether ``text`` is a version, as regclient reads one, and in the range."""
        version = _RegclientVersion.parse(text)
        return version is not None and all(
            _REGCLIENT_SIGNS[sign](version.compared(wanted), 0) for sign, wanted in self.conditions
        )


class _RegclientVersion(Struct, frozen=True):
    numbers: tuple[int, ...]
    prerelease: str = ""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        head, _, prerelease = text.removeprefix("v").partition("+")[0].partition("-")
        parts = head.split(".")
        if not all(re.fullmatch("[0-9]+", part) and int(part) <= _LARGEST for part in parts):
            return None
        return cls(tuple(map(int, parts)), prerelease)

    def compared(self, other: Self) -> int:
        """-1, 0 or 1, as this version comes before the other one, is equal, or comes after it."""
        length = max(len(self.numbers), len(other.numbers))
        ours, theirs = (each.numbers + (0,) * (length - len(each.numbers)) for each in (self, other))
        if ours != theirs:
            return -1 if ours < theirs else 1
        if not (self.prerelease and other.prerelease):
            return bool(other.prerelease) - bool(self.prerelease)
        for one, another in zip(self.prerelease.split("."), other.prerelease.split("."), strict=False):
            found, decided = _compared_identifiers(one, another)
            if decided:
                return found
        counts = self.prerelease.count("."), other.prerelease.count(".")
        return (counts[0] > counts[1]) - (counts[0] < counts[1])


_LARGEST = 2**63 - 1  # of Go's int
_REGCLIENT_SIGNS: dict[str, Callable[[int, int], bool]] = {
    "": operator.eq,
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def _regclient_conditions(part: str, whole: str) -> list[tuple[str, _RegclientVersion]]:
    match = re.match(r"[\^~]|[<>]=?|=?", part)
    sign = match[0] if match else ""
    version = _RegclientVersion.parse(part[len(sign) :])
    if version is None:
        raise UsageError(
            f"{whole[:160]!r} is not a range of versions: {part[:80]!r} is no comparison of regclient's",
            hint="regclient has =, >, >=, <, <=, ^ and ~, right before a version of numbers: '>=1.2 <2'",
        )
    if sign not in ("^", "~"):
        return [(sign, version)]
    major, minor, patch = (*version.numbers, 0, 0)[:3]
    if sign == "~":
        end = (major, minor + 1, 0)
    else:
        end = (major + 1, 0, 0) if major else (0, minor + 1, 0) if minor else (0, 0, patch + 1)
    return [(">=", version), ("<", _RegclientVersion(end))]


def _compared_identifiers(one: str, another: str) -> tuple[int, bool]:
    """Compare two parts of pre-releases by turns of letters and numbers, and tell whether that decides."""
    while one and another:
        ours, theirs = (re.match(r"([^0-9]*)([0-9]*)", text) for text in (one, another))
        if ours is None or theirs is None:
            break
        if ours[1] != theirs[1]:
            return (-1 if ours[1] < theirs[1] else 1), True
        numbers = [int(each[2]) if each[2] and int(each[2]) <= _LARGEST else None for each in (ours, theirs)]
        if numbers[0] is None or numbers[1] is None:
            return (numbers[0] is not None) - (numbers[1] is not None), True
        if numbers[0] != numbers[1]:
            return (-1 if numbers[0] < numbers[1] else 1), True
        one, another = one[ours.end() :], another[theirs.end() :]
    return bool(one) - bool(another), bool(one or another)


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
