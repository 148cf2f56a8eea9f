"""What one run tells the next about a target: hints that save requests, or tell what an unchanged image consists of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from syncer.errors import InvalidContent
from syncer.oci import Digest, Platform

_VERSION = 1


@dataclass(slots=True)
class Memory:
    """Where blobs were seen at a target, what indexes became when they were reduced to some platforms, and what
    manifests are below them and above them.
    """

    locations: dict[str, str] = field(default_factory=dict)  # digest → a space that had it
    reductions: dict[str, str] = field(default_factory=dict)  # digest and platforms → digest
    children: dict[str, list[str]] = field(default_factory=dict)  # an index → all manifests below it
    subjects: dict[str, str] = field(default_factory=dict)  # a referrer → what it refers to

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """What ``to_json`` wrote; empty for anything else, since nothing depends on it."""
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            return cls()
        return cls(
            _texts(document.get("locations")),
            _texts(document.get("reductions")),
            _lists(document.get("children")),  # which an older version did not write
            _texts(document.get("subjects")),
        )

    def to_json(self) -> dict[str, Any]:
        return {"version": _VERSION} | asdict(self)

    def location(self, digest: Digest) -> str | None:
        """A space that had the blob when it was last seen."""
        return self.locations.get(str(digest))

    def saw(self, digest: Digest, space: str) -> None:
        self.locations[str(digest)] = space

    def forget(self, digest: Digest) -> None:
        """The blob is not where it was thought to be."""
        self.locations.pop(str(digest), None)

    def reduction(self, root: Digest, platforms: Iterable[Platform]) -> Digest | None:
        """What the index ``root`` became for ``platforms``."""
        known = self.reductions.get(_key(root, platforms))
        try:
            return Digest.parse(known) if known else None
        except InvalidContent:
            return None

    def reduced(self, root: Digest, platforms: Iterable[Platform], result: Digest) -> None:
        self.reductions[_key(root, platforms)] = str(result)

    def manifests_below(self, root: Digest) -> tuple[Digest, ...] | None:
        """The manifests below the index ``root``, which never change; None when that is not known."""
        known = self.children.get(str(root))
        try:
            return None if known is None else tuple(map(Digest.parse, known))
        except InvalidContent:
            return None

    def has_below(self, root: Digest, manifests: Iterable[Digest]) -> None:
        self.children[str(root)] = list(map(str, manifests))

    def subject(self, referrer: Digest) -> Digest | None:
        """What ``referrer`` refers to, if it was met before, and refers to anything."""
        known = self.subjects.get(str(referrer))
        try:
            return Digest.parse(known) if known else None
        except InvalidContent:
            return None

    def refers(self, referrer: Digest, subject: Digest) -> None:
        self.subjects[str(referrer)] = str(subject)


def _texts(document: Any) -> dict[str, str]:
    if not isinstance(document, dict):
        return {}
    return {key: text for key, text in document.items() if isinstance(key, str) and isinstance(text, str)}


def _lists(document: Any) -> dict[str, list[str]]:
    if not isinstance(document, dict):
        return {}
    return {
        key: texts
        for key, texts in document.items()
        if isinstance(key, str) and isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    }


def _key(root: Digest, platforms: Iterable[Platform]) -> str:
    return " ".join([str(root), *map(str, platforms)])
