"""The order of a run: which site is begun next, which is decided without waiting, and how far ahead one may read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime

import anyio
from msgspec import Struct

from syncer.bundle import BundleView
from syncer.bundle.reader import BundleBlob
from syncer.content import Blob, FileBlob, Pieces
from syncer.files import InPlace
from syncer.formats.windows import closes_after, opens_after
from syncer.oci import Descriptor, Reference
from syncer.profiles.syncfile.site import Site
from syncer.transfer.plan import LARGE


class _Waiting(Struct):
    site: Site
    opens: datetime  # when its windows let it begin
    closes: datetime | None  # and when they end what runs then


class SiteQueue:
    """Sites that wait for their turn, in their order.

    Sites of one host follow each other: they share its limits, what is remembered of it, and its uploads.  A site
    is passed over while its window is shut or its group runs as many sites as it may.
    """

    def __init__(self, sites: Iterable[Site], now: datetime) -> None:
        self._waiting = {site.key: _waiting(site, now) for site in sites}
        self._hosts: set[str] = set()
        self._groups: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, now: datetime) -> tuple[Site, datetime | None] | None:
        """Take the first site that may begin, and the moment at which its window ends it; None when none may now."""
        for key, known in self._waiting.items():
            waiting = known
            if known.closes is not None and known.closes <= now:
                waiting = self._waiting[key] = _waiting(known.site, now)
            if waiting.opens <= now and self._has_room(waiting.site):
                del self._waiting[key]
                self._hosts.add(waiting.site.host)
                if waiting.site.group:
                    self._groups[waiting.site.group.name] += 1
                return waiting.site, waiting.closes
        return None

    def give_back(self, site: Site) -> None:
        """Note that a site that was taken has ended."""
        self._hosts.discard(site.host)
        if site.group:
            self._groups[site.group.name] -= 1

    def opens(self) -> datetime | None:
        """The moment at which the next window opens; None when nobody waits."""
        return min((waiting.opens for waiting in self._waiting.values()), default=None)

    def _has_room(self, site: Site) -> bool:
        if site.host in self._hosts:
            return False
        group = site.group
        return group is None or group.at_once is None or self._groups[group.name] < group.at_once


def _waiting(site: Site, now: datetime) -> _Waiting:
    return _Waiting(site, opens_after(site.windows, now), closes_after(site.windows, now))


_PATIENCE = 30.0  # seconds for which a site may make others wait within one window


class Convoy:
    """Sites that read one file of ``size`` bytes, and stay within ``window`` bytes of each other.

    So a disk reads the file once and not once a site, though memory does not hold all of it.  The file is a ring: a
    site that begins later begins where the others are, and reads what they had before at its end.  A reader that is
    too far ahead waits for the slowest.  A site that makes others wait for ``patience`` seconds within one window is
    left behind, and waited for no more until it is near again.
    """

    def __init__(self, size: int, window: int, patience: float = _PATIENCE) -> None:
        self.size = size
        self._window = window
        self._patience = patience
        self._places: set[Place] = set()
        self._slowest: Place | None = None  # that is not left behind
        self._back = 0  # the position of that one
        self._waiting = 0  # readers that are too far ahead
        self._looked = 0.0  # monotonic
        self._changed = anyio.Event()

    @contextmanager
    def join(self) -> Iterator[Place]:
        """A place among the others for a site that begins, until the block ends."""
        place = Place(self, self._back)
        self._places.add(place)
        try:
            yield place
        finally:
            self._places.discard(place)
            self.look()

    async def turn(self, place: Place, reader: object, at: int) -> None:
        """Wait until ``reader``, of the site at ``place``, should read from the position ``at`` on."""
        place.readers[reader] = at
        if at >= place.mark + self._window:
            place.mark, place.held = at, 0.0
        if place.is_behind and at + self._window >= self._back:
            place.is_behind = False
        self.look()
        if not self._is_ahead(at):
            return
        self._waiting += 1
        try:
            while self._is_ahead(at):
                assert self._slowest is not None
                with anyio.move_on_after(max(0.0, self._patience - self._slowest.held)):
                    await self._changed.wait()
                self.look()
        finally:
            self._waiting -= 1

    def _is_ahead(self, at: int) -> bool:
        return self._slowest is not None and at > self._back + self._window

    def look(self) -> None:
        """Find the slowest, and wake those who may wait no longer."""
        now = time.monotonic()
        slowest = self._slowest
        if slowest is not None and self._waiting:
            slowest.held += now - self._looked
            slowest.is_behind = slowest.is_behind or slowest.held >= self._patience
        self._looked = now
        near = ((min(each.readers.values()), each) for each in self._places if each.readers and not each.is_behind)
        found = min(near, key=lambda pair: pair[0], default=None)
        back, self._slowest = found or (self._back, None)
        if back != self._back or self._slowest is not slowest:
            self._back = back
            self._changed.set()
            self._changed = anyio.Event()


class Place:
    """The place of one site in a convoy; positions count on where the file begins anew."""

    def __init__(self, convoy: Convoy, origin: int) -> None:
        self.readers: dict[object, int] = {}  # the position of each piece of content that is read, or is to be read
        self.is_behind = False
        self.mark = origin
        self.held = 0.0  # seconds for which others waited for it since it was at ``mark``
        self._convoy = convoy
        self._origin = origin

    def rank(self, start: int) -> int:
        """The order of content that begins at byte ``start`` of the file, for this site."""
        return (start - self._origin) % self._convoy.size

    async def turn(self, reader: object, start: int, offset: int) -> None:
        """Wait until ``reader`` should read on at ``offset`` of the content that begins at ``start``."""
        await self._convoy.turn(self, reader, self._origin + self.rank(start) + offset)

    def over(self, reader: object) -> None:
        """Note that ``reader`` reads no more."""
        if self.readers.pop(reader, None) is not None:
            self._convoy.look()


class ConvoySource(BundleView, frozen=True):
    """Implements ``Source``, ``Ranking`` and ``Bringing`` for a site that reads a bundle beside others."""

    place: Place

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        blob = self.bundle.blob(reference, descriptor)
        start = self.bundle.place(descriptor.digest) if descriptor.size >= LARGE else None
        if start is None or not isinstance(blob, BundleBlob):
            return blob
        return _ConvoyBlob(descriptor, blob, self.place, start)

    def rank(self, descriptor: Descriptor) -> int:
        """Large blobs come in the order of the file, from where the others are."""
        return self.place.rank(self.bundle.place(descriptor.digest) or 0)


@dataclass(frozen=True, slots=True)
class _ConvoyBlob(FileBlob):
    """A large blob, which is read beside others."""

    descriptor: Descriptor
    blob: BundleBlob
    place: Place
    start: int  # its first byte's place in the file

    def open(self, offset: int = 0) -> AbstractAsyncContextManager[Pieces]:
        """See ``content.Blob``."""
        return self.blob.open(offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See ``content.FileBlob``."""
        return self.blob.read_into(buffer, offset)

    def in_place(self, offset: int, length: int) -> InPlace | None:
        """See ``content.FileBlob``."""
        return self.blob.in_place(offset, length)

    async def turn(self, offset: int) -> None:
        """See ``content.FileBlob``."""
        await self.place.turn(self.descriptor.digest, self.start, offset)

    def over(self) -> None:
        """See ``content.FileBlob``."""
        self.place.over(self.descriptor.digest)
