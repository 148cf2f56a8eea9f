"""The journal of the sites that have all of a bundle, by which a run may pass them over without a question.

It knows what was brought from this machine, and nothing of what became of it since: a hint, safe to delete, and only
believed where that is asked for.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson
from anyio import to_thread
from msgspec import Struct, field

from syncer.api.bundles import BundleSource, bundle_name
from syncer.bundle import Bundle
from syncer.files import lock, sync
from syncer.oci import Platform
from syncer.profiles.syncfile.site import Site

if TYPE_CHECKING:
    from syncer.fleet.result import SiteResult
    from syncer.fleet.visits import Ended, Visit
    from syncer.report.summary import Reported
    from syncer.transfer.events import Emit


_KEPT = 90 * 24 * 3600.0  # seconds after the last run with a bundle, for which its file stays
_SUFFIX = ".sites"


class Cargo(Struct, frozen=True):
    """The content that a run brings to a site: the digest of each image by its name, and the definition."""

    images: Mapping[str, str]
    definition: str  # its digest, or the bundle's name where it is made of the images

    @classmethod
    def of(cls, bundle: Bundle, chosen: BundleSource, platform: Platform | None) -> Self:
        """The images of ``bundle`` that were ``chosen``; all that is below them follows from their digests.

        No byte of a layer is read: the index and the definition, which a bundle is opened by, say it all.
        """
        wanted = {item.source for item in chosen.items}
        reduced = f" {platform}" if platform else ""
        images = {
            str(image.reference): f"{image.descriptor.digest}{reduced}"
            for image in bundle.images
            if image.reference in wanted
        }
        made_of = bundle.definition or bundle_name(bundle).encode()
        return cls(images, hashlib.sha256(made_of).hexdigest())

    @property
    def digest(self) -> str:
        """The name of this cargo among all others, 40 hexadecimal digits."""
        content = orjson.dumps([self.images, self.definition], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(content).hexdigest()[:40]

    def contradicts(self, images: Mapping[str, str]) -> bool:
        """Tell whether one of ``images`` has the name of one of ours, and other content."""
        return any(self.images.get(name, digest) != digest for name, digest in images.items())


class _Line(Struct, frozen=True):
    """One line of a file: a run at a site; times are in nanoseconds since 1970."""

    site: str  # its key
    mapping: str  # the fingerprint of its rules of names
    begun: int
    ended: int  # when the site had everything; 0 in the line that was written before anything was sent

    @classmethod
    def parse(cls, record: bytes) -> Self | None:
        """The line that ``record`` is, if it is one."""
        match orjson.loads(record):
            case [str(site), str(mapping), int(begun), int(ended)]:
                return cls(site, mapping, begun, ended)
        return None

    def to_bytes(self) -> bytes:
        return orjson.dumps([self.site, self.mapping, self.begun, self.ended])


class FleetJournal(Struct):
    """The notes of runs about sites, in ``directory``, one file for each cargo, which only this user can read.

    A line is on the disk before a site is asked anything, and another one follows when it has everything.  A site has
    what a line says only while no later line tells of other content under the same names.  Several runs may write at
    once.  What cannot be kept is gone without, and ``lost`` is told why.
    """

    directory: Path
    cargo: Cargo
    lost: Callable[[OSError], None]
    _own: dict[str, _Line] = field(default_factory=dict)  # the last one about each site
    _others: dict[str, dict[str, int]] = field(default_factory=dict)  # by site and mapping: when it changed last
    _began: dict[str, int] = field(default_factory=dict)
    _latest: int = 0

    def load(self) -> None:
        """Read what is known of all sites."""
        with self._hint():
            for path in self.directory.glob(f"*{_SUFFIX}"):
                self._read(path)

    def has(self, site: Site) -> bool:
        """Tell whether ``site`` had everything when a run ended there, and nothing else was begun there since."""
        line = self._own.get(site.key)
        names = site.mapping.fingerprint
        if line is None or not line.ended or line.mapping != names:
            return False
        since = (time for mapping, time in self._others.get(site.key, {}).items() if mapping != names)
        return max(since, default=0) < line.begun

    async def begin(self, site: Site) -> None:
        """Note that ``site`` is about to change; the note survives a power failure once this returns."""
        now = self._began[site.key] = self._now()
        await to_thread.run_sync(partial(self._append, _Line(site.key, site.mapping.fingerprint, now, 0), is_safe=True))

    async def finish(self, site: Site) -> None:
        """Note that ``site`` has everything."""
        line = _Line(site.key, site.mapping.fingerprint, self._began.pop(site.key), self._now())
        await to_thread.run_sync(self._append, line)

    def noting(self, visit: Visit) -> Visit:
        """``visit`` with a note when it begins, and one when a site has everything, before anybody hears of that."""

        async def noted(site: Site, emit: Emit | None, seconds: float | None, ended: Ended) -> None:
            await self.begin(site)
            ends: list[tuple[SiteResult, Reported | None]] = []
            try:
                await visit(site, emit, seconds, lambda result, report: ends.append((result, report)))
                if all(result.state.is_good for result, _ in ends):
                    await self.finish(site)
            finally:
                for result, report in ends:
                    ended(result, report)

        return noted

    def _now(self) -> int:
        """The time, and never one before that of a line which was read: a clock may have been set back."""
        return max(time.time_ns(), self._latest + 1)

    def _read(self, path: Path) -> None:
        if path.stat().st_mtime < time.time() - _KEPT:
            path.unlink(missing_ok=True)
            return
        images: Any = None
        is_own = agrees = path == self._path
        with path.open("rb") as file:
            for written in file:
                checksum, _, record = written.rstrip(b"\n").partition(b" ")
                if checksum != b"%08x" % zlib.crc32(record):
                    continue  # it was torn, or is the empty line that ends such a one
                if images is None:
                    images = orjson.loads(record)
                    agrees = is_own or (isinstance(images, dict) and not self.cargo.contradicts(images))
                elif line := _Line.parse(record):
                    self._latest = max(self._latest, line.begun, line.ended)
                    if is_own:
                        self._own[line.site] = line
                    changed = self._others.setdefault(line.site, {})
                    mapping = line.mapping if agrees else ""
                    changed[mapping] = max(changed.get(mapping, 0), line.begun, line.ended)

    def _append(self, line: _Line, *, is_safe: bool = False) -> None:
        with self._hint():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = lock(self._path, mode=0o600)
            try:
                records = [line.to_bytes()]
                if not os.lseek(file, 0, os.SEEK_END):
                    records.insert(0, orjson.dumps(self.cargo.images))
                # a torn line before this one ends here at the latest
                os.write(file, b"".join(b"\n%08x %s\n" % (zlib.crc32(record), record) for record in records))
                if is_safe:
                    sync(file)
            finally:
                os.close(file)

    @property
    def _path(self) -> Path:
        return self.directory / f"{self.cargo.digest}{_SUFFIX}"

    @contextmanager
    def _hint(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost(error)
