"""Windows of time, ``22:00-05:00 Europe/Berlin``: every day from one time on a wall clock to another one.

A window lasts over midnight when it ends before it begins.  On the night on which clocks are set forward, a time that
does not come is the moment of the change.  On the night on which they are set back, an hour comes twice: a window
that begins in it begins the second time, and one that ends in it ends the first time, so that it is never open when
it might be meant to be shut.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from types import ModuleType
from typing import Self

from msgspec import Struct

from syncer.errors import UsageError

_WINDOW = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})(?:\s+(\S+))?", re.ASCII)
_DAY = 24 * 60  # minutes
_HOW = "write it like 22:00-05:00 Europe/Berlin"
_DAYS_AHEAD = 8  # more than any window stays shut, on a change of clocks as well


class Window(Struct, frozen=True):
    """A time of each day in a zone; ``begin`` and ``end`` are minutes since midnight on the clocks there.

    >>> window = Window.parse("22:00-05:00 Europe/Berlin")
    >>> window.opens_after(datetime(2024, 1, 15, 12, tzinfo=UTC)).isoformat()
    '2024-01-15T21:00:00+00:00'
    """

    begin: int
    end: int
    zone: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``HH:MM-HH:MM ZONE``, where the end may be 24:00; raises ``UsageError``."""
        found = _WINDOW.fullmatch(text.strip())
        if found is None:
            raise UsageError(f"{text[:80]!r} is not a window of time", hint=_HOW)
        begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        if begin >= _DAY or end > _DAY or int(found[2]) > 59 or int(found[4]) > 59:
            raise UsageError(f"{text[:80]!r} names a time that no clock shows", hint=_HOW)
        if found[5] is None:
            raise UsageError(f"{text[:80]!r} names no zone", hint=f"{_HOW}, or UTC for its zone")
        if begin == end:
            raise UsageError(f"{text[:80]!r} never opens", hint="00:00-24:00 is the whole day")
        require_zone(found[5])
        return cls(begin, end, found[5])

    def opens_after(self, now: datetime) -> datetime:
        """The first moment from ``now`` on at which it is open, in UTC: ``now`` itself if it is open."""
        return max(next(begin for begin, end in self._times(now) if end > now), now.astimezone(UTC))

    def closes_after(self, now: datetime) -> datetime:
        """The moment at which it closes next after it was open, in UTC; see ``opens_after``."""
        return next(end for _, end in self._times(now) if end > now)

    def is_open(self, now: datetime) -> bool:
        return self.opens_after(now) == now

    def _times(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """When it opens and closes, from the day before ``now`` on."""
        zone = _zoneinfo().ZoneInfo(self.zone)
        today = now.astimezone(zone).date()
        for day in (today + timedelta(days=ahead) for ahead in range(-1, _DAYS_AHEAD)):
            begin = max(_moments(day, self.begin, zone))
            end = min(_moments(day if self.end > self.begin else day + timedelta(days=1), self.end, zone))
            if begin < end:
                yield begin, end

    def __str__(self) -> str:
        times = (f"{minutes // 60:02}:{minutes % 60:02}" for minutes in (self.begin, self.end))
        return f"{'-'.join(times)} {self.zone}"


def opens_after(windows: Iterable[Window], now: datetime) -> datetime:
    """The first moment from ``now`` on at which one of ``windows`` is open, in UTC; without any it is ``now``."""
    return min((window.opens_after(now) for window in windows), default=now.astimezone(UTC))


def closes_after(windows: Iterable[Window], now: datetime) -> datetime | None:
    """The first moment after ``opens_after`` at which none of ``windows`` is open, in UTC.

    None when that never comes: there are no windows, or one follows upon the other.
    """
    windows = tuple(windows)
    last = moment = opens_after(windows, now)
    while windows and moment - last < timedelta(days=_DAYS_AHEAD):
        open_now = [window for window in windows if window.is_open(moment)]
        if not open_now:
            return moment
        moment = max(window.closes_after(moment) for window in open_now)
    return None


def require_zone(name: str) -> None:
    """Raise ``UsageError`` when ``name`` is no zone that this machine knows."""
    try:
        _zoneinfo().ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not known; no name at all; a directory of names
        known = _zoneinfo().available_timezones()
        if not known:
            raise UsageError(
                f"this machine knows no zones, {name[:40]!r} among them",
                hint="install tzdata",
            ) from None
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else "name a city as in Europe/Berlin, or UTC"
        raise UsageError(f"{name[:40]!r} is not a zone", hint=hint) from None


def _zoneinfo() -> ModuleType:
    import zoneinfo  # noqa: PLC0415  slow to import, and few sites have windows

    return zoneinfo


def _moments(day: date, minutes: int, zone: tzinfo) -> tuple[datetime, ...]:
    """The moments, in UTC, at which clocks in ``zone`` show that time: one, or two if they are set back over it.

    A time that clocks leave out gives the moment at which they are set forward.
    """
    days, minutes = divmod(minutes, _DAY)
    shown = datetime.combine(day + timedelta(days=days), time(minutes // 60, minutes % 60))
    first, second = (shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return first, second
    while first - second > timedelta(seconds=1):  # the time is left out: `second` lies before the change, `first` after
        middle = second + (first - second) // 2
        if middle.astimezone(zone).replace(tzinfo=None) < shown:
            second = middle
        else:
            first = middle
    return (first.replace(microsecond=0),)
