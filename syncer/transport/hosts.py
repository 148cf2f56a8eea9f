"""Limits of one host: its counters, its pauses, its rate of requests and bytes, and the time that these have taken."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from contextvars import ContextVar
from enum import Enum, auto
from typing import TypeAlias

import anyio
from msgspec import Struct

from syncer.errors import Interrupted, Unreachable, Waiting
from syncer.transport.failures import HOPELESS, Absent, Down, Wait, WaitKind
from syncer.transport.message import Quota, Request
from syncer.transport.settings import HostSettings, Limits

_USED_UP = "its quota of requests is used up"
_SPREAD = 1.0  # seconds over which those who waited come back, so that they do not all come at once

Release: TypeAlias = Callable[[], None]
"""A function that gives a permit back."""


class Spent(Struct):
    """The seconds that requests to one host have taken, added up over all of them, by what they waited for."""

    answers: float = 0.0  # from the end of a request to the head of its answer; connections count too
    receiving: float = 0.0  # the bytes of bodies
    sending: float = 0.0
    bytes_cap: float = 0.0  # for our own limit of bytes a second
    requests_cap: float = 0.0  # for that of requests
    retries: float = 0.0  # between two attempts, but for pauses that a host asks for


def _tell_nobody(_: Wait) -> None:
    """Tell nobody of what holds requests up."""


class Rate:
    """A limit of requests or bytes a second, evenly spread; worker threads may use it too."""

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


class Lane(Enum):
    """The kind of a request, which decides where its permit comes from."""

    REQUEST = auto()
    ERRAND = auto()  # for another request, or for all that wait for one token
    RELAY = auto()  # of work that has its permits already


_lane: ContextVar[Lane] = ContextVar("lane", default=Lane.REQUEST)


class in_lane:  # noqa: N801  it is used as a function is
    """Set the lane of the requests that this task, and the tasks that it starts, make in the ``with`` block."""

    __slots__ = ("_lane", "_token")

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def __enter__(self) -> None:
        self._token = _lane.set(self._lane)

    def __exit__(self, *_: object) -> None:
        _lane.reset(self._token)


def is_relayed() -> bool:
    """Tell whether this task holds the permits for its requests already."""
    return _lane.get() is Lane.RELAY


class Permits:
    """The permits of one host, which limit the number of requests to it at a time.

    No work that holds a permit may wait for other work that needs one:

    - A request holds one permit, and gives it up before another request is made for it, to follow a redirect or to
      fetch a token.
    - An errand (for a token, a ping) has permits of its own, since those who wait for a token share what it brings,
      and may hold all of the others.  It waits for nothing but the network.
    - A relay, a download that feeds an upload, takes the permits of both hosts before it begins, the hosts in an order
      that is the same for all, and its requests take none, wherever they are sent.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._requests = anyio.Semaphore(limit, fast_acquire=True)
        self._errands = anyio.Semaphore(limit, fast_acquire=True)
        self._hoarding = anyio.Lock()

    @property
    def free(self) -> int:
        """The permits that nobody has."""
        return self._requests.value

    async def acquire(self) -> Release:
        """Wait for a permit; returns the function that gives it back."""
        lane = _lane.get()
        if lane is Lane.RELAY:
            return _nothing
        permits = self._requests if lane is Lane.REQUEST else self._errands
        await permits.acquire()
        return permits.release

    async def hold(self, stack: AsyncExitStack, count: int) -> None:
        """Wait for ``count`` permits, or for all if there are fewer; they are given back when ``stack`` ends."""
        async with self._hoarding if count > 1 else nullcontext():  # or two of them could wait for each other's
            for _ in range(min(count, self.limit)):
                await stack.enter_async_context(self._requests)


def _nothing() -> None:
    """Give nothing back."""


Probe: TypeAlias = Callable[[], Awaitable[None]]
"""Makes a connection to a host, and drops it; raises ``Unreachable``."""

_LONGEST_PROBE = 15.0  # seconds between two probes


