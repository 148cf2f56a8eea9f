"""The memory of a target, which one run leaves for the next: hints that save requests, or tell what an unchanged
image consists of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from msgspec import Struct, field, structs

from syncer.errors import InvalidContent
from syncer.oci import Digest, Platform

_VERSION = 1


class Memory(Struct):
    """The spaces in which blobs were seen at a target, the digests of indexes reduced to some platforms, and the
    manifests below indexes and above referrers.
    """

    locations: dict[str, str] = field(default_factory=dict)  # digest → the space in which it was seen
    reductions: dict[str, str] = field(default_factory=dict)  # digest and platforms → digest
    children: dict[str, list[str]] = field(default_factory=dict)  # an index → all manifests below it
    subjects: dict[str, str] = field(default_factory=dict)  # a referrer → what it refers to

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Read the document of ``to_json``; any other document gives an empty memory, since it is only a hint."""
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            return cls()
        return cls(
            _texts(document.get("locations")),
            _texts(document.get("reductions")),
            _lists(document.get("children")),  # which an older version did not write
            _texts(document.get("subjects")),
        )

    def to_json(self) -> dict[str, Any]:
        return {"version": _VERSION} | structs.asdict(self)

    def location(self, digest: Digest) -> str | None:
        """The space in which the blob was last seen, or None."""
        return self.locations.get(str(digest))

    def remember_location(self, digest: Digest, space: str) -> None:
        """Remember that ``space`` has the blob."""
        self.locations[str(digest)] = space

    def forget(self, digest: Digest) -> None:
        """Forget the location of a blob, which is not there any more."""
        self.locations.pop(str(digest), None)

    def reduction(self, root: Digest, platforms: Iterable[Platform]) -> Digest | None:
        """The digest of the index ``root`` reduced to ``platforms``, or None when it is not known."""
        known = self.reductions.get(_key(root, platforms))
        try:
            return Digest.parse(known) if known else None
        except InvalidContent:
            return None

    def remember_reduction(self, root: Digest, platforms: Iterable[Platform], result: Digest) -> None:
        """Remember that the index ``root`` reduced to ``platforms`` is ``result``."""
        self.reductions[_key(root, platforms)] = str(result)

    def manifests_below(self, root: Digest) -> tuple[Digest, ...] | None:
        """The manifests below the index ``root``, which never change; None when that is not known."""
        known = self.children.get(str(root))
        try:
            return None if known is None else tuple(map(Digest.parse, known))
        except InvalidContent:
            return None

    def remember_below(self, root: Digest, manifests: Iterable[Digest]) -> None:
        """Remember which manifests are below the index ``root``."""
        self.children[str(root)] = list(map(str, manifests))

    def subject(self, referrer: Digest) -> Digest | None:
        """The digest that ``referrer`` refers to, if it was met before, and refers to anything."""
        known = self.subjects.get(str(referrer))
        try:
            return Digest.parse(known) if known else None
        except InvalidContent:
            return None

    def remember_subject(self, referrer: Digest, subject: Digest) -> None:
        """Remember that ``referrer`` refers to ``subject``."""
        self.subjects[str(referrer)] = str(subject)


def _texts(document: Any) -> dict[str, str]:
    if not isinstance(document, dict):
        return {}
    return {key: text for key, text in document.items() if isinstance(text, str)}


def _lists(document: Any) -> dict[str, list[str]]:
    if not isinstance(document, dict):
        return {}
    return {
        key: texts
        for key, texts in document.items()
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    }


def _key(root: Digest, platforms: Iterable[Platform]) -> str:
    return " ".join([str(root), *map(str, platforms)])
