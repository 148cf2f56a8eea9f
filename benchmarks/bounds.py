"""What bounds a step: what the cores did while it was taken, and what syncer waited for while they did nothing.

CPU is what the system counted.  What was idle is divided by syncer's own report of the same run: first the seconds in
which the whole run stood still until a file was on its disk, then by what its requests and its files waited for.
Where that report tells nothing, nobody guesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Row

_CPU = {"syncer's CPU": "client_cpu", "the registries' CPU": "server_cpu"}
_OTHERS = "others' CPU, the relay's"
_WAITS = {
    "waiting for answers": ("answers", "retries"),
    "bytes on their way": ("receiving", "sending"),
    "the disk": (),
    "a limit of requests": ("quota", "requests_cap", "bytes_cap", "pauses"),
}
_UNTOLD = "idle time"

PARTS = (*_CPU, _OTHERS, *_WAITS, _UNTOLD)
"""Of the time of all cores, in the order in which a bar has them."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The part of all cores' time that each of ``PARTS`` took, from 0 to 1."""

    shares: Mapping[str, float]

    @property
    def busy(self) -> float:
        """The part in which the cores were busy."""
        return sum(self.shares[part] for part in (*_CPU, _OTHERS))

    @property
    def most(self) -> str:
        """The one that took most, where all CPU is one."""
        every = {"the CPU": self.busy, **{part: self.shares[part] for part in (*_WAITS, _UNTOLD)}}
        return max(every, key=lambda part: every[part])

    def __str__(self) -> str:
        own, theirs = (self.shares[part] for part in _CPU)
        waits = {part: share for part, share in self.shares.items() if part in (*_WAITS, _UNTOLD) and share >= 0.05}
        told = [f"{part} {share:.0%}" for part, share in sorted(waits.items(), key=lambda each: -each[1])]
        return ", ".join((f"cores {self.busy:.0%} busy (syncer {own:.0%}, registries {theirs:.0%})", *told))


def bounds_of(row: Row, cores: int) -> Bounds | None:
    """What bounded the work of ``row``, by medians; None for what was not timed."""
    wall = row.spread("wall")
    if not wall:
        return None
    every = wall.median * cores
    shares = {part: _median(row, measure) / every for part, measure in _CPU.items()}
    shares[_OTHERS] = (_median(row, "other_cpu") + _median(row, "own_cpu")) / every
    over = max(1.0, sum(shares.values()))  # clocks of a tick each may add up to more than there is
    shares = {part: share / over for part, share in shares.items()}
    return Bounds(shares | _idle(max(0.0, 1 - sum(shares.values())), row.account()))


def _idle(idle: float, account: Mapping[str, Any] | None) -> dict[str, float]:
    """What is ``idle`` of the cores' time, divided by what syncer waited for."""
    if not account or not account["elapsed"]:
        return dict.fromkeys(_WAITS, 0.0) | {_UNTOLD: idle}
    published = min(idle, account["publishing"] / account["elapsed"])
    waited = {part: sum(account["waited"].get(name, 0.0) for name in names) for part, names in _WAITS.items()}
    waited["the disk"] = account["disk"]
    total = sum(waited.values())
    rest = idle - published
    shares = {part: rest * seconds / total if total else 0.0 for part, seconds in waited.items()}
    shares["the disk"] += published
    return shares | {_UNTOLD: 0.0 if total else rest}


def _median(row: Row, measure: str) -> float:
    spread = row.spread(measure)
    return spread.median if spread else 0.0
