"""What went over the wire, counted for each host, and the pauses that a host asked for."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

import anyio

from syncer.errors import Waiting
from syncer.transport.pacing import Rate, Room
from syncer.transport.quota import Quota
from syncer.transport.settings import HostSettings

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
    def is_paused(self) -> bool:
        return self._until > time.monotonic()

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
