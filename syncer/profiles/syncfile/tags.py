"""Rules that select tags of a repository: names, globs, regular expressions, ranges of versions, newest, exclusions.

And the tags of a target that no rule names any more, which ``api/prune.py`` lists and deletes.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Self

from msgspec import Struct

from syncer.errors import UsageError
from syncer.formats.semver import Range, RegclientRange, Version
from syncer.formats.units import CountOrShare
from syncer.oci import Digest, Reference
from syncer.oci.reference import fallback_tag, subject_tag

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


MOST_DELETED = CountOrShare(count=10, percent=10.0)
"""The most of a target's tags that may go in one run, unless more is allowed."""


class Removal(Struct, frozen=True):
    """A tag that the profile no longer names.

    ``is_free`` says that no kept tag of the repository needs its digest, so that a registry that deletes by digest only
    may delete it.  Otherwise only the tag itself may be deleted.
    """

    name: Reference
    digest: Digest
    is_free: bool


def find_removals(
    listing: Mapping[str, Mapping[str, Digest]],
    wanted: Iterable[Reference],
    *,
    registry: str,
    base: str,
    needs: Mapping[Digest, Collection[Digest]],
    incomplete: Collection[str] = (),
) -> list[Removal]:
    """Find the tags below the path ``base`` of ``registry`` that are not among ``wanted``, sorted by name.

    ``listing`` has the tags of the registry and their digests, by repository.  ``needs`` has, for each index, the
    manifests that it lists.  Repositories in ``incomplete`` are left alone: the tags of their sources could not be
    listed completely.  A signature stays as long as the image that it is about.  Raises ``UsageError`` without a base
    path, since other people may keep images at the root of a registry.
    """
    base = base.strip("/")
    if not base:
        raise UsageError(
            f"nothing is pruned at the root of {registry}: others may keep images there",
            hint="mirror to a path below it: HOST[:PORT]/BASE",
        )
    kept = _by_repository(wanted, registry)
    found: list[Removal] = []
    for repository in sorted(listing):
        if repository.startswith(f"{base}/") and repository not in incomplete:
            found += _of_repository(repository, listing[repository], kept.get(repository, set()), registry, needs)
    return found


def _of_repository(
    repository: str,
    tags: Mapping[str, Digest],
    wanted: set[str | Digest],
    registry: str,
    needs: Mapping[Digest, Collection[Digest]],
) -> list[Removal]:
    kept = {tag for tag in tags if tag in wanted}
    needed = _needed({tags[tag] for tag in kept} | {name for name in wanted if isinstance(name, Digest)}, needs)
    signatures: set[str] = set()
    while found := _about(needed, tags.keys() - signatures):  # a signature may be signed
        signatures |= found
        needed |= _needed({tags[tag] for tag in found}, needs)
    return [
        Removal(Reference(registry, repository, tag), tags[tag], is_free=tags[tag] not in needed)
        for tag in sorted(tags.keys() - kept - signatures)
    ]


def _needed(roots: set[Digest], needs: Mapping[Digest, Collection[Digest]]) -> set[Digest]:
    needed, waiting = set(roots), list(roots)
    while waiting:
        below = set(needs.get(waiting.pop(), ())) - needed
        needed |= below
        waiting += below
    return needed


def _by_repository(wanted: Iterable[Reference], registry: str) -> dict[str, set[str | Digest]]:
    """The tags that must stay, and the digests of manifests without a tag, by repository."""
    kept: dict[str, set[str | Digest]] = {}
    for name in wanted:
        if name.registry == registry:
            parts = kept.setdefault(name.repository, set())
            parts.update(part for part in (name.tag, name.digest) if part is not None)
    return kept


def _about(subjects: Iterable[Digest], tags: Iterable[str]) -> set[str]:
    """The ``tags`` of referrers of one of ``subjects``."""
    fallbacks = set(map(fallback_tag, subjects))
    return {tag for tag in tags if subject_tag(tag) in fallbacks}
