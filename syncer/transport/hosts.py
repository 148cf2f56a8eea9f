"""Limits of one host: its counters, its pauses, its rate of requests and bytes, and the time that these have taken."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio
from msgspec import Struct

from syncer.errors import Interrupted, Unreachable, Waiting
from syncer.transport.failures import HOPELESS, Absent, Down, Wait, WaitKind
from syncer.transport.message import Kind, Lane, Quota, Request, Response, current_lane
from syncer.transport.permits import Moved, Pace, Permit, Permits, Rate, Release, Spare
from syncer.transport.settings import Ceiling, HostSettings, Limits

_USED_UP = "its quota of requests is used up"
_TOO_MANY = 429
_AT_ONCE = 0.001  # seconds
_SPREAD = 1.0  # seconds over which those who waited come back, so that they do not all come at once


class Spent(Struct):
    """The seconds that requests to one host have taken, added up over all of them, by what they waited for."""

    answers: float = 0.0  # from the end of a request to the head of its answer; connections count too
    receiving: float = 0.0  # the bytes of bodies
    sending: float = 0.0
    bytes_cap: float = 0.0  # for our own limit of bytes a second
    requests_cap: float = 0.0  # for that of requests
    quota: float = 0.0  # for the host's own limit of requests a second
    retries: float = 0.0  # between two attempts, but for pauses that a host asks for


def _tell_nobody(_: Wait) -> None:
    """Tell nobody of what holds requests up."""


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
        self._down_at = 0.0  # monotonic: when that was found out
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
        if self.is_told or current_lane() is not Lane.REQUEST:
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

    def refuse(self, since: float) -> None:
        """Raise ``Down`` where the host was found to be down after ``since`` (monotonic), as a request waited."""
        if self._cause is not None and self._down_at > since:
            raise Down(str(self._cause), hint=self._cause.hint)

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
        self._down_at = time.monotonic()
        self._look_at = self._down_at + _LONGEST_PROBE
        self._back()

    def _back(self) -> None:
        if self._away_since is not None:
            self._tell("")
        self._away_since, self._back_at = None, time.monotonic()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def spare_permits() -> Spare:
    """The permits that all hosts of a process may have beyond their first ones, by the files that it may open."""
    most = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 0  # Windows has none
    return Spare(most // 4) if most > 0 else Spare()


@dataclasses.dataclass(slots=True, eq=False, repr=False)
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
    spare: Spare | None = None  # permits that it shares with other hosts
    ceiling: Ceiling | None = None  # of requests a second, unless the settings say how many
    pace: Pace = dataclasses.field(init=False)
    permits: Permits = dataclasses.field(init=False)
    presence: Presence = dataclasses.field(init=False)
    _until: float = 0.0  # monotonic
    _pulls_until: float = 0.0  # likewise, for what a quota of pulls counts
    _requests_rate: Rate | None = dataclasses.field(init=False)
    _bytes_rate: Rate | None = dataclasses.field(init=False)
    _held_up: int = 0  # requests that wait until others are answered
    _gate: anyio.Lock = dataclasses.field(default_factory=anyio.Lock)  # through which requests go at a pace
    _news: anyio.Event = dataclasses.field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        settings = self.settings
        self.pace = Pace(None if settings.requests_per_second else self.ceiling)
        fixed = [most for most in (self.limits.requests_per_host, settings.concurrency) if most]
        self.permits = Permits(min(fixed, default=None), self.spare)
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
        """Send no more than the host says that it takes, and pause it when its quota is used up."""
        self.pace.heed(quota, time.monotonic())
        if quota.remaining > 0 or (self.pace.told and not quota.is_of_pulls):
            return
        if not quota.is_of_pulls:
            self.pause(quota.seconds, _USED_UP)
        elif (until := time.monotonic() + quota.seconds) > self._pulls_until + _SPREAD:
            self.pauses += 1
            self.paused_seconds += quota.seconds
            self._pulls_until = until
            self.tell(Wait(host=self.host, kind=WaitKind.PAUSE, seconds=quota.seconds, reason=_USED_UP))

    def answered(self, permit: Permit, response: Response) -> None:
        """Learn from an answer how many requests at a time are of use."""
        self.ended(response.request)
        now = time.monotonic()
        if response.status != _TOO_MANY:
            self.pace.accepted(now, permit.began)
        if response.waited is not None and permit.round >= 0:
            spent = self.spent
            moved = Moved(now, self.bytes_in + self.bytes_out, spent.receiving + spent.sending, spent.answers)
            method, is_first = response.request.method, response.is_first
            self.permits.answered(permit, method, response.waited, moved, is_first=is_first)

    def push_back(self, response: Response, wait: float | None) -> None:
        """Send fewer requests, after an answer of 429 or 503 that asks to ``wait`` for so many seconds."""
        now = time.monotonic()
        is_known = self.pace.is_known
        if response.status == _TOO_MANY:
            self.pace.refused(now, response.began, wait)
        if response.status != _TOO_MANY or not is_known:  # else fewer at a time would not help
            self.permits.push_back(response.request.kind, now, response.began)

    def ended(self, request: Request) -> None:
        """Note that ``request`` was answered, or will not be."""
        self.pace.unanswered -= 1
        self.pace.unanswered_pulls -= request.is_pull
        if self._held_up:
            self._news.set()
            self._news = anyio.Event()

    def owed(self, size: int) -> float:
        """The seconds to wait for ``size`` bytes of a body that were received or will be sent."""
        own = self._bytes_rate.take(size) if self._bytes_rate else 0.0
        return max(own, *(rate.take(size) for rate in self.shared_rates)) if self.shared_rates else own

    async def admit(self, request: Request) -> Permit:
        """Wait until ``request`` may go to the host; returns its permit, to be given back when its answer is read.

        Whoever asks for it calls ``answered`` or ``ended`` later on.  Raises ``Waiting`` for a pause of more than
        ``Limits.max_wait`` seconds.
        """
        kind, is_pull = request.kind, request.is_pull
        while True:
            await self._end_of_pause(is_pull=is_pull)
            permit = await self.permits.acquire(kind)
            try:
                if self._paused_for(is_pull=is_pull) <= 0:
                    is_free = self._requests_rate is None and self.pace.is_free
                    held_up = 0.0 if is_free else await self._turn(request, kind)
                    if held_up == 0 or self._paused_for(is_pull=is_pull) <= 0:
                        self.pace.unanswered += 1
                        self.pace.unanswered_pulls += is_pull
                        self.permits.begin(permit, time.monotonic(), was_held_up=held_up > 0)
                        return permit
            except BaseException:
                permit()
                raise
            permit()  # it was paused while this waited for its turn

    async def _turn(self, request: Request, kind: Kind) -> float:
        """Wait until the limits of requests a second let ``request`` go; returns the seconds that this took."""
        now = time.monotonic()
        is_write = request.method not in ("GET", "HEAD")
        own = self._requests_rate.take(1, now) if self._requests_rate else 0.0
        theirs = self.pace.take(now, is_write=is_write, is_manifest=kind is Kind.MANIFESTS)
        self.spent.requests_cap += own
        if (wait := max(own, theirs)) > 0:
            self.spent.quota += wait - own
            await anyio.sleep(wait)
        if self.pace.is_known:
            async with self._gate:
                while (gap := self.pace.gap(time.monotonic())) > 0:  # noqa: ASYNC110  it is for the time
                    await anyio.sleep(gap)
                self.pace.sent(time.monotonic())
        while not self.pace.may_ask(time.monotonic(), is_pull=request.is_pull):
            self._held_up += 1
            try:
                await self._news.wait()
            finally:
                self._held_up -= 1
        held_up = time.monotonic() - now - wait
        if self.pace.is_known or held_up > _AT_ONCE:
            self.spent.quota += held_up
            wait += held_up
        return wait if wait > _AT_ONCE else 0.0

    async def _end_of_pause(self, *, is_pull: bool) -> None:
        while (left := self._paused_for(is_pull=is_pull)) > 0:
            if left > self.limits.max_wait:
                self.errors += 1
                raise Waiting(self.host, left, self.limits.max_wait)
            spread = 0.0 if self.pace.is_known else min(left, _SPREAD)  # the pace spreads them
            await anyio.sleep(left + random.uniform(0, spread))  # noqa: S311  (jitter is no secret)

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
