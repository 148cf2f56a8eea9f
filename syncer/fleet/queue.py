"""The order in which sites are begun: it decides, and never waits itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct

from syncer.formats.windows import closes_after, opens_after
from syncer.profiles.syncfile.site import Site


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
                self._hosts.add(_host(waiting.site))
                if waiting.site.group:
                    self._groups[waiting.site.group.name] += 1
                return waiting.site, waiting.closes
        return None

    def give_back(self, site: Site) -> None:
        """Note that a site that was taken has ended."""
        self._hosts.discard(_host(site))
        if site.group:
            self._groups[site.group.name] -= 1

    def opens(self) -> datetime | None:
        """The moment at which the next window opens; None when nobody waits."""
        return min((waiting.opens for waiting in self._waiting.values()), default=None)

    def _has_room(self, site: Site) -> bool:
        if _host(site) in self._hosts:
            return False
        group = site.group
        return group is None or group.at_once is None or self._groups[group.name] < group.at_once


def _waiting(site: Site, now: datetime) -> _Waiting:
    return _Waiting(site, opens_after(site.windows, now), closes_after(site.windows, now))


def _host(site: Site) -> str:
    return site.key.partition("/")[0]
