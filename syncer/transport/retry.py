"""The arithmetic of retries: the number of attempts, and the seconds between them."""

from __future__ import annotations

import email.utils
import random
from collections.abc import Mapping
from datetime import UTC, datetime

import anyio

from syncer.transport.settings import Limits

PAUSING = frozenset({429, 503})
"""Statuses by which a host asks for a pause of all requests."""

TRANSIENT = PAUSING | {408, 425, 499, 500, 502, 504, *range(520, 528)}
"""Statuses for which another attempt may succeed; 52x are Cloudflare's."""

PROGRESS = 1024 * 1024
"""Bytes that an attempt must have transferred to count as progress."""


_MOST_STALLS = 3  # each attempt may begin a virus scan, or a download of a cache, anew


class Budget:
    """The attempts that one piece of work has left; after progress it has all of them again."""

    def __init__(self, limits: Limits, attempts: int | None = None) -> None:
        self._limits = limits
        self._attempts = attempts or limits.attempts
        self.failures = 0
        self.stalls = 0  # for which a blob was waited in vain

    @property
    def is_spent(self) -> bool:
        return self.failures + 1 >= self._attempts or self.stalls >= _MOST_STALLS

    def progressed(self) -> None:
        """Forget the failed attempts, because bytes were transferred."""
        self.failures = self.stalls = 0

    def jitter(self) -> float:
        """Seconds to wait before the next attempt: full jitter below a ceiling that doubles."""
        ceiling = min(self._limits.longest_backoff, self._limits.backoff * 2**self.failures)
        return random.uniform(0, ceiling)  # noqa: S311  (jitter is no secret)

    async def sleep(self, *, at_least: float = 0.0) -> None:
        """Count one failed attempt, and wait before the next one, for at least ``at_least`` seconds."""
        seconds = max(at_least, self.jitter())
        self.failures += 1
        await anyio.sleep(seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that ``Retry-After`` asks for; None when there is none, or it cannot be read.

    A date is compared with the server's own ``Date``, so that neither clock needs to be right (RFC 9110 §10.2.3).
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    until, now = _date(text), _date(headers.get("Date", ""))
    if until is None:
        return None
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        parsed = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
