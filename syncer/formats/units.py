"""Durations and numbers of bytes in the way people write them."""

from __future__ import annotations

import re

from syncer.errors import UsageError

_BYTES = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kKMGT]?i?)(?P<of>B|bit)?")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"k": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def byte_count(text: str) -> int:
    """The number of bytes in ``50M``, ``64KiB`` or ``200Mbit``; raises ``UsageError``."""
    match = _BYTES.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text[:40]!r} is not a number of bytes", hint="write it like 50M, 64MiB or 200Mbit")
    unit = match["unit"].replace("K", "k")
    factor = _BINARY.get(unit.removesuffix("i")) if unit.endswith("i") else _FACTORS[unit]
    if factor is None:
        raise UsageError(f"{text[:40]!r} is not a number of bytes", hint="write it like 50M, 64MiB or 200Mbit")
    count = int(float(match["number"]) * factor / (8 if match["of"] == "bit" else 1))
    if count < 1:
        raise UsageError(f"{text[:40]!r} is less than one byte")
    return count


_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def parse_duration(text: str) -> float:
    """The number of seconds in ``90``, ``30s``, ``5m`` or ``1h30m``; raises ``UsageError``.

    >>> parse_duration("1h30m")
    5400.0
    """
    parts = _PART.findall(text)
    if not parts or "".join(map("".join, parts)) != text or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise UsageError(f"{text[:40]!r} is not a duration", hint="write it like 90s, 30m or 1h30m")
    seconds = float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    if seconds <= 0:
        raise UsageError("a duration must be longer than 0 seconds", hint="write it like 90s, 30m or 1h30m")
    return seconds
