"""The ways in which a registry takes blobs, learned from its answers for as long as a run lasts."""

from __future__ import annotations

import re
from enum import Enum

MIB = 1024 * 1024
CHUNK_SIZE = 16 * MIB
_LEAST_CHUNK = MIB
_BREAKS = 2  # bodies cut off one after the other, after which a smaller one is tried
_IN_ONE_PIECE = re.compile(
    r"(?:.*\.)?(?:pkg\.dev|gcr\.io)|ghcr\.io|.*\.dkr\.ecr(?:-fips)?\..*\.amazonaws\.com(?:\.cn)?|public\.ecr\.aws"
)
"""Registries that refuse chunks, or take only small ones (dotnet/sdk-container-builds#287, ocx-sh/ocx#237)."""


class Way(Enum):
    """The requests that bring the bytes of a blob."""

    PUT = "one PUT"
    PATCH = "one PATCH, then an empty PUT"
    CHUNKS = "PATCHes, the last bytes in the PUT"


class Manner:
    """The ways that one registry takes.  A way that has worked before is not given up after a failure."""

    def __init__(self, host: str, chunk_size: int = CHUNK_SIZE) -> None:
        self.chunk_size = chunk_size
        self.range_is_stale = False  # it does not tell how much it has (Amazon's: aws/containers-roadmap#2831)
        self._in_chunks_from = None if _IN_ONE_PIECE.fullmatch(host) else 2 * chunk_size + 1  # bytes of a blob
        self._largest_whole: int | None = None
        self._refused: set[Way] = set()
        self._works: set[Way] = set()
        self._breaks = 0

    def way(self, size: int) -> Way:
        """The way for a blob of ``size`` bytes."""
        too_large = self._largest_whole is not None and size > self._largest_whole
        wants_chunks = self._in_chunks_from is not None and size >= self._in_chunks_from
        if (too_large or wants_chunks) and Way.CHUNKS not in self._refused:
            return Way.CHUNKS
        return next((way for way in (Way.PUT, Way.PATCH) if way not in self._refused), Way.CHUNKS)

    def takes_whole(self, size: int) -> bool:
        """Tell whether a blob of ``size`` bytes may go in one PUT, as far as is known."""
        return Way.PUT not in self._refused and (self._largest_whole is None or size <= self._largest_whole)

    def takes(self, way: Way) -> bool:
        """Tell whether the registry has not refused this way."""
        return way not in self._refused

    def worked(self, way: Way) -> None:
        """The registry took a body that came this way."""
        self._works.add(way)
        self._breaks = 0

    def refuse(self, way: Way) -> bool:
        """The registry does not take this way; whether there is another one left."""
        if way in self._works or len(self._refused | {way}) == len(Way):
            return False
        self._refused.add(way)
        return True

    def too_large(self, way: Way, length: int, least: int) -> bool:
        """A body of ``length`` bytes is too large; whether something smaller can be tried."""
        floor = max(_LEAST_CHUNK, least)
        if length <= floor:
            return False
        if way is not Way.CHUNKS:
            if Way.CHUNKS in self._refused:
                return False
            self._largest_whole = min(length - 1, self._largest_whole or length)
        self.chunk_size = max(floor, min(self.chunk_size, length // 2))
        return True

    def broke(self, way: Way) -> None:
        """A body was cut off.  After some in a row, blobs go in chunks, and chunks get smaller: less is lost, and
        a limit that shows itself by nothing else is found.
        """
        self._breaks += 1
        if self._breaks < _BREAKS or Way.CHUNKS in self._refused:
            return
        if way is Way.CHUNKS:
            self.chunk_size = max(_LEAST_CHUNK, self.chunk_size // 2)
        self._in_chunks_from = self.chunk_size + 1
