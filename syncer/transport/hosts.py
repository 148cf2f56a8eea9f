"""Limits of one host: its counters, its pauses, its rate of requests and bytes, and the quota that it tells.

Docker Hub sends ``ratelimit-remaining: 76;w=21600``, which counts the manifests that are fetched, and none of
what is only asked about (docs.docker.com, "Docker Hub pull usage and limits"); others follow the drafts of
"RateLimit header fields for HTTP", or GitHub.  They are read leniently.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio

from syncer.errors import Waiting
from syncer.transport.settings import HostSettings

_NUMBER = re.compile(r"\s*([0-9]{1,12})")
_WINDOW = re.compile(r";\s*w\s*=\s*([0-9]{1,9})")
_FIELDS = re.compile(r";\s*([rt])\s*=\s*([0-9]{1,12})")
_AN_INSTANT = 1_000_000_000  # seconds since 1970; a smaller number is a time to wait


@dataclass(frozen=True, slots=True)
class Quota:
    """``remaining`` requests are left, and there will be more in ``seconds``."""

    remaining: int
    seconds: float
    is_of_pulls: bool  # only manifests that are fetched count


def told_quota(headers: Mapping[str, str]) -> Quota | None:
    """The quota that an answer's headers tell; None when they tell none that is of use."""
    remaining = headers.get("ratelimit-remaining") or headers.get("x-ratelimit-remaining") or ""
    if not remaining and "ratelimit" not in headers:
        return None
    reset = _number(headers.get("ratelimit-reset") or headers.get("x-ratelimit-reset") or "")
    fields = dict(_FIELDS.findall(headers.get("ratelimit") or ""))
    if "r" in fields:
        return Quota(int(fields["r"]), float(fields.get("t", 0)), is_of_pulls=False)
    left = _number(remaining)
    window = _WINDOW.search(remaining) or _WINDOW.search(headers.get("ratelimit-limit") or "")
    if left is None or (reset is None and window is None):
        return None
    if reset is not None:
        seconds = max(0.0, reset - time.time()) if reset > _AN_INSTANT else float(reset)
    else:
        assert window is not None
        seconds = float(window[1])
    return Quota(left, seconds, is_of_pulls="w=" in remaining)


def _number(text: str) -> int | None:
    found = _NUMBER.match(text)
    return int(found[1]) if found else None


class Rate:
    """So much a second, evenly spread; worker threads may take from it too."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._next = 0.0  # monotonic: when the next one may go
        self._lock = threading.Lock()

    def take(self, amount: float, now: float | None = None) -> float:
        """Take ``amount``; returns the seconds to wait for it.

        >>> rate = Rate(4)
        >>> [rate.take(1, now=100.0) for _ in range(3)]
        [0.0, 0.25, 0.5]
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            begin = max(self._next, now)
            self._next = begin + amount / self._per_second
        return begin - now


class Room:
    """At most so many requests to one host at a time.

    A blob on its way from one registry to another holds a request to each.  Who holds one and waits for the
    other could wait for ever, so such work is let in beforehand: no more of it than there is room for
    requests.
    """

    def __init__(self, limit: int) -> None:
        self.requests = anyio.Semaphore(limit)
        self._work = anyio.Semaphore(limit)
        self._pairing = anyio.Lock()
        self._is_single = limit == 1

    async def let_in(self, stack: AsyncExitStack, holds: int) -> None:
        """Wait until work that will hold ``holds`` requests, one or two, may begin; it ends with ``stack``."""
        async with self._pairing if holds > 1 else AsyncExitStack():
            if holds > 1 and self._is_single:  # a download that feeds an upload to the same host needs its own request
                self._is_single = False
                self.requests.release()
                self._work.release()
            for _ in range(holds):
                await stack.enter_async_context(self._work)


_SPREAD = 1.0  # seconds over which those who waited come back, so that they do not all come at once


@dataclass(slots=True)
class Traffic:
    """The counters of one host, which a report reads, and what it may be burdened with."""

    host: str
    settings: HostSettings = field(default_factory=HostSettings)
    requests: Counter[str] = field(default_factory=Counter)  # by method
    retries: int = 0
    errors: int = 0  # requests that failed for good
    throttled: int = 0  # answers of status 429
    bytes_in: int = 0  # of bodies
    bytes_out: int = 0
    pauses: int = 0
    paused_seconds: float = 0.0
    is_down: bool = False  # it failed all attempts of a request, and has not answered well since
    room: Room | None = field(init=False)
    _until: float = 0.0  # monotonic
    _pulls_until: float = 0.0  # likewise, for what a quota of pulls counts
    _requests_rate: Rate | None = field(init=False)
    _bytes_rate: Rate | None = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.room = Room(settings.concurrency) if settings.concurrency else None
        self._requests_rate = Rate(settings.requests_per_second) if settings.requests_per_second else None
        self._bytes_rate = Rate(settings.bytes_per_second) if settings.bytes_per_second else None

    @property
    def is_paced(self) -> bool:
        """Whether somebody wants this host to be asked slowly."""
        return self._requests_rate is not None or self._bytes_rate is not None

    def pause(self, seconds: float) -> None:
        """Let nobody start a request to this host for so long."""
        until = time.monotonic() + seconds
        if until > self._until:
            self.pauses += 1
            self.paused_seconds += until - max(self._until, time.monotonic())
            self._until = until

    @property
    def pause_left(self) -> float:
        """Seconds until requests may start again."""
        return max(0.0, self._until - time.monotonic())

    def heed(self, quota: Quota) -> None:
        """Ask no more than the host says it will answer."""
        if quota.remaining > 0:
            return
        if not quota.is_of_pulls:
            self.pause(quota.seconds)
        elif (until := time.monotonic() + quota.seconds) > self._pulls_until + _SPREAD:
            self.pauses += 1
            self.paused_seconds += quota.seconds
            self._pulls_until = until

    def owed(self, size: int) -> float:
        """Seconds to wait for ``size`` bytes of a body that came or are to go."""
        return self._bytes_rate.take(size) if self._bytes_rate else 0.0

    async def ready(self, longest: float, *, is_pull: bool = False) -> None:
        """Return when the host may be asked; raises ``Waiting`` if that takes more than ``longest`` seconds.

        ``is_pull`` says that the request is of the kind that a quota of pulls counts.
        """
        while True:
            left = max(self._until, self._pulls_until if is_pull else 0.0) - time.monotonic()
            if left <= 0:
                break
            if left > longest:
                self.errors += 1
                raise Waiting(self.host, left, longest)
            await anyio.sleep(left + random.uniform(0, min(left, _SPREAD)))  # noqa: S311  (jitter is no secret)
        if self._requests_rate:
            await anyio.sleep(self._requests_rate.take(1))
