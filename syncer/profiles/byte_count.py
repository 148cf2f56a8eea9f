"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from syncer.errors import UsageError

_BYTES = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kKMGT]?i?)(?P<of>B|bit)?")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"k": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def byte_count(text: str) -> int:
    """The bytes of ``50M``, ``64KiB`` or ``200Mbit``; raises ``UsageError``."""
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
