"""The requests that one host is sent at a time, and in a second: as it was told, or as its answers say.

Where nobody says how many a host gets at a time, each kind of request has a ``Allowance``, which grows while that pays.
What a host says about its limits in headers, and what its answers of 429 tell, makes its ``Pace``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, nullcontext
from math import inf
from typing import TypeAlias

import anyio
from msgspec import Struct

from syncer.transport.message import Kind, Lane, Quota, current_lane
from syncer.transport.settings import Ceiling

FIRST, MOST = 16, 128
"""The requests of one kind that a host gets at a time in the beginning, and at most."""

_RESERVED = 8  # of each kind, which do not wait for those of others
_ERRANDS = 32

Release: TypeAlias = Callable[[], None]
"""A function that gives a permit back."""


class Rate:
    """A limit of requests or bytes a second, evenly spread; worker threads may use it too."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
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
            self._next = begin + amount / self.per_second
        return begin - now


class Spare(Struct):
    """The permits that all hosts together may have beyond those that each begins with."""

    left: int = 1024

    def take(self, wanted: int) -> int:
        """Take up to ``wanted``; returns how many there were."""
        self.left -= (taken := max(0, min(wanted, self.left)))
        return taken

    def give(self, count: int) -> None:
        """Give some back."""
        self.left += count


class Moved(Struct, frozen=True):
    """The work of a host so far: bytes of bodies, and the seconds of requests that went to bodies and to answers."""

    at: float = 0.0  # monotonic
    bytes: int = 0
    bodies: float = 0.0
    answers: float = 0.0


_LEAST_ROUND = 8  # answers
_NO_GROWTH = 0.03  # seconds from the first request on, in which a host that takes few requests a second says so
_FAR = 0.02  # seconds that each answer of a host takes at least, whose way is long
_NEAR_STEP, _FAR_STEP = 2.0, 3.0
_GAIN = 0.5  # the part of the growth by which the throughput must grow
_PATIENCE = 16  # rounds after which growth that did not pay is tried again
_LONGEST_PATIENCE = 256
_LEAST_AFTER_RESETS = 4
_AFTER_TROUBLE = 4  # rounds before each small step of growth


