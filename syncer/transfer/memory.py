"""What one run tells the next about a target: hints that save requests, doubted whenever they are used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from syncer.errors import InvalidContent
from syncer.oci import Digest, Platform

_VERSION = 1


@dataclass(slots=True)
class Memory:
    """Where blobs were seen at a target, and what indexes became when they were reduced to some platforms."""

    locations: dict[str, str] = field(default_factory=dict)  # digest → a space that had it
    reductions: dict[str, str] = field(default_factory=dict)  # digest and platforms → digest

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """What ``to_json`` wrote; empty for anything else, since nothing depends on it."""
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            return cls()
        return cls(_texts(document.get("locations")), _texts(document.get("reductions")))

    def to_json(self) -> dict[str, Any]:
        return {"version": _VERSION, "locations": self.locations, "reductions": self.reductions}

    def location(self, digest: Digest) -> str | None:
        """A space that had the blob when it was last seen."""
        return self.locations.get(str(digest))

    def remember_location(self, digest: Digest, space: str) -> None:
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

    def remember_reduction(self, root: Digest, platforms: Iterable[Platform], result: Digest) -> None:
        self.reductions[_key(root, platforms)] = str(result)


def _texts(document: Any) -> dict[str, str]:
    if not isinstance(document, dict):
        return {}
    return {key: text for key, text in document.items() if isinstance(key, str) and isinstance(text, str)}


def _key(root: Digest, platforms: Iterable[Platform]) -> str:
    return " ".join([str(root), *map(str, platforms)])
