"""What bounds a step: what the cores did while it was taken, and what syncer waited for while they did nothing.

CPU is what the system counted.  What was idle is divided by syncer's own report of the same run.  While the thread of
its event loop was busy, the only one before a run begins and after it ends, the other cores had nothing to do;
else the whole run stood still until a file was on its disk, or its requests and its files waited, each for its cause.
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
_ALONE = "idle beside one busy thread"
_UNTOLD = "idle, nothing told"

PARTS = (*_CPU, _OTHERS, _ALONE, *_WAITS, _UNTOLD)
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
        """The one that took most, all CPU and a thread that has all the work being one; empty where nothing is told."""
        every = {"the CPU": self.busy + self.shares[_ALONE], **{part: self.shares[part] for part in _WAITS}}
        most = max(every, key=lambda part: every[part])
        return most if every[most] >= self.shares[_UNTOLD] else ""

    def __str__(self) -> str:
        own, theirs = (self.shares[part] for part in _CPU)
        idle = (_ALONE, *_WAITS, _UNTOLD)
        waits = {part: self.shares[part] for part in idle if self.shares[part] >= 0.05}
        told = [f"{part} {share:.0%}" for part, share in sorted(waits.items(), key=lambda each: -each[1])]
        return ", ".join((f"cores {self.busy:.0%} busy (syncer {own:.0%}, registries {theirs:.0%})", *told))


def bounds_of(row: Row, cores: int) -> Bounds | None:
    """What bounded the work of ``row``, by medians; None for what was not timed."""
    wall = row.spread("wall")
    if not wall:
        return None
    every = wall.median * cores
    shares = {part: row.median(measure) / every for part, measure in _CPU.items()}
    shares[_OTHERS] = (row.median("other_cpu") + row.median("own_cpu")) / every
    over = max(1.0, sum(shares.values()))  # clocks of a tick each may add up to more than there is
    shares = {part: share / over for part, share in shares.items()}
    idle, account = max(0.0, 1 - sum(shares.values())), row.account()
    if not account or not account["elapsed"]:
        return Bounds(shares | dict.fromkeys((_ALONE, *_WAITS), 0.0) | {_UNTOLD: idle})
    one_thread = account["loop"] + max(0.0, row.median("client_cpu") - account["cpu"])
    alone = max(0.0, idle - max(0.0, 1 - one_thread / wall.median))
    return Bounds(shares | {_ALONE: alone} | _waits(idle - alone, account))


def _waits(idle: float, account: Mapping[str, Any]) -> dict[str, float]:
    """What is ``idle`` of the cores' time, divided by what syncer waited for."""
    published = min(idle, account["publishing"] / account["elapsed"])
    waited = {part: sum(account["waited"].get(name, 0.0) for name in names) for part, names in _WAITS.items()}
    waited["the disk"] = account["disk"]
    total = sum(waited.values())
    rest = idle - published
    shares = {part: rest * seconds / total if total else 0.0 for part, seconds in waited.items()}
    shares["the disk"] += published
    return shares | {_UNTOLD: 0.0 if total else rest}
