"""What is remembered of uploads that are under way, so that a killed push can go on with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from syncer.oci import Digest


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload session: where it goes on, and how many bytes the registry has taken.

    A location may be as good as a password to that one session.
    """

    location: str
    offset: int


class UploadJournal(Protocol):
    """Keeps the newest state of each upload; all methods may block, and are called in a worker thread."""

    def load(self, repository: str, digest: Digest) -> Unfinished | None:
        """The unfinished upload of a blob, if one is known."""
        ...

    def save(self, repository: str, digest: Digest, state: Unfinished) -> None:
        """Remember ``state``; it survives a power failure once this returns."""
        ...

    def drop(self, repository: str, digest: Digest) -> None:
        """Forget the upload: it is finished, or lost."""
        ...