class Allowance:
    """The number of requests of one kind that a host gets at a time, found by trying.

    It doubles as long as that brings more, for a host that is far away it grows threefold: in each round some answers
    are taken while all permits are taken, and the median of the seconds that they took is compared with that of the
    round before, each kind of answer with its own.  As many permits more times the same seconds is throughput that
    grows.  Where bodies take most of the time, the bytes a second are compared instead.  Growth that does not pay in
    two rounds is given back, and tried again later, in smaller steps and more and more rarely.  Trouble halves the
    number at once, and from then on it grows by an eighth.  Clock and answers come from outside.
    """

    def __init__(self, first: int = FIRST, most: int = MOST, spare: Spare | None = None) -> None:
        self.limit = self.reached = first
        self._first = first
        self._most = most
        self._spare = spare or Spare()
        self._borrowed = 0
        self._kept = first  # the last number that paid
        self._step = _NEAR_STEP
        self._rest = 0  # rounds before the next attempt to grow
        self._patience = _PATIENCE
        self.round = 0
        self._usual: dict[object, float] = {}  # seconds of an answer, by its key, while there are ``_kept``
        self._usual_rate = 0.0  # bytes a second likewise
        self._seconds: dict[object, list[float]] = {}  # of this round
        self._began: Moved | None = None
        self._firsts = 0  # answers that were the first on their connections, one after the other
        self._pushed_back = -inf
        self._first_at = inf  # monotonic: the first request
        self._least = inf  # seconds of the quickest answer
        self._is_doubted = False  # the growth that did not pay in the round before

    def answered(self, its_round: int, key: object, seconds: float, moved: Moved, *, is_first: bool = False) -> None:
        """Take in an answer, ``seconds`` after its request was sent in ``its_round``, while all permits were taken.

        Answers of one ``key`` usually take the same time; ``is_first`` marks the first one on a connection.
        """
        self._first_at, self._least = min(self._first_at, moved.at - seconds), min(self._least, seconds)
        if its_round != self.round or self.limit >= self._most == self._kept:
            return
        if is_first and self._firsts < 4 * self.limit and (self._usual or self._least < _FAR):
            self._firsts += 1  # new connections say little, unless there are no others, or all that counts is the way
            return
        self._firsts, self._began = self._firsts if is_first else 0, self._began or moved
        self._seconds.setdefault(key, []).append(seconds)
        known = self._seconds if self.limit == self._kept else self._seconds.keys() & self._usual.keys()
        if sum(len(self._seconds[key]) for key in known) >= max(_LEAST_ROUND, self.limit // 4):
            self._end_round(known, moved)

    def push_back(self, now: float, since: float, *, is_reset: bool = False) -> None:
        """Halve the number, after trouble of a request that began at ``since``; once for all that began before."""
        if since <= self._pushed_back:
            return
        self._pushed_back = now
        self._set(max(min(self.limit, _LEAST_AFTER_RESETS) if is_reset else 1, self.limit // 2))
        self._keep({}, 0.0)
        self._step, self._rest = 1.125, _AFTER_TROUBLE
        self._next_round()

    def _end_round(self, known: Iterable[object], moved: Moved) -> None:
        now = {key: sorted(seconds)[len(seconds) // 2] for key, seconds in self._seconds.items()}  # about the median
        assert self._began is not None
        rate = (moved.bytes - self._began.bytes) / max(moved.at - self._began.at, 1e-6)
        if self.limit == self._kept:
            usual = {key: 0.75 * self._usual.get(key, seconds) + 0.25 * seconds for key, seconds in now.items()}
            self._keep(self._usual | usual, rate)
            self._rest -= 1
        elif self._pays(now, known, rate, moved):
            self._keep(self._usual | now, rate)
            self._rest = 0 if self._step > 1.2 else _AFTER_TROUBLE
        elif not self._is_doubted:
            self._is_doubted = True  # connections that were being made may have taken the time
        else:
            self._set(self._kept)
            self._step = min(self._step, 1.5)
            self._rest, self._patience = self._patience, min(2 * self._patience, _LONGEST_PATIENCE)
        if self._rest <= 0 and self.limit == self._kept and moved.at >= self._first_at + _NO_GROWTH:
            step = _FAR_STEP if self._least >= _FAR and self._step == _NEAR_STEP else self._step
            self._set(min(self._most, max(self.limit + 1, int(self.limit * step))))
        self._next_round()

    def _pays(self, now: dict[object, float], known: Iterable[object], rate: float, moved: Moved) -> bool:
        assert self._began is not None
        growth = self.limit / self._kept
        wanted = 1 + (growth - 1) * _GAIN
        if moved.bodies - self._began.bodies > moved.answers - self._began.answers:
            return rate >= wanted * self._usual_rate
        counts = {key: len(self._seconds[key]) for key in known}
        usual, took = (sum(count * each[key] for key, count in counts.items()) for each in (self._usual, now))
        return took * wanted <= usual * growth

    def _keep(self, usual: dict[object, float], rate: float) -> None:
        self._kept, self._usual, self._usual_rate = self.limit, usual, rate

    def _next_round(self) -> None:
        self.round += 1
        self._seconds, self._began = {}, None

    def _set(self, limit: int) -> None:
        """Have as many as that, or as can be had."""
        self._spare.give(self._borrowed)
        self._borrowed = self._spare.take(limit - self._first)
        self.limit, self._is_doubted = min(limit, self._first + self._borrowed), False
        self.reached = max(self.reached, self.limit)


class Permit:
    """The right to send one request, which ends as it is called; and what is to be told of that request."""

    __slots__ = ("_release", "began", "kind", "round")

    def __init__(self, kind: Kind, release: Release | None) -> None:
        self.kind = kind
        self.round = -1
        self.began = 0.0  # monotonic: when the request was sent
        self._release = release

    def __call__(self) -> None:
        """Give it back; it may be given back again."""
        if self._release is not None:
            self._release()
            self._release = None


class _Pool(Struct):
    """The permits of one kind, or of all."""

    allowance: Allowance
    used: int = 0
    waiting: deque[tuple[int, asyncio.Future[None]]] = deque()


class Permits:
    """The permits of one host, which limit the number of requests to it at a time.

    With ``fixed`` there are so many, for all kinds of requests together.  Else each kind has an allowance, and all of
    them together have as many as the largest, but for some of each kind, which need not wait for others.

    No work that holds a permit may wait for other work that needs one:

    - A request holds one permit, and gives it up before another request is made for it, to follow a redirect or to
      fetch a token.
    - An errand (for a token, a ping) has permits of its own, since those who wait for a token share what it brings,
      and may hold all of the others.  It waits for nothing but the network.
    - A relay, a download that feeds an upload, takes the permits of both hosts before it begins, the hosts in an order
      that is the same for all, later only some that are free; its requests take none, wherever they are sent.
    """

    def __init__(self, fixed: int | None = None, spare: Spare | None = None) -> None:
        self.fixed = fixed
        if fixed is None:
            self._pools = {kind: _Pool(Allowance(spare=spare), waiting=deque()) for kind in Kind}
        else:
            self._pools = dict.fromkeys(Kind, _Pool(Allowance(fixed, fixed), waiting=deque()))
        self._errands = anyio.Semaphore(_ERRANDS if fixed is None else fixed, fast_acquire=True)
        self._hoarding = anyio.Lock()
        self._used = 0
        self._queues = tuple(pool.waiting for pool in self._pools.values())
        self._tickets = 0

    def limit(self, kind: Kind) -> int:
        """The requests of ``kind`` that may be under way now."""
        return self._pools[kind].allowance.limit

    def room(self, kind: Kind) -> int:
        """The pieces of work that keep all permits of ``kind`` taken."""
        limit = self.limit(kind)
        return limit if self.fixed is not None else limit + limit // 4

    def free(self, kind: Kind) -> int:
        """The permits of ``kind`` that nobody has or waits for, so that ``hold`` gets one of them at once."""
        pool = self._pools[kind]
        return 0 if pool.waiting else max(0, min(pool.allowance.limit - pool.used, self._most - self._used))

    @property
    def reached(self) -> dict[str, int]:
        """The largest number of requests of each kind that was found, or the one for all that is fixed."""
        if self.fixed is not None:
            return {"all": self.fixed}
        return {kind.value: pool.allowance.reached for kind, pool in self._pools.items()}

    async def acquire(self, kind: Kind) -> Permit:
        """Wait for a permit for a request of ``kind``."""
        lane = current_lane()
        if lane is Lane.RELAY:
            return Permit(kind, None)
        if lane is Lane.ERRAND:
            await self._errands.acquire()
            return Permit(kind, self._errands.release)
        return await self._acquire(kind)

    async def hold(self, stack: AsyncExitStack, kinds: Iterable[Kind]) -> None:
        """Wait for a permit of each of ``kinds``, or for all if there are fewer; ``stack`` gives them back."""
        kinds = list(kinds)[: self.fixed]
        async with self._hoarding if len(kinds) > 1 else nullcontext():  # or two of them could wait for each other's
            for kind in kinds:
                stack.callback(await self._acquire(kind))

    def begin(self, permit: Permit, now: float, *, was_held_up: bool) -> None:
        """Note that the request of ``permit`` is sent now; one that ``was_held_up`` says nothing about the others."""
        permit.began, permit.round = now, -1 if was_held_up else self._pools[permit.kind].allowance.round

    def answered(self, permit: Permit, key: object, seconds: float, moved: Moved, *, is_first: bool) -> None:
        """Take in that the answer to a request came after ``seconds``; see ``Allowance.answered``."""
        pool = self._pools[permit.kind]
        allowance, before = pool.allowance, pool.allowance.limit
        if self.fixed is None and (8 * pool.used >= 7 * before or 8 * self._used >= 7 * self._most):
            allowance.answered(permit.round, key, seconds, moved, is_first=is_first)
            if allowance.limit > before:
                self._wake()

    def push_back(self, kind: Kind, now: float, since: float, *, is_reset: bool = False) -> None:
        """Take in that a request of ``kind``, begun at ``since``, met a host that is asked too much."""
        if self.fixed is None:
            self._pools[kind].allowance.push_back(now, since, is_reset=is_reset)

    @property
    def _most(self) -> int:
        return max(pool.allowance.limit for pool in self._pools.values())

    async def _acquire(self, kind: Kind) -> Permit:
        pool = self._pools[kind]
        if not pool.waiting and self._may_go(pool):
            self._take(pool)
        else:
            await self._wait(pool)

        def release() -> None:
            pool.used -= 1
            self._used -= 1
            if any(self._queues):
                self._wake()

        return Permit(kind, release)

    async def _wait(self, pool: _Pool) -> None:
        self._tickets += 1
        turn = asyncio.get_running_loop().create_future()
        pool.waiting.append((self._tickets, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                pool.used -= 1
                self._used -= 1
                self._wake()
            raise

    def _may_go(self, pool: _Pool) -> bool:
        if pool.used >= pool.allowance.limit:
            return False
        return self.fixed is not None or self._used < self._most or pool.used < _RESERVED

    def _take(self, pool: _Pool) -> None:
        pool.used += 1
        self._used += 1

    def _wake(self) -> None:
        """Give what is free to those who wait, the first to come before others."""
        while True:
            first: _Pool | None = None
            for pool in self._pools.values():
                while pool.waiting and pool.waiting[0][1].done():  # it was cancelled
                    pool.waiting.popleft()
                if pool.waiting and self._may_go(pool) and (first is None or pool.waiting[0] < first.waiting[0]):
                    first = pool
            if first is None:
                return
            self._take(first)
            first.waiting.popleft()[1].set_result(None)


_BUCKET = 0.1  # seconds
_BUCKETS = 1300
_SHORT = 10.0  # seconds; a quota of a longer time is used up, and then waited for
_EARLY = 0.2  # of the time of a quota
_MARGIN = 0.96  # of a limit is used, since what arrives is less even than what is sent
_LEAST = 20  # requests that a host took before its first 429 says anything
_PROVEN = 5  # times the horizon for which a rate was right
_MOST_HORIZON = 60.0  # seconds
_NO_LIMIT = 1000.0  # requests a second, from which on there is none
_NEAR = 1.15  # the ratio of a rate that is too high and one that is not, from which on nothing is between them
_STEP = 1.5  # by which a rate grows at most
_HOLD = 60.0  # seconds for which a limit is believed that was met again


class Pace:
    """The requests that a host takes in a second, as far as it said so, or answers of 429 tell.

    A host that says in headers how many it takes in a short time gets them evenly; and never are more requests
    unanswered than it says that it still takes.  One that only says 429 gets as many a second as it took before, then
    more as long as no other 429 comes; if one does, the last rate that was right.  The clock comes from outside.
    """

    def __init__(self, ceiling: Ceiling | None = None) -> None:
        self._rates = {name: Rate(most) for name, most in (ceiling or Ceiling()).each()}
        self.told: float | None = None  # requests a second
        self.learnt: float | None = None
        self.unanswered = 0
        self.unanswered_pulls = 0
        self._left: dict[bool, tuple[int, float, int | None]] = {}  # of pulls, of all: how many until when, and then
        self._longest = 0.0  # seconds until a quota was to be full again
        self._next = self._resumes_at = -inf  # when the next request may be sent, and when any may
        self._first = 0.0  # what was found at the first 429
        self._low = self._high = inf  # the last rate that was right, and the last one that was not
        self._settled = -inf  # when the last requests that were too early had been sent
        self._changed_at = -inf
        self._raise_at = 0.0
        self._horizon = 1.0  # seconds
        self._first_at: float | None = None
        self._taken: deque[list[float]] = deque(maxlen=_BUCKETS)  # answers that were none of 429, by time

    @property
    def is_known(self) -> bool:
        """True when the host has a limit of requests a second."""
        return self.told is not None or self.learnt is not None

    @property
    def is_free(self) -> bool:
        """True when nothing is known that limits requests."""
        return not (self._rates or self._left or self.told or self.learnt)

    def take(self, now: float, *, is_write: bool, is_manifest: bool) -> float:
        """Take a request's turn by the documented ceilings; returns the seconds until it may be sent."""
        names = ("requests", "writes", "manifests")[: 1 + is_write + (is_write and is_manifest)]
        return max((self._rates[name].take(1, now) for name in names if name in self._rates), default=0.0)

    def gap(self, now: float) -> float:
        """The seconds until the next request may be sent, by what the host says."""
        if self.learnt is not None and now >= self._raise_at:
            self._raise(now)
        return max(self._next if self.is_known else -inf, self._resumes_at) - now

    def sent(self, now: float) -> None:
        """Note that a request is sent; the next one may hardly be earlier for this one's being late."""
        if self.is_known:
            spacing = 1 / min(self.told or inf, self.learnt or inf)
            self._next = max(self._next, now - spacing / 2) + spacing

    def may_ask(self, now: float, *, is_pull: bool) -> bool:
        """True when the host takes one more than those that it has not answered yet; a single one may always go."""
        for of_pulls in (False, True) if is_pull else (False,):
            if left := self._left.get(of_pulls):
                count, until, limit = left
                if now >= until and limit is None:
                    del self._left[of_pulls]
                    continue
                count = count if now < until else limit or 1
                if (self.unanswered_pulls if of_pulls else self.unanswered) >= max(1, count):
                    return False
        return True

    def heed(self, quota: Quota, now: float) -> None:
        """Take in what the host says that it still takes."""
        self._left[quota.is_of_pulls] = quota.remaining, now + quota.seconds, quota.limit
        if quota.is_of_pulls or not quota.limit:
            return
        self._longest = max(self._longest, quota.seconds)
        window = quota.window or max(self._longest, 1.0)
        self.told = _MARGIN * quota.limit / window if window <= _SHORT else None
        if self.told is not None and quota.remaining == 0:  # too early by little, since they are sent evenly
            self._resumes_at = max(self._resumes_at, now + min(quota.seconds, _EARLY * window))

    def accepted(self, now: float, since: float) -> None:
        """Take in an answer, which is none of 429, to a request that was sent at ``since``."""
        if self._first_at is None:
            self._first_at = now
        if self.learnt == self._first and since <= self._changed_at:  # it was taken before the first 429
            self.learnt = self._first = self._first + _MARGIN / self._horizon
        if self._taken and now - self._taken[-1][0] < _BUCKET:
            self._taken[-1][1] += 1
        else:
            self._taken.append([now, 1])

    def refused(self, now: float, since: float, wait: float | None) -> None:
        """Take in a 429 to a request that was sent at ``since``, and the ``wait`` that it asks for, in seconds."""
        if since <= self._settled or self._first_at is None:
            return  # it is one more of those that came too early
        self._horizon = horizon = min(max(1.0, wait or 0.0), _MOST_HORIZON)
        seconds = max(now - max(self._first_at, self._resumes_at), horizon)
        count = sum(count for at, count in self._taken if at > now - seconds)
        taken = max(1.0, count) / seconds
        self._settled = now + (horizon if wait is None else 0.0)
        self._resumes_at = now + (horizon if wait is None else wait)
        self._raise_at = self._resumes_at + horizon
        if self.learnt is None:
            if count >= _LEAST or now - self._changed_at < _PROVEN * horizon:
                self.learnt = self._first = _MARGIN * taken
        elif now - self._changed_at > _PROVEN * horizon:  # what arrives is less even than what is sent
            self._low = self.learnt = 0.98 * self.learnt
            self._raise_at += _HOLD
        else:
            self._high = self.learnt
            if self._low < self._high:
                self.learnt = self._low
                if self._low <= self._first or self._high <= _NEAR * self._low:
                    self._raise_at += _HOLD
            else:
                self._low = self.learnt = _MARGIN * taken if taken < _MARGIN * self._high else 0.8 * self._high
        self._changed_at = now

    def _raise(self, now: float) -> None:
        assert self.learnt is not None
        self._low = low = self.learnt
        if low > _NO_LIMIT and self._high == inf:
            self.learnt = None
        else:
            self.learnt = min(_STEP * low, (low * self._high) ** 0.5 if low < self._high else 1.05 * low)
        self._raise_at, self._changed_at = now + self._horizon, now
