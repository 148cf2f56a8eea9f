"""How many requests a host gets at a time and in a second, where nobody says it: what its answers teach."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import Enum
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs
from yarl import URL

import syncer
from syncer.registry import RegistrySettings, open_registries
from syncer.registry.registries import ceiling_of
from syncer.report import Report
from syncer.transport import HostSettings, Request, Transport, TransportSettings, open_transport
from syncer.transport.message import Kind, Quota
from syncer.transport.permits import FIRST, MOST, Allowance, Moved, Pace, Permits, Spare
from syncer.transport.settings import Ceiling
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.quirky import Fault, Handler, Quirky, quirky_registry, status
from tests.support.registry_end import QUICK, settings_for
from tests.support.watchdog import watchdog


class Server(Struct):
    """A model of a server and the way to it: the seconds that an answer takes while ``load`` requests are under way."""

    round_trip: float = 0.0
    per_second: float = float("inf")  # requests that it gets done at most

    def seconds(self, load: int) -> float:
        return max(self.round_trip, load / self.per_second)


def grown(
    allowance: Allowance, server: Server, answers: int, *, lengthened: Callable[[], float] = lambda: 1.0
) -> list[int]:
    """The limits of ``allowance`` as ``server`` gives ``answers``, one after the other, with all permits taken."""
    limits: list[int] = []
    ends: list[tuple[float, int, int, float]] = []
    numbers, now = itertools.count(), 0.0
    for _ in range(answers):
        while len(ends) < allowance.limit:
            seconds = server.seconds(allowance.limit) * lengthened()
            heapq.heappush(ends, (now + seconds, next(numbers), allowance.round, seconds))
        now, _, its_round, seconds = heapq.heappop(ends)
        allowance.answered(its_round, "GET", seconds, Moved(now))
        limits.append(allowance.limit)
    return limits


def test_a_long_way_gets_as_many_as_there_are() -> None:
    limits = grown(Allowance(), Server(round_trip=0.04), 400)

    assert limits[0] == 16
    assert limits[-1] == MOST
    assert limits.index(MOST) < 16 + 48, "it grows threefold, and then again before each permit has had an answer"


def test_the_first_answers_of_a_long_way_say_enough() -> None:
    """Those of a host that is near say little, since it has the connections to make."""
    for seconds, limit in ((0.04, 48), (0.004, 16)):
        allowance = Allowance()
        for number in range(16):
            moved = Moved(1 + seconds + number * 0.003)
            allowance.answered(allowance.round, "HEAD", seconds, moved, is_first=True)
        assert allowance.limit == limit


def test_growth_has_two_rounds_to_pay() -> None:
    """In the first one the connections for it are made, which can take the time that it brings."""
    allowance = Allowance()
    limits: list[int] = []
    for number, seconds in enumerate((0.04, 0.16, 0.04, 0.16, 0.16)):
        while allowance.round == number:
            limits.append(allowance.limit)
            allowance.answered(number, "HEAD", seconds, Moved(len(limits) / 100))

    assert list(dict.fromkeys(limits)) == [16, 48, MOST]
    assert allowance.limit == 48


def test_a_server_that_is_busy_already_gets_no_more_for_long() -> None:
    """On loopback twice as many requests take twice as long."""
    limits = grown(Allowance(), Server(per_second=1000), 10_000)

    assert limits[-1] == 16
    assert max(limits) == 32
    assert sum(limit > 16 for limit in limits) < 0.05 * len(limits)


def test_a_quick_host_has_a_moment_to_say_that_it_takes_few() -> None:
    """Else all that it had grown to by then would meet its first 429."""
    allowance, server = Allowance(), Server(round_trip=0.002)

    assert grown(allowance, server, 200)[-1] == 16, "200 answers at a time of 16 take 0.025 seconds"
    assert grown(Allowance(), server, 2000)[-1] == MOST


@pytest.mark.parametrize("most", [40, 60, 90])
def test_growth_ends_where_the_server_is_full(most: int) -> None:
    """It does as many at a time in the time of a round trip."""
    limits = grown(Allowance(), Server(round_trip=0.04, per_second=most / 0.04), 5000)

    assert most / 2 <= limits[-1] <= 1.45 * most


@settings(max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([0.02, 0.1, 0.3]))
def test_answers_of_uneven_times_lead_to_the_same(seed: int, noise: float) -> None:
    chance = random.Random(seed)

    def lengthened() -> float:
        return 1 + chance.expovariate(1 / noise)

    assert grown(Allowance(), Server(round_trip=0.04), 4000, lengthened=lengthened)[-1] >= 64
    busy = grown(Allowance(), Server(per_second=1000), 4000, lengthened=lengthened)
    assert sorted(busy)[len(busy) // 2] <= 32


def test_answers_are_compared_with_those_of_their_own_kind() -> None:
    """A round of slow commits after one of quick questions is no sign of a server that is full."""
    allowance = Allowance()
    for number in range(400):
        key, seconds = ("POST", 0.04) if number // 20 % 2 else ("PUT", 0.4)
        allowance.answered(allowance.round, key, seconds, Moved(number * 0.001))

    assert allowance.limit == MOST


@pytest.mark.parametrize(("most", "expected"), [(16e6, 16), (1e9, MOST)])
def test_bodies_that_take_most_of_the_time_are_what_counts(most: float, expected: int) -> None:
    """A line that is full carries no more bytes, however quick the heads of answers are."""
    allowance = Allowance()
    moved, at, bodies = 0.0, 0.0, 0.0
    limits: list[int] = []
    for _ in range(3000):
        allowance.answered(allowance.round, "GET", 0.01, Moved(at, int(moved), bodies, at))
        at, moved, bodies = at + 0.01, moved + 0.01 * min(most, allowance.limit * 1e6), bodies + 0.01 * allowance.limit
        limits.append(allowance.limit)

    assert sorted(limits)[len(limits) // 2] == expected


def test_trouble_halves_the_number_once_for_all_that_was_under_way() -> None:
    allowance = Allowance()
    grown(allowance, Server(round_trip=0.04), 400)
    for _ in range(20):
        allowance.push_back(10.0, since=9.0)
    assert allowance.limit == MOST // 2
    allowance.push_back(12.0, since=11.0)
    assert allowance.limit == MOST // 4
    for second in range(13, 40):
        allowance.push_back(second + 0.5, since=second)
    assert (allowance.limit, allowance.reached) == (1, MOST)


def test_connections_that_break_leave_some() -> None:
    allowance = Allowance()
    for second in range(40):
        allowance.push_back(second + 0.5, since=second, is_reset=True)

    assert allowance.limit == 4


def test_after_trouble_it_grows_in_small_steps() -> None:
    allowance = Allowance()
    grown(allowance, Server(round_trip=0.04), 400)
    allowance.push_back(10.0, since=9.0)

    limits = grown(allowance, Server(round_trip=0.04), 1000)

    assert max(after - before for before, after in itertools.pairwise(limits)) <= MOST // 8
    assert limits[100] < 2 * limits[0]
    assert limits[-1] > limits[0]


def test_all_hosts_share_what_they_have_beyond_their_first_permits() -> None:
    spare = Spare(100)
    allowances = [Allowance(spare=spare) for _ in range(4)]
    for allowance in allowances:
        grown(allowance, Server(round_trip=0.04), 400)
    assert [allowance.limit for allowance in allowances] == [116, 16, 16, 16]

    allowances[0].push_back(10.0, since=9.0)
    grown(allowances[1], Server(round_trip=0.04), 400)

    assert [allowance.limit for allowance in allowances] == [58, 74, 16, 16]


class Throttled(Struct):
    """A server that takes so many requests in each second, by its clock or from a bucket, and answers others by 429."""

    per_second: int
    phase: float = 0.0  # of its clock, in seconds
    burst: int | None = None  # what the bucket holds; None: there is none
    second: int = -1
    count: float = 0.0  # taken in this second, or left in the bucket
    looked: float = 0.0

    def takes(self, now: float) -> bool:
        if self.burst is None:
            if int(now + self.phase) != self.second:
                self.second, self.count = int(now + self.phase), 0
            self.count += 1
            return self.count <= self.per_second
        if self.second < 0:
            self.second, self.count = 0, self.burst
        self.count = min(self.burst, self.count + (now - self.looked) * self.per_second)
        self.looked = now
        if self.count < 1:
            return False
        self.count -= 1
        return True


class Course(Struct):
    """What became of a run against such a server."""

    seconds: float = 0.0
    sent: int = 0
    refused: int = 0


class Step(Enum):
    """What a request does next."""

    WAITS = 0  # for its turn
    GOES = 1
    ARRIVES = 2
    ENDS = 3


def course(server: Throttled, requests: int, *, at_once: int, latency: float, retry_after: float | None) -> Course:
    """Send ``requests`` to ``server``, ``at_once`` at a time, with a pause for all after each 429."""
    pace, found, chance = Pace(), Course(), random.Random(1)
    numbers, paused_until = itertools.count(), 0.0
    events = [(0.0, next(numbers), Step.WAITS, 0.0, True) for _ in range(at_once)]
    left = requests
    while events:
        now, _, step, sent, is_well = heapq.heappop(events)
        found.seconds = now
        if step is Step.ARRIVES:
            is_well = server.takes(now)
            at, then = now + latency / 2, Step.ENDS
        elif step is Step.GOES and now >= paused_until:
            found.sent += 1
            at, then, sent = now + latency / 2, Step.ARRIVES, now
        else:
            if step is Step.ENDS and is_well:
                left -= 1
                pace.accepted(now, sent)
            elif step is Step.ENDS:
                found.refused += 1
                pace.refused(now, sent, retry_after)
                paused_until = max(paused_until, now + (chance.uniform(0, 0.5) if retry_after is None else retry_after))
            if left < at_once - len([None for event in events if event[2] is Step.ENDS]) and left <= len(events):
                continue
            if now < paused_until:
                at, then = paused_until, Step.WAITS
            else:
                at, then = now + max(0.0, pace.gap(now)), Step.GOES
                pace.sent(at)
        heapq.heappush(events, (at, next(numbers), then, sent, is_well))
    return found


@pytest.mark.parametrize("retry_after", [None, 1.0])
@pytest.mark.parametrize("latency", [0.002, 0.04])
@pytest.mark.parametrize(
    ("server", "most"),
    [
        *((Throttled(50, phase=phase), 1.1 if phase == 0 else 1.3) for phase in (0.0, 0.5, 0.97)),
        *((Throttled(50, burst=burst), 1.1 if burst >= 50 else 1.35) for burst in (10, 50, 150)),
    ],
)
def test_a_host_that_says_nothing_but_429_is_asked_as_often_as_it_takes(
    server: Throttled, most: float, latency: float, retry_after: float | None
) -> None:
    """Sixteen are refused before anything is known."""
    found = course(copy(server), 3000, at_once=16, latency=latency, retry_after=retry_after)

    assert found.refused <= 0.016 * found.sent
    assert found.seconds <= most * 3000 / 50


def test_a_limit_that_is_not_there_is_forgotten_soon() -> None:
    """A host that refused a few of many, for another reason, is asked as often as before in some seconds."""
    pace, now = Pace(), 100.0
    for number in range(8):
        pace.accepted(now + number / 1000, now)
    pace.refused(now + 0.01, now, None)
    now, sent = now + 1, 0
    while now < 115:
        now += max(pace.gap(now), 0.002)
        pace.sent(now)
        pace.accepted(now, now)
        sent += 1

    assert pace.gap(now) < 0.01
    assert sent > 1000


def test_a_host_that_tells_its_quota_of_a_short_time_gets_it_evenly() -> None:
    pace = Pace()
    assert pace.gap(0.0) < 0
    pace.heed(Quota(49, 1.0, is_of_pulls=False, limit=50), 0.0)
    now, sent = 0.0, 0
    while now < 10:
        now += max(0.0, pace.gap(now))
        pace.sent(now)
        sent += 1

    assert 470 <= sent <= 490


@pytest.mark.parametrize("is_of_pulls", [False, True])
def test_a_quota_of_a_long_time_is_used_up_at_once_and_no_further(is_of_pulls: bool) -> None:
    pace = Pace()
    pace.heed(Quota(3, 3600.0, is_of_pulls=is_of_pulls, limit=100, window=3600), 0.0)

    assert not pace.is_known
    for _ in range(3):
        assert pace.may_ask(1.0, is_pull=is_of_pulls)
        pace.unanswered += 1
        pace.unanswered_pulls += is_of_pulls
    assert not pace.may_ask(1.0, is_pull=is_of_pulls)
    assert pace.may_ask(3601.0, is_pull=is_of_pulls)


def test_what_counts_as_no_pull_is_asked_when_pulls_are_used_up() -> None:
    pace = Pace()
    pace.heed(Quota(0, 3600.0, is_of_pulls=True, limit=100, window=3600), 0.0)
    pace.unanswered = pace.unanswered_pulls = 5

    assert not pace.may_ask(1.0, is_pull=True)
    assert pace.may_ask(1.0, is_pull=False)


def test_documented_ceilings_hold_for_what_they_are_of() -> None:
    pace = Pace(Ceiling(requests=100, writes=50, manifests=10))

    def last(**kind: bool) -> float:
        return [pace.take(0.0, **kind) for _ in range(11)][-1]

    assert last(is_write=False, is_manifest=True) == pytest.approx(10 / 100)
    assert last(is_write=True, is_manifest=False) == pytest.approx(21 / 100, abs=0.02)
    assert last(is_write=True, is_manifest=True) == pytest.approx(10 / 10)


@dataclass(slots=True)
class Crowd:
    """A server's view of the requests that it answers at the same time; it lets some wait for others to come."""

    now: int = 0
    most: int = 0
    seen: int = 0
    slow: int = 0  # the first requests, which take longer
    awaited: int = 0  # the requests that must be there at once before any of the others is answered
    _enough: anyio.Event = dataclass_field(default_factory=anyio.Event)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.seen += 1
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= self.awaited:
            self._enough.set()
        if self.seen <= self.slow:
            await anyio.sleep(0.3)
        else:
            await self._enough.wait()
        await many_turns()
        self.now -= 1
        return await handler(request)


