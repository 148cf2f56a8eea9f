"""Rules that select tags of a repository: names, globs, regular expressions, ranges of versions, newest, exclusions."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Self

from msgspec import Struct

from syncer.errors import UsageError
from syncer.formats.semver import Range, RegclientRange, Version
from syncer.oci.referrer_tags import subject_tag

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_REGEX = 1000  # characters; tags have 128


@dataclasses.dataclass(frozen=True, slots=True)
class TagPattern:
    """One rule that selects tags; ``kind`` is the field that it stands in, ``text`` its own text."""

    kind: str
    text: str
    fits: Callable[[str], bool] = dataclasses.field(compare=False, repr=False)

    @classmethod
    def name(cls, text: str) -> Self:
        """Match one tag by its name; raises ``UsageError`` for a text that cannot be a tag."""
        if not _TAG.fullmatch(text):
            raise UsageError(
                f"{text[:160]!r} is not a tag",
                hint="a tag has letters, digits, dots, dashes and underscores; patterns go under glob or regex",
            )
        return cls("names", text, text.__eq__)

    @classmethod
    def glob(cls, text: str) -> Self:
        """Match the whole tag with ``*``, ``?`` and ``[…]`` as in a shell; upper and lower case differ."""
        return cls("glob", text, partial(_is_whole, re.compile(fnmatch.translate(text))))

    @classmethod
    def regex(cls, text: str) -> Self:
        """Match the whole tag with a regular expression (Python's ``re``); raises ``UsageError``."""
        if len(text) > _MAX_REGEX:
            raise UsageError(f"a regular expression of {len(text)} characters is longer than {_MAX_REGEX}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what `re` warns of means something else elsewhere
                return cls("regex", text, partial(_is_whole, re.compile(text, re.ASCII)))
        except (re.error, RecursionError, OverflowError, Warning) as error:
            raise UsageError(f"{text[:160]!r} is not a regular expression: {error}") from None

    @classmethod
    def semver(cls, text: str) -> Self:
        """Match tags that are versions in a range such as ``^1.2``; raises ``UsageError``."""
        return cls("semver", text, partial(_is_within, Range.parse(text)))

    @classmethod
    def semver_regclient(cls, text: str) -> Self:
        """Match tags that are versions in a range by regclient's rules; raises ``UsageError``."""
        return cls("semver_regclient", text, RegclientRange.parse(text).allows)

    def __str__(self) -> str:
        return f"{self.kind} {self.text!r}"


class TagRules(Struct, frozen=True, kw_only=True):
    """The rules for the tags of one repository.

    They select the tags in ``names`` and those that one of ``patterns`` matches, or all tags with ``every``; tags that
    one of ``excluded`` matches are left out.  ``newest`` keeps that many of the tags that patterns found.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[TagPattern, ...] = ()
    every: bool = False
    newest: int | None = None
    excluded: tuple[TagPattern, ...] = ()

    @property
    def needs_listing(self) -> bool:
        """True when the repository must be asked for its tags; names alone need no listing."""
        return self.every or bool(self.patterns)


def select_tags(tags: Iterable[str], rules: TagRules) -> list[str]:
    """Select tags by ``rules``: the named ones in their order, then those that patterns find in ``tags``, newest first.

    A named tag need not be among ``tags``: the transfer reports one that is missing.
    """
    found = sorted((tag for tag in _candidates(tags) if _is_found(tag, rules)), key=tag_order, reverse=True)
    named = [name for name in rules.names if not _fits(name, rules.excluded)]
    return list(dict.fromkeys([*named, *found[: rules.newest]]))


def unmatched_patterns(tags: Iterable[str], rules: TagRules) -> list[TagPattern]:
    """The patterns that match none of ``tags``: a warning, or an error with ``--strict``."""
    candidates = _candidates(tags)
    return [pattern for pattern in rules.patterns if not any(map(pattern.fits, candidates))]


def tag_order(tag: str) -> tuple[bool, Version | None, list[tuple[bool, int, str]]]:
    """The sort key of a tag, from old to new: first other names, by the numbers in them, then versions."""
    version = Version.parse(tag)
    return version is not None, version, _natural(tag)


def _candidates(tags: Iterable[str]) -> list[str]:
    """The tags of a registry's list, without texts that cannot be tags and without tags of referrers."""
    return [tag for tag in dict.fromkeys(tags) if _TAG.fullmatch(tag) and not subject_tag(tag)]


def _is_found(tag: str, rules: TagRules) -> bool:
    return (rules.every or _fits(tag, rules.patterns)) and not _fits(tag, rules.excluded)


def _fits(tag: str, patterns: Iterable[TagPattern]) -> bool:
    return any(pattern.fits(tag) for pattern in patterns)


def _is_whole(pattern: re.Pattern[str], tag: str) -> bool:
    return pattern.fullmatch(tag) is not None


def _is_within(allowed: Range, tag: str) -> bool:
    version = Version.parse(tag)
    return version is not None and allowed.allows(version)


def _natural(tag: str) -> list[tuple[bool, int, str]]:
    """A sort key with ``build-9`` before ``build-10``."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"([0-9]+)", tag)]
