"""Durations as people write them."""

from __future__ import annotations

import re

from syncer.errors import UsageError

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def parse_duration(text: str) -> float:
    """The seconds in ``90``, ``30s``, ``5m``, ``1h30m``; raises ``UsageError``.

    >>> parse_duration("1h30m")
    5400.0
    """
    parts = _PART.findall(text)
    if not parts or "".join(map("".join, parts)) != text or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise UsageError(f"{text[:40]!r} is not a duration", hint="write it like 90s, 30m or 1h30m")
    seconds = float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    if seconds <= 0:
        raise UsageError("a duration must be longer than nothing", hint="write it like 90s, 30m or 1h30m")
    return seconds
