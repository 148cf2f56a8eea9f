"""What a proxy of the tests may do to a request, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

import anyio

Where: TypeAlias = Literal["request", "answer"]


@dataclass(frozen=True, slots=True)
class Reset:
    """After ``at`` bytes of a body the client's connection is reset.

    Of a request the registry gets those bytes and then the end of the connection; with 0 it hears nothing.
    Of an answer the client gets those bytes first.
    """

    where: Where
    at: int = 0


@dataclass(frozen=True, slots=True)
class Lose:
    """The request reaches the registry, which answers; the client gets a closed connection."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """The answer ends cleanly after ``at`` bytes; ``announced`` or not, its full length stands in its head."""

    at: int
    announced: bool = True


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit of the byte at ``at`` is another."""

    at: int = 0
    where: Where = "answer"


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing moves after ``at`` bytes of a body, until ``until`` is set if given; ``reached`` is set then.

    With ``where="head"`` the registry has answered, and the client does not hear of it.
    """

    where: Where | Literal["head"] = "answer"
    at: int = 0
    until: anyio.Event | None = None
    reached: anyio.Event | None = None


@dataclass(frozen=True, slots=True)
class Throttle:
    """A body moves no faster than this."""

    bytes_per_second: float
    where: Where = "answer"


@dataclass(frozen=True, slots=True)
class Delay:
    """The request waits before it goes on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Other headers (None removes one) or another status."""

    where: Where
    headers: Mapping[str, str | None] = field(default_factory=dict)
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The proxy answers itself.

    With ``forward`` the registry gets the request all the same, and its answer is thrown away.  Else the
    body is read first, or only ``read`` bytes of it, after which the connection is closed.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    forward: bool = False
    read: int | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """A forward proxy says this instead of an answer, and closes the connection."""

    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Die:
    """After ``at`` bytes of a tunnel, or of a body, a forward proxy ends, with all its connections."""

    where: Where
    at: int = 0


Fault: TypeAlias = Reset | Lose | Truncate | Flip | Stall | Throttle | Delay | Rewrite | Reply | Say | Die
F = TypeVar("F", bound=Fault)


def redirect(location: str, status: int = 307) -> Reply:
    """Send the client elsewhere."""
    return Reply(status, {"Location": location})


@dataclass(slots=True)
class Rule:
    """When a fault happens: at the ``first`` match, then at ``every`` so-manieth, ``times`` times in all."""

    method: str | None
    path: re.Pattern[str]
    fault: Fault
    first: int
    every: int
    times: int | None
    matched: int = 0
    fired: int = 0

    def fires(self, method: str, target: str) -> bool:
        """Whether the fault happens to this request, which is counted."""
        if self.method not in (None, method) or not self.path.search(target):
            return False
        self.matched += 1
        since = self.matched - self.first
        if since < 0 or since % self.every or (self.times is not None and self.fired >= self.times):
            return False
        self.fired += 1
        return True


Mark: TypeAlias = Reset | Flip | Stall | Truncate | Die


def marks_of(faults: Sequence[Fault], where: Where) -> list[Mark]:
    """What happens at some byte of a request's or an answer's body."""
    return [
        fault
        for fault in faults
        if (isinstance(fault, Reset | Flip | Stall | Die) and fault.where == where)
        or (isinstance(fault, Truncate) and where == "answer")
    ]


def of_kind(faults: Sequence[Fault], kind: type[F]) -> list[F]:
    return [fault for fault in faults if isinstance(fault, kind)]
