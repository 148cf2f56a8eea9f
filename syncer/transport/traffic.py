"""What went over the wire, counted for each host, and the pauses that a host asked for."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

import anyio

from syncer.errors import Waiting

_SPREAD = 1.0  # seconds over which those who waited come back, so that they do not all come at once


@dataclass(slots=True)
class Traffic:
    """The counters of one host; a report reads them."""

    host: str
    requests: Counter[str] = field(default_factory=Counter)  # by method
    retries: int = 0
    throttled: int = 0  # answers of status 429
    bytes_in: int = 0  # of bodies
    bytes_out: int = 0
    pauses: int = 0
    paused_seconds: float = 0.0
    _until: float = 0.0  # monotonic

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

    async def ready(self, longest: float) -> None:
        """Return when the host is not paused; raises ``Waiting`` if that takes more than ``longest`` seconds."""
        while True:
            left = self._until - time.monotonic()
            if left <= 0:
                return
            if left > longest:
                raise Waiting(self.host, left, longest)
            await anyio.sleep(left + random.uniform(0, min(left, _SPREAD)))  # noqa: S311  (jitter is no secret)
