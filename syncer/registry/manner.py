"""How a registry wants its blobs: learned from its answers, for as long as a run lasts."""

from __future__ import annotations

import re
from enum import Enum

MIB = 1024 * 1024
CHUNK_SIZE = 16 * MIB
_LEAST_CHUNK = MIB
_PUT_RESETS = 2  # broken PUTs of large blobs after which chunks are tried
_IN_ONE_PIECE = re.compile(
    r"(?:.*\.)?(?:pkg\.dev|gcr\.io)|ghcr\.io|.*\.dkr\.ecr(?:-fips)?\..*\.amazonaws\.com(?:\.cn)?|public\.ecr\.aws"
)
"""Registries that refuse chunks, or take only small ones (dotnet/sdk-container-builds#287, ocx-sh/ocx#237)."""


class Way(Enum):
    """How the bytes travel."""

    PUT = "one PUT"
    PATCH = "one PATCH, then an empty PUT"
    CHUNKS = "PATCHes, the last bytes in the PUT"


class Manner:
    """What one registry takes."""

    def __init__(self, host: str, chunk_size: int = CHUNK_SIZE) -> None:
        self.chunk_size = chunk_size
        self.range_is_stale = False  # it does not tell how much it has (Amazon's: aws/containers-roadmap#2831)
        self._in_chunks_from = None if _IN_ONE_PIECE.fullmatch(host) else 2 * chunk_size + 1
        self._largest_whole: int | None = None
        self._refused: set[Way] = set()
        self._resets = 0

    def way(self, size: int) -> Way:
        """The way for a blob of ``size`` bytes."""
        too_large = self._largest_whole is not None and size > self._largest_whole
        wants_chunks = self._in_chunks_from is not None and size >= self._in_chunks_from
        if (too_large or wants_chunks) and Way.CHUNKS not in self._refused:
            return Way.CHUNKS
        return next((way for way in (Way.PUT, Way.PATCH) if way not in self._refused), Way.CHUNKS)

    def refuse(self, way: Way) -> bool:
        """The registry does not take this way; whether there is another one left."""
        self._refused.add(way)
        return len(self._refused) < len(Way)

    def too_large(self, way: Way, length: int, least: int) -> bool:
        """A body of ``length`` bytes is too large; whether something smaller can be tried."""
        if way is not Way.CHUNKS:
            self._largest_whole = min(length - 1, self._largest_whole or length)
            if Way.CHUNKS in self._refused:
                return False
            self.chunk_size = max(_LEAST_CHUNK, least, min(self.chunk_size, length // 2))
            return length > self.chunk_size
        floor = max(_LEAST_CHUNK, least)
        if length <= floor:
            return False
        self.chunk_size = max(floor, min(self.chunk_size, length // 2))
        return True

    def broke(self, way: Way, size: int) -> None:
        """A body was cut off: after some, large blobs go in chunks, which lose less."""
        self._resets += way is not Way.CHUNKS and size > self.chunk_size
        if self._resets >= _PUT_RESETS and Way.CHUNKS not in self._refused:
            threshold = self.chunk_size + 1
            self._in_chunks_from = min(threshold, self._in_chunks_from or threshold)