class Presence:
    """The knowledge of all requests to a host whether it takes connections, and whether it can do its work.

    A host that has answered may be away for ``Limits.outage`` seconds, as a registry that restarts is; behind a proxy
    it shows by 502, 503 or 504.  Meanwhile its requests wait, and one of them probes.  After that it is down, and
    everything for it fails at once, but for one request now and then that looks whether it is back.  A host that never
    answered is down at once.
    """

    def __init__(self, limits: Limits, tell: Callable[[str], None]) -> None:
        self._limits = limits
        self._tell = tell  # hears why the host is away, as that begins, and of no reason as it ends
        self._has_answered = False
        self._cause: Unreachable | None = None  # of its being down
        self._look_at = 0.0  # monotonic: when a host that is down may be asked again
        self._away_since: float | None = None  # monotonic
        self._back_at = 0.0  # monotonic: when the last outage ended
        self._probes = 0  # of this outage, in vain
        self._is_probing = False
        self._changed = anyio.Event()
        self._well_at = 0.0  # monotonic: when the last request was begun that was answered without trouble
        self._look: Probe | None = None  # the probe of a host that takes connections, and does no work
        self._looking = anyio.Lock()
        self.is_told = False  # whether it does its work
        self._first = anyio.Lock()

    async def first(self) -> Release:
        """Wait while another request is the first one; returns the function that lets the next one go.

        So one request goes at a time, until the host has answered well or is down.
        """
        if self.is_told or _lane.get() is not Lane.REQUEST:
            return _nothing
        await self._first.acquire()
        if self.is_told:
            self._first.release()
            return _nothing
        return self._first.release

    def failed(self, cause: Unreachable) -> None:
        """Note that all attempts of a request failed; the host is down if it never answered well."""
        if not self.is_told:
            self._give_up(cause)

    @property
    def is_doubtful(self) -> bool:
        """False when nothing speaks against a request."""
        return self._away_since is not None or self._cause is not None

    @property
    def is_known_well(self) -> bool:
        """True once the host has answered without trouble."""
        return self._well_at > 0

    def forget(self) -> None:
        """Ask a host that is down again, as one that never answered."""
        if self._cause is not None:
            self._cause, self._has_answered, self._well_at, self._look = None, False, 0.0, None
            self.is_told = False

    def answered(self, since: float, *, is_well: bool = True) -> None:
        """Note that the host is there: it answered a request begun at ``since`` (monotonic).

        ``is_well`` is false for an answer that tells of trouble.
        """
        self._has_answered = True
        if is_well:
            self._well_at, self._look, self.is_told = max(since, self._well_at), None, True
        elif self._look is not None:
            return
        self._cause = None
        if self._away_since is not None:
            self._back()

    def unknown(self, error: Unreachable) -> None:
        """Note that there is no such host; one that has answered has lost its name for a while only."""
        if not self._has_answered:
            self._give_up(error)

    async def lost(self, error: Unreachable, probe: Probe) -> None:
        """Wait until the host that took no connection is back, or raise why it is not waited for."""
        if not self._has_answered:
            if not isinstance(error, Absent):
                raise error
            self._give_up(error)
        elif self._cause is None and self._away_since is None:
            self._away_since, self._probes = time.monotonic(), 0
            self._tell(str(error))
        await self.wait(probe)

    async def outlast(self, look: Probe, since: float) -> bool:
        """Wait while the host does no work at all; returns False when the trouble is that of one request alone.

        It is if the host answers ``look``, which raises ``Unreachable`` for an answer that tells of trouble; and so is
        the trouble of a host that never answered well.  It is not if the host was away ``since`` then, the time
        (monotonic) at which the attempts of the request began.  Raises ``Down`` in the end.
        """
        began = time.monotonic()
        async with self._looking:
            if self._back_at > since and self._away_since is None and self._cause is None:
                return True
            if not 0 < self._well_at < began:
                return False
            if self._away_since is None and self._cause is None:
                try:
                    await look()
                except HOPELESS:
                    return False
                except Unreachable as error:
                    self._away_since, self._probes, self._look = time.monotonic(), 0, look
                    self._tell(str(error))
                else:
                    self._well_at = time.monotonic()
                    return False
        await self.wait(look)
        return True

    async def wait(self, probe: Probe) -> None:
        """Wait while the host is away; raises ``Down`` when it is down."""
        while self._away_since is not None:
            if self._is_probing:
                await self._changed.wait()
            else:
                await self._probe(probe)
        if self._cause is not None:
            now = time.monotonic()
            if now < self._look_at:
                raise Down(str(self._cause), hint=self._cause.hint)
            self._look_at = now + _LONGEST_PROBE

    async def _probe(self, probe: Probe) -> None:
        """Look once, after a while, for all who wait."""
        self._is_probing = True
        try:
            seconds = min(
                _LONGEST_PROBE, self._limits.longest_backoff, self._limits.backoff * 2 ** min(self._probes, 9)
            )
            with anyio.move_on_after(random.uniform(seconds / 2, seconds)):  # noqa: S311  (jitter is no secret)
                await self._changed.wait()  # an answer to somebody says that it is back
            if self._away_since is not None:
                await (self._look or probe)()
        except HOPELESS:
            self._look = None
            self._back()  # somebody is there, whom each request meets for itself
        except Unreachable as error:
            self._probes += 1
            if self._away_since is not None and time.monotonic() - self._away_since >= self._limits.outage:
                self._give_up(
                    Down(
                        f"{error}, for {self._limits.outage:.0f} s now",
                        hint="run again when it is there, or wait longer with --outage",
                    )
                )
        else:
            self._look = None
            self._back()
        finally:
            self._is_probing = False
            self._wake()

    def _give_up(self, cause: Unreachable) -> None:
        self._cause, self.is_told = cause, True
        self._look_at = time.monotonic() + _LONGEST_PROBE
        self._back()

    def _back(self) -> None:
        if self._away_since is not None:
            self._tell("")
        self._away_since, self._back_at = None, time.monotonic()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@dataclasses.dataclass(slots=True)
