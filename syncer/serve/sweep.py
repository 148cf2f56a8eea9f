"""Freeing what nobody needs, while requests are served.

A blob belongs to a repository as long as a manifest of that repository lists it, or for as long as it is young: the
manifest of a push comes last.  Content stays as long as a repository has it.  A manifest is removed by nobody but
``DELETE``.  What is in doubt stays.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from syncer.errors import SyncerError
from syncer.oci import Digest, parse_manifest
from syncer.oci.manifest import Manifest
from syncer.serve.directory import Layout, read_plain


@dataclass(slots=True)
class Arrivals:
    """Digests that requests need at this moment, or have needed since the sweep began: none of them is removed.

    A sweep looks at a repository once.  Whoever makes a link, or relies on one, says so here first.
    """

    _lock: Lock = field(default_factory=Lock)  # held for a moment at a time
    _now: Counter[Digest] = field(default_factory=Counter)
    _since: set[Digest] | None = None  # None while nothing is swept

    @contextmanager
    def of(self, digests: Iterable[Digest]) -> Iterator[None]:
        """While the block lasts, and until the end of a sweep that goes on, ``digests`` stay where they are."""
        needed = set(digests)
        with self._lock:
            self._now.update(needed)
        try:
            yield
        finally:
            with self._lock:
                self._now -= Counter(needed)
                if self._since is not None:
                    self._since |= needed

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remember what arrives for as long as the block lasts."""
        with self._lock:
            self._since = set()
        try:
            yield
        finally:
            with self._lock:
                self._since = None

    def remove(self, digest: Digest, path: Path, before: float) -> bool:
        """Remove the file ``path`` of ``digest``, unless it is needed or younger than ``before``."""
        with self._lock:
            if digest in self._now or digest in (self._since or ()) or not _is_older(path, before):
                return False
            path.unlink()
            return True


@dataclass(frozen=True, slots=True)
class Sweep:
    """One walk over a registry's directory, which removes what is older than ``before`` (seconds of the epoch).

    It ends early, with nothing half done, when ``going_on`` says no.
    """

    layout: Layout
    arrivals: Arrivals
    before: float
    going_on: Callable[[], bool]

    def run(self) -> int:
        """How many pieces of content were removed."""
        removed = 0
        with self.arrivals.watched():
            kept: set[Digest] = set()
            for repository, parts in list(self.layout.names()):
                if not self.going_on():
                    return removed
                if "_blobs" in parts:
                    self._unlink(repository)
                for kind in parts & {"_blobs", "_manifests"}:
                    kept.update(self.layout.links(repository, kind))
            for digest in self.layout.contents():
                if not self.going_on():
                    break
                if digest not in kept:
                    removed += self.arrivals.remove(digest, self.layout.content(digest), self.before)
        return removed

    def _unlink(self, repository: str) -> None:
        """Take those blobs from a repository that none of its manifests lists."""
        links = {digest: self.layout.link(repository, "_blobs", digest) for digest in self._blobs(repository)}
        if not links:
            return
        for manifest in self.layout.links(repository, "_manifests"):
            listed = self._listed(repository, manifest)
            if listed is None or not self.going_on():
                return
            for digest in listed:
                links.pop(digest, None)
        for digest, link in links.items():
            self.arrivals.remove(digest, link, self.before)

    def _blobs(self, repository: str) -> Iterator[Digest]:
        """The blobs of a repository that are old enough to go."""
        for digest in self.layout.links(repository, "_blobs"):
            if _is_older(self.layout.link(repository, "_blobs", digest), self.before):
                yield digest

    def _listed(self, repository: str, digest: Digest) -> set[Digest] | None:
        """What a manifest lists, foreign layers included; None when it cannot be told."""
        try:
            media_type = read_plain(self.layout.link(repository, "_manifests", digest)).decode()
            manifest = parse_manifest(read_plain(self.layout.content(digest)), media_type, expected=digest)
        except FileNotFoundError:
            # deleted a moment ago; or damaged, if only its content is missing
            return None if self.layout.link(repository, "_manifests", digest).exists() else set()
        except (SyncerError, UnicodeDecodeError):
            return None
        if isinstance(manifest, Manifest):
            return {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        return {child.digest for child in manifest.manifests}


def _is_older(path: Path, before: float) -> bool:
    """Whether ``path`` is a plain file that was last changed before that; no, if it is gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_mtime < before