async def many_turns() -> None:
    """Let all who can come meanwhile."""
    for _ in range(200):
        await anyio.lowlevel.checkpoint()


async def ask_all(transport: Transport, registry: Quirky, count: int, path: str = "/v2/", **more: Any) -> None:
    """Ask for the same so many times at once."""
    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(transport.ask, Request(method="GET", url=URL(f"{registry.url}{path}"), **more))


async def test_a_server_sees_more_requests_at_once_where_that_brings_more() -> None:
    """The first of each connection, and the next ones, take longer than all others, which wait for each other."""
    crowd = Crowd(slow=32, awaited=32)
    async with quirky_registry() as registry, open_transport(TransportSettings(limits=QUICK)) as transport, watchdog():
        registry.on("*", crowd, times=999)
        await ask_all(transport, registry, 80)

        assert crowd.most >= 32
        assert transport.traffic[registry.address].permits.reached["manifests"] >= 32


async def test_nothing_grows_for_requests_beside_which_others_could_have_gone() -> None:
    async with quirky_registry() as registry, open_transport(TransportSettings(limits=QUICK)) as transport, watchdog():
        for _ in range(10):
            await ask_all(transport, registry, 12)

    assert transport.traffic[registry.address].permits.reached["manifests"] == 16


@pytest.mark.parametrize("fixed", [None, 1])
async def test_one_that_is_cancelled_while_it_waits_is_in_nobodys_way(fixed: int | None) -> None:
    permits = Permits(fixed)
    had = [await permits.acquire(Kind.BLOBS) for _ in range(fixed or FIRST)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(permits.acquire, Kind.BLOBS)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    for permit in had:
        permit()

    with anyio.fail_after(10):
        await permits.acquire(Kind.BLOBS)


async def test_a_number_that_is_given_stays() -> None:
    crowd = Crowd(slow=16)
    limits = structs.replace(QUICK, requests_per_host=20)
    async with quirky_registry() as registry, open_transport(TransportSettings(limits=limits)) as transport, watchdog():
        registry.on("*", crowd, times=999)
        await ask_all(transport, registry, 80)

    assert crowd.most <= 20


async def test_a_number_that_is_given_stays_after_trouble() -> None:
    crowd = Crowd(awaited=20)
    limits = structs.replace(QUICK, requests_per_host=20)
    async with quirky_registry() as registry, open_transport(TransportSettings(limits=limits)) as transport, watchdog():
        registry.on("*", status(503))
        await ask_all(transport, registry, 1)
        registry.on("*", crowd, times=999)
        await ask_all(transport, registry, 20)

    assert crowd.most == 20


def broken(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
    """Reset the connection."""
    assert request.transport is not None
    request.transport.abort()
    return handler(request)


@pytest.mark.parametrize("trouble", [[status(429)], [status(503)], [broken, broken]], ids=["429", "503", "resets"])
async def test_trouble_leaves_a_server_half_as_many_at_once(trouble: list[Fault]) -> None:
    crowd, others = Crowd(), Crowd(awaited=16)
    async with quirky_registry() as registry, open_transport(TransportSettings(limits=QUICK)) as transport, watchdog():
        registry.on("*", *trouble)
        await ask_all(transport, registry, 1)
        registry.on("GET ping", crowd, times=24)
        await ask_all(transport, registry, 24)
        registry.on("GET manifest", crowd, times=1)
        registry.on("GET blob", others, times=16)
        digest = registry.add("app", b"content")
        await ask_all(transport, registry, 16, f"/v2/app/blobs/{digest}", is_blob=True)

    assert crowd.most <= 8
    assert others.most == 16, "blobs have a budget of their own"


@pytest.mark.parametrize("told", [{"RateLimit": '"a";r=2;t=60'}, {"RateLimit-Remaining": "2", "RateLimit-Reset": "60"}])
async def test_no_more_requests_are_unanswered_than_a_host_still_takes(told: dict[str, str]) -> None:
    crowd = Crowd()

    async def tells(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await crowd(request, handler)
        response.headers.update(told)
        return response

    async with quirky_registry() as registry, open_transport(TransportSettings(limits=QUICK)) as transport, watchdog():
        registry.on("*", tells, times=999)
        await ask_all(transport, registry, 1)
        await ask_all(transport, registry, 20)

    assert crowd.most <= 2
    assert crowd.seen == 21


async def test_a_quota_of_a_short_time_is_used_evenly() -> None:
    async def tells(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers.update({"RateLimit": '"a";r=9;t=1', "RateLimit-Policy": '"a";q=10;w=1'})
        return response

    async with quirky_registry() as registry, open_transport(TransportSettings(limits=QUICK)) as transport, watchdog():
        registry.on("*", tells, times=999)
        await ask_all(transport, registry, 1)
        began = time.monotonic()
        await ask_all(transport, registry, 6)
        seconds = time.monotonic() - began

    assert seconds >= 4 / 10
    assert transport.traffic[registry.address].spent.quota >= 0.4
    assert transport.traffic[registry.address].pauses == 0


async def test_a_registry_whose_operator_documents_its_limits_is_kept_to_them() -> None:
    ecr = "1.dkr.ecr.eu-west-1.amazonaws.com"
    hosts = {"own." + ecr: HostSettings(requests_per_second=500)}
    async with open_registries(RegistrySettings(transport=TransportSettings(limits=QUICK, hosts=hosts))) as registries:
        waits = {}
        for host in (ecr, "own." + ecr, "quay.io"):
            pace = registries.transport.of(registries.registry(host).base).pace
            waits[host] = [pace.take(0.0, is_write=True, is_manifest=True) for _ in range(11)][-1]

    assert waits == {ecr: pytest.approx(1.0), "own." + ecr: 0, "quay.io": 0}


@pytest.mark.parametrize(
    ("host", "writes_manifest", "writes", "reads"),
    [
        ("1.dkr.ecr-fips.us-gov-west-1.amazonaws.com", 10, 200, None),
        ("1.dkr.ecr.cn-north-1.amazonaws.com.cn", 10, 200, None),
        ("public.ecr.aws", 10, 20, None),
        ("europe-docker.pkg.dev", 300, 300, 1000),
        ("eu.gcr.io", 300, 300, 1000),
        ("Team.azurecr.io", 33, 33, 200),
        ("index.docker.io", 83, 83, 83),
        ("dkr.ecr.eu-west-1.amazonaws.com.example.com", None, None, None),
        ("notgcr.io", None, None, None),
    ],
)
def test_the_limits_of_each_operator_are_those_of_the_page(
    host: str, writes_manifest: int | None, writes: int | None, reads: int | None
) -> None:
    """The table in docs/command-line.md."""

    def found(*names: str) -> int | None:
        limits = [int(limit) for name, limit in ceiling_of(host).each() if name in names]
        return min(limits, default=None)

    assert found("requests", "writes", "manifests") == writes_manifest
    assert found("requests", "writes") == writes
    assert found("requests") == reads


async def test_the_report_says_what_each_host_got(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with serve_disk("source") as source:
        await client.push(source, "app", images.image("a"), "1")
        found = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        three = settings_for(source, limits=structs.replace(QUICK, requests_per_host=3))
        fixed = await syncer.build([f"{source.address}/app:1"], output=tmp_path, settings=three, force=True)

    (registry,) = found.report.registries
    assert registry.concurrency == {"manifests": 16, "blobs": 16, "uploads": 16}
    assert [registry.concurrency for registry in fixed.report.registries] == [{"all": 3}]
    assert Report.from_json(found.report.to_json()).registries == (registry,)