class Traffic:
    """The counters of one host, which a report reads, and its limits."""

    host: str
    settings: HostSettings = dataclasses.field(default_factory=HostSettings)
    limits: Limits = dataclasses.field(default_factory=Limits)
    requests: Counter[str] = dataclasses.field(default_factory=Counter)  # by method
    retries: int = 0
    errors: int = 0  # requests that failed for good
    throttled: int = 0  # answers of status 429
    bytes_in: int = 0  # of bodies
    bytes_out: int = 0
    pauses: int = 0
    paused_seconds: float = 0.0
    spent: Spent = dataclasses.field(default_factory=Spent)
    tell: Callable[[Wait], None] = _tell_nobody  # hears of what holds requests up
    is_down: bool = False  # it failed all attempts of a request, and has not answered well since
    shared_rates: Sequence[Rate] = ()  # of bytes, with other hosts
    most_ranges: int | None = None  # connections that one blob may have, once the host has refused more
    held_back: set[str] = dataclasses.field(default_factory=set)  # the last parts of the paths of such blobs
    permits: Permits = dataclasses.field(init=False)
    presence: Presence = dataclasses.field(init=False)
    _until: float = 0.0  # monotonic
    _pulls_until: float = 0.0  # likewise, for what a quota of pulls counts
    _requests_rate: Rate | None = dataclasses.field(init=False)
    _bytes_rate: Rate | None = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        most = self.limits.requests_per_host
        self.permits = Permits(min(most, settings.concurrency or most))
        self.presence = Presence(self.limits, self._away)
        self._requests_rate = Rate(settings.requests_per_second) if settings.requests_per_second else None
        self._bytes_rate = Rate(settings.bytes_per_second) if settings.bytes_per_second else None

    def count_anew(self) -> None:
        """Set the counters to 0; pauses, limits and what is known of the host's presence stay."""
        self.requests = Counter()
        self.retries = self.errors = self.throttled = self.bytes_in = self.bytes_out = self.pauses = 0
        self.paused_seconds = 0.0
        self.spent = Spent()

    @property
    def time_paused(self) -> float:
        """The seconds of pauses so far, without what is left of one that lasts."""
        left = max(self._until, self._pulls_until) - time.monotonic()
        return max(0.0, self.paused_seconds - max(0.0, left))

    @property
    def is_paced(self) -> bool:
        """True when the settings limit the requests or bytes a second of this host."""
        return self._requests_rate is not None or self._bytes_rate is not None or bool(self.shared_rates)

    def pause(self, seconds: float, reason: str = "it asks to wait") -> None:
        """Start no request to this host for ``seconds``; ``reason`` says why, for people."""
        until = time.monotonic() + seconds
        if until > self._until:
            self.pauses += 1
            self.paused_seconds += until - max(self._until, time.monotonic())
            self._until = until
            self.tell(Wait(host=self.host, kind=WaitKind.PAUSE, seconds=seconds, reason=reason))

    def _away(self, reason: str) -> None:
        kind = WaitKind.AWAY if reason else WaitKind.OVER
        self.tell(Wait(host=self.host, kind=kind, seconds=0.0, reason=reason))

    @property
    def pause_left(self) -> float:
        """Seconds until requests may start again."""
        return max(0.0, self._until - time.monotonic())

    def heed(self, quota: Quota) -> None:
        """Pause the host when its quota is used up."""
        if quota.remaining > 0:
            return
        if not quota.is_of_pulls:
            self.pause(quota.seconds, _USED_UP)
        elif (until := time.monotonic() + quota.seconds) > self._pulls_until + _SPREAD:
            self.pauses += 1
            self.paused_seconds += quota.seconds
            self._pulls_until = until
            self.tell(Wait(host=self.host, kind=WaitKind.PAUSE, seconds=quota.seconds, reason=_USED_UP))

    def owed(self, size: int) -> float:
        """The seconds to wait for ``size`` bytes of a body that were received or will be sent."""
        own = self._bytes_rate.take(size) if self._bytes_rate else 0.0
        return max(own, *(rate.take(size) for rate in self.shared_rates)) if self.shared_rates else own

    async def admit(self, *, is_pull: bool = False) -> Release:
        """Wait until a request may go to the host; returns the function to call when its answer is read or closed.

        ``is_pull`` marks a request that a quota of pulls counts.  Raises ``Waiting`` for a pause of more than
        ``Limits.max_wait`` seconds.
        """
        while True:
            await self._end_of_pause(is_pull=is_pull)
            release = await self.permits.acquire()
            try:
                if self._paused_for(is_pull=is_pull) <= 0:
                    if self._requests_rate:
                        wait = self._requests_rate.take(1)
                        self.spent.requests_cap += wait
                        await anyio.sleep(wait)
                    return release
            except BaseException:
                release()
                raise
            release()  # it was paused while this waited for its turn

    async def _end_of_pause(self, *, is_pull: bool) -> None:
        while (left := self._paused_for(is_pull=is_pull)) > 0:
            if left > self.limits.max_wait:
                self.errors += 1
                raise Waiting(self.host, left, self.limits.max_wait)
            await anyio.sleep(left + random.uniform(0, min(left, _SPREAD)))  # noqa: S311  (jitter is no secret)

    def _paused_for(self, *, is_pull: bool) -> float:
        """The seconds of pause that are left; zero or less without a pause."""
        return max(self._until, self._pulls_until if is_pull else 0.0) - time.monotonic()


