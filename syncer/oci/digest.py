"""The digest: the name of some content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from syncer.errors import InvalidContent

if TYPE_CHECKING:
    from hashlib import _Hash


_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}  # less than half of what hashlib.new takes
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The name of some content, such as ``sha256:2cf24d…``.

    The algorithm is sha256 or sha512, in lower case and of exactly the right length (image-spec descriptor.md); a
    laxer check would allow CVE-2024-3727.

    >>> Digest.of(b"hello").short
    'sha256:2cf24dba5fb0'
    """

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``algorithm:hex``; raises ``InvalidContent``."""
        algorithm, colon, hexadecimal = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if not colon or length is None:
            raise InvalidContent(f"{text[:160]!r} is not a digest: it must start with sha256: or sha512:")
        if len(hexadecimal) != length:
            raise InvalidContent(f"{text[:160]!r} is not a digest: {algorithm} has {length} hexadecimal digits")
        if not _HEX.issuperset(hexadecimal):
            raise InvalidContent(f"{text[:160]!r} is not a digest: its digits must be 0-9 and a-f")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, content: bytes | memoryview, algorithm: str = "sha256") -> Self:
        """The digest of ``content``."""
        return cls(algorithm, _HASHES[algorithm](content).hexdigest())

    def hasher(self) -> _Hash:
        """An empty hash of this digest's algorithm."""
        return _HASHES[self.algorithm]()

    def matches(self, hasher: _Hash) -> bool:
        """Tell whether the bytes that went into ``hasher`` are the content that this digest names."""
        return hasher.name == self.algorithm and hasher.hexdigest() == self.hex

    @property
    def short(self) -> str:
        return f"{self.algorithm}:{self.hex[:12]}"

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