_LOOKS = 6  # how often within the window a body that does not move is looked at


class Meter:
    """The control of one body that is sent or received, in any thread.

    It counts the bytes for the host, keeps them to the host's pace, and gives up a body that hardly moves.
    """

    def __init__(self, request: Request, traffic: Traffic, *, is_upload: bool = False) -> None:
        self._request = request
        self._traffic = traffic
        self._limits = traffic.limits
        self._is_upload = is_upload
        self._window = max(self._limits.window, 0.0 if is_upload else request.body_patience(self._limits))
        self._waited, self._moved = 0.0, 0  # seconds and bytes since the last judgement

    @property
    def interval(self) -> float:
        """The seconds after which a body that does not move is checked again."""
        return self._limits.window / _LOOKS

    def due(self, size: int) -> float:
        """Seconds to wait before ``size`` bytes may go out."""
        return self._owed(size)

    def went(self, count: int, seconds: float) -> None:
        """Count bytes that were sent, after ``seconds`` of waiting for the server; raises ``Interrupted``."""
        self._traffic.bytes_out += count
        self._traffic.spent.sending += seconds
        self._watch(count, seconds)

    def came(self, count: int, seconds: float) -> float:
        """Count bytes that were received, like ``went``; returns the seconds to wait before the next ones are read."""
        self._traffic.bytes_in += count
        self._traffic.spent.receiving += seconds
        self._watch(count, seconds)
        return self._owed(count)

    def _owed(self, size: int) -> float:
        owed = self._traffic.owed(size)
        if owed > 0:
            self._traffic.spent.bytes_cap += owed
        return owed

    def _watch(self, count: int, seconds: float) -> None:
        self._waited += seconds
        self._moved += count
        if self._waited >= self._window:
            if self._moved < self._limits.slowest * self._waited:
                way = "get through" if self._is_upload else "come in"
                raise Interrupted(f"{self._request}: less than {self._limits.slowest} bytes a second {way}")
            self._waited, self._moved = 0.0, 0
