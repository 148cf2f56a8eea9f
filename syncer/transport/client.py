"""The client for requests: one retry loop, its arithmetic, pauses that hold for a whole host, and checked redirects."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial

import anyio
from msgspec import structs
from yarl import URL

from syncer.errors import Interrupted, NetworkError, Unreachable, Unsafe, Waiting
from syncer.transport.failures import (
    HOPELESS,
    MOST_STALLS,
    Absent,
    Budget,
    Down,
    NameUnknown,
    Unanswered,
    Wait,
    WaitKind,
    spelt_status,
)
from syncer.transport.guard import Scope, authority, check_hop, origin
from syncer.transport.hosts import Traffic, spare_permits
from syncer.transport.message import (
    SMALL,
    Answer,
    Challenged,
    Kind,
    Lane,
    Request,
    Response,
    in_lane,
    is_redirect,
    leads_on,
    read_quota,
    resolved,
    retry_after,
)
from syncer.transport.permits import Permit, Rate
from syncer.transport.settings import Limits, TransportSettings
from syncer.transport.wire import Wire

PAUSING = frozenset({429, 503})
"""Statuses by which a host asks for a pause of all requests."""

TRANSIENT = PAUSING | {408, 425, 499, 500, 502, 504, *range(520, 528)}
"""Statuses for which another attempt may succeed; 52x are Cloudflare's."""

PROGRESS = 1024 * 1024
"""Bytes that an attempt must have transferred to count as progress."""

_CREDENTIALS = frozenset({"ApiKey", "Authorization", "Cookie"})
OUTAGES = frozenset({429, 502, 503, 504, *range(520, 528)})  # which speak for a whole host
TROUBLE = OUTAGES - {429}  # by which a proxy says that the server behind it is not there
SILENCE = (Unreachable, Unanswered)
MOST_REDIRECTS = 5
_MOST_CHALLENGES = 2
_NAME_ATTEMPTS = 2


class Transport:
    """The way to send requests; a request is repeated only where that does no harm."""

    def __init__(self, wire: Wire, settings: TransportSettings) -> None:
        self._wire = wire
        self.settings = settings
        self.traffic: dict[str, Traffic] = {}  # by host[:port]
        self._rate = Rate(settings.bytes_per_second) if settings.bytes_per_second else None
        self._group_rates = {name: Rate(limit) for name, limit in settings.groups.items()}
        self._spare = spare_permits()
        self._listeners: list[Callable[[Wait], None]] = []

    @property
    def limits(self) -> Limits:
        return self.settings.limits

    def budget(self) -> Budget:
        """The attempts that one piece of work may take."""
        return Budget(self.limits)

    async def ask(self, request: Request, *, limit: int = SMALL, budget: Budget | None = None) -> Answer:
        """Send ``request`` and return the answer, whatever its status is; at most ``limit`` bytes of its body are read.

        Raises a ``NetworkError`` when there is no answer.
        """
        budget = budget or self.budget()
        while True:
            response = await self._send(request, budget)
            try:
                return await response.answer(request, limit)
            except Interrupted as error:
                if not request.repeatable:
                    raise
                interrupted = error
            finally:
                response.close()
            await self._again(request, budget, interrupted)

    @asynccontextmanager
    async def open(self, request: Request, *, budget: Budget | None = None) -> AsyncIterator[Response]:
        """Send ``request``; yields the answer, whatever its status is, with its body still to be read.

        The transport repeats the request until an answer begins; after that, the caller handles errors in the body.
        """
        response = await self._send(request, budget or self.budget())
        try:
            yield response
        finally:
            response.close()

    def of(self, url: URL) -> Traffic:
        """The counters and the pause of the host in ``url``."""
        host = authority(url)
        traffic = self.traffic.get(host)
        if traffic is None:
            settings = self.settings.host(host)
            shared = tuple(filter(None, (self._rate, self._group_rates.get(settings.group or ""))))
            ceiling = self.settings.ceiling_of(host)
            traffic = self.traffic[host] = Traffic(
                host, settings, self.limits, tell=self._tell, shared_rates=shared, spare=self._spare, ceiling=ceiling
            )
        return traffic

    @contextmanager
    def telling(self, listener: Callable[[Wait], None]) -> Iterator[None]:
        """Tell ``listener`` of what holds requests up, as long as the block lasts."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def _tell(self, wait: Wait) -> None:
        for listener in self._listeners:
            listener(wait)

    async def back_off(
        self,
        url: URL,
        budget: Budget,
        reason: object,
        *,
        at_least: float = 0.0,
        is_pause: bool = False,
        kind: Kind = Kind.MANIFESTS,
    ) -> None:
        """Count a retry at the host of ``url``, tell why, and wait before it, for at least ``at_least`` seconds.

        A connection that broke says that the host gets too many requests of ``kind``.

        ``is_pause`` says that the host asked to wait, which is counted already.
        """
        traffic = self.of(url)
        traffic.retries += 1
        seconds = budget.fail(at_least=at_least)
        if not is_pause:
            traffic.spent.retries += seconds
        if isinstance(reason, Interrupted) and not isinstance(reason, Unanswered):
            traffic.permits.push_back(kind, time.monotonic(), budget.began, is_reset=True)
        self._tell(
            Wait(
                host=traffic.host,
                kind=WaitKind.RETRY,
                seconds=seconds,
                reason=str(reason),
                retry=budget.failures,
                retries=budget.retries,
            )
        )
        await anyio.sleep(seconds)

    @asynccontextmanager
    async def relay(self, *, download: URL, upload: URL | None = None) -> AsyncIterator[None]:
        """Hold permits for a ``download``, and for the ``upload`` that it feeds, which may be at the same host.

        A download that feeds an upload needs both at the same time.  Such work waits here, before it holds anything
        that other work needs, and not later.
        """
        async with AsyncExitStack() as stack:
            wanted = {authority(download): [Kind.BLOBS]}
            if upload is not None:
                wanted.setdefault(authority(upload), []).append(Kind.UPLOADS)
            for host, kinds in sorted(wanted.items()):
                await self.of(upload if upload and host == authority(upload) else download).permits.hold(stack, kinds)
            with in_lane(Lane.RELAY):
                yield

    def forget_outages(self, *hosts: str, is_last: bool = False) -> None:
        """Give ``hosts``, or all, that did not answer all their attempts again, or one where it ``is_last``."""
        for host in hosts or self.traffic:
            if (traffic := self.traffic.get(host)) is not None:
                traffic.is_down = traffic.is_down and is_last
                traffic.presence.forget()

    def leave(self, host: str) -> None:
        """Close the connections to ``host`` that nobody uses, and count its requests from 0 again.

        Nothing will be asked of it for a while, and what is asked then is somebody else's work.
        """
        self._wire.leave(host)
        if (traffic := self.traffic.get(host)) is not None:
            traffic.count_anew()

    async def _send(self, request: Request, budget: Budget) -> Response:
        if not self.settings.one_first:
            return await self._attempts(request, budget)
        traffic = self.of(request.url)
        let_go = await traffic.presence.first()
        try:
            response = await self._attempts(request, budget)
        except Unanswered:
            await self._judge(request, traffic)
            raise
        except Unreachable as error:
            traffic.presence.failed(error)
            raise
        else:
            if response.status in TROUBLE:
                await self._judge(request, traffic)
            return response
        finally:
            let_go()

    async def _judge(self, request: Request, traffic: Traffic) -> None:
        """Find out whether the trouble of ``request`` is its own, or that of a host which never answered well."""
        if traffic.presence.is_told:
            return
        began = time.monotonic()
        try:
            await self._look(request, traffic)
        except Unreachable as error:
            traffic.presence.failed(error)
        else:
            traffic.presence.answered(began)

    async def _attempts(self, request: Request, budget: Budget) -> Response:
        """Send ``request`` until an answer is the last word, or no attempt is left."""
        is_first = True
        while True:
            try:
                response = await self._follow(request)
            except (*HOPELESS, Down):
                self.of(request.url).errors += 1
                raise
            except NameUnknown as error:
                await self._again(request, budget, error, at_most=_NAME_ATTEMPTS)
                continue
            except Unreachable as error:
                await self._again(request, budget, error)
                continue
            except Interrupted as error:
                if not request.repeatable:
                    raise
                # the server may have closed an idle connection as we took it up (RFC 9112 §9.3.1)
                if is_first and not isinstance(error, Unanswered):
                    is_first = False
                    self.of(request.url).retries += 1
                    continue
                self.note_stall(request, budget, error)
                await self._again(request, budget, error)
                continue
            if response.status not in TRANSIENT or await self._is_final(request, response):
                return response
            if (last := await self._after(request, response, budget)) is not None:
                return last

    async def _after(self, request: Request, response: Response, budget: Budget) -> Response | None:
        """Wait before another attempt, after an answer of ``TRANSIENT``; returns that answer if there is to be none."""
        wait = self._heed_retry_after(response, budget)
        if not request.repeatable:
            return response
        if response.status in TROUBLE and (budget.is_spent or self.of(request.url).is_down):
            response = await response.read_into_memory()
            if await self.outlast(response.request, budget):
                return None
        if self._gives_up(request, budget, is_outage=response.status in OUTAGES):
            return response
        response.close()
        is_pause = response.status in PAUSING
        reason = spelt_status(response.status)
        await self.back_off(request.url, budget, reason, at_least=0.0 if is_pause else wait, is_pause=is_pause)
        return None

    async def outlast(self, request: Request, budget: Budget) -> bool:
        """Wait while nothing works at the host of ``request``, which answered with one of ``TROUBLE``.

        Returns True when it works again; ``budget`` has all its attempts then.  A host that works may have begun to do
        so after the attempts, so the request gets one more: True again.  Returns False when the trouble is that of this
        request, or the host was in trouble from the start.  Raises ``Down`` after ``Limits.outage`` seconds.
        """
        if not budget.is_patient or budget.is_last:
            return False
        traffic = self.of(request.url)
        try:
            if not await traffic.presence.outlast(partial(self._look, request, traffic), budget.began):
                if not traffic.presence.is_known_well:
                    return False
                budget.is_last = True
                traffic.retries += 1
                return True
        except Down:
            traffic.errors += 1
            raise
        traffic.retries += 1
        budget.progressed()
        return True

    async def _look(self, request: Request, traffic: Traffic) -> None:
        """Ask the host of ``request`` for what costs it nothing; raises ``Unreachable`` if it is in trouble."""
        ping = Request(
            method="GET", url=URL(f"{request.url.origin()}/v2/"), reach=request.reach, patience=self.limits.connect
        )
        try:
            with in_lane(Lane.ERRAND):
                response, permit = await self._attempt(ping, None, traffic)
        except Interrupted as error:
            raise Absent(str(error)) from None
        permit()
        response.close()
        if response.status in TROUBLE:
            raise Absent(f"{traffic.host} answers {spelt_status(response.status)}")

    async def _is_final(self, request: Request, response: Response) -> bool:
        """Whether an error that could be gone at the next attempt says of itself that it will not be."""
        if request.is_final is None:
            return False
        with suppress(Interrupted):  # an answer that cannot be read says nothing
            response.told = await response.answer(request)
        return response.told is not None and request.is_final(response.told)

    async def _again(
        self, request: Request, budget: Budget, error: Interrupted | Unreachable, *, at_most: int | None = None
    ) -> None:
        is_last = at_most is not None and budget.failures + 1 >= at_most
        is_outage = isinstance(error, SILENCE) and not request.is_blob  # which may be held back, and nothing else
        if self._gives_up(request, budget, is_outage=is_outage, is_last=is_last):
            if isinstance(error, NameUnknown):
                self.of(request.url).presence.unknown(error)
            raise error
        await self.back_off(request.url, budget, error, kind=request.kind)

    def note_stall(self, request: Request, budget: Budget, error: NetworkError) -> None:
        """Count a blob that was waited for in vain; one that never came is asked for once from then on."""
        if not (request.is_blob and isinstance(error, Unanswered)):
            return
        held_back = self.of(request.url).held_back
        budget.stalls = MOST_STALLS if request.url.name in held_back else budget.stalls + 1
        if budget.stalls >= MOST_STALLS:
            held_back.add(request.url.name)

    def _gives_up(self, request: Request, budget: Budget, *, is_outage: bool, is_last: bool = False) -> bool:
        """Tell whether a failed attempt was the last one; then the error is counted.

        A host that failed all attempts of one request gets one attempt for each other request until it answers again,
        so that a dead registry does not cost hours.
        """
        traffic = self.of(request.url)
        if not (budget.is_spent or is_last or (is_outage and traffic.is_down)):
            return False
        traffic.is_down = traffic.is_down or is_outage
        traffic.errors += 1
        return True

    def _heed_retry_after(self, response: Response, budget: Budget) -> float:
        """Count an answer that asks for a retry, and return the seconds to wait; 429 and 503 pause the whole host.

        Raises ``Waiting`` for more than ``Limits.max_wait`` seconds.
        """
        traffic = self.of(response.request.url)
        traffic.throttled += response.status == 429
        wait = retry_after(response.headers)
        if response.status in PAUSING:
            traffic.push_back(response, wait)
            traffic.pause(budget.jitter() if wait is None else wait, spelt_status(response.status))
        if wait is not None and wait > self.limits.max_wait:
            response.close()
            traffic.errors += 1
            raise Waiting(traffic.host, wait, self.limits.max_wait)
        return wait or 0.0

    async def _follow(self, request: Request) -> Response:
        """Make one attempt, and follow redirects."""
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._authorized(request)
            if not is_redirect(request.method, response.status, response.headers) or not leads_on(
                request, response.headers["Location"]
            ):
                return response
            try:
                authorizer = request.authorizer
                request = self.redirected(request, response.headers["Location"], response.scope, what="a redirect")
                if request.authorizer is None and authorizer and request.method in ("GET", "HEAD"):
                    request = structs.replace(request, authorizer=authorizer.elsewhere(request.url))
                await response.answer(response.request)
            finally:
                response.close()
        raise Unsafe(f"{request}: more than {MOST_REDIRECTS} redirects")

    @staticmethod
    def redirected(request: Request, location: str, scope: Scope, *, what: str) -> Request:
        """``request`` for the ``location`` that a server at an address of ``scope`` gave; raises ``Unsafe``.

        A request to another origin has no credentials.  The URL is kept as the server wrote it.
        """
        try:
            url = resolved(request.url, location)
        except ValueError:
            raise Unsafe(f"{what} from {authority(request.url)} leads to no address at all") from None
        if origin(url) == origin(request.url) and url.raw_user is None and url.raw_password is None:
            return structs.replace(request, url=url)
        reach = scope if request.reach is None else min(scope, request.reach)
        check_hop(request.url, url, reach, what)
        headers = {name: value for name, value in request.headers.items() if name not in _CREDENTIALS}
        return structs.replace(request, url=url, reach=reach, authorizer=None, headers=headers)

    async def _authorized(self, request: Request) -> Response:
        """Make one exchange, with credentials if the server wants them and there are some for it."""
        authorizer = request.authorizer
        challenges = 0
        while True:
            sent = None
            if authorizer is not None:
                with in_lane(Lane.ERRAND):
                    sent = await authorizer.authorization()
            traffic = self.of(request.url)
            response = await self._exchange(request, sent, traffic)
            is_streamed = request.body is not None and not isinstance(request.body, bytes)
            if response.status != 401 or authorizer is None or is_streamed or challenges == _MOST_CHALLENGES:
                return response
            challenges += 1
            challenged = Challenged(
                url=request.url,
                scope=response.scope,
                challenges=tuple(response.headers.getall("WWW-Authenticate", ())),
                sent=sent,
                is_first=challenges == 1,
            )
            refusal = await response.read_into_memory()
            with in_lane(Lane.ERRAND):
                can_help = await authorizer.challenged(challenged)
            if not can_help:
                return refusal

    async def _exchange(self, request: Request, sent: str | None, traffic: Traffic) -> Response:
        """Send ``request`` when its host may be asked, and note the limits that its answer tells."""
        lost: Unreachable | None = None
        for _ in range(self.limits.attempts):
            if traffic.presence.is_doubtful:
                await traffic.presence.wait(partial(self._wire.probe, request))
            began = time.monotonic()
            try:
                response, permit = await self._attempt(request, sent, traffic)
                break
            except HOPELESS:
                raise
            except Unreachable as error:  # nothing was sent, whatever it is
                lost = error
            await traffic.presence.lost(lost, partial(self._wire.probe, request))
            traffic.retries += 1
        else:
            assert lost is not None
            raise Down(str(lost), hint=lost.hint)
        response.on_close = permit
        traffic.presence.answered(began, is_well=response.status not in TROUBLE)
        if quota := read_quota(response.headers):
            traffic.heed(quota)
        if response.status not in OUTAGES:
            traffic.is_down = False
        return response

    async def _attempt(self, request: Request, sent: str | None, traffic: Traffic) -> tuple[Response, Permit]:
        """One request when the host may be asked; its answer, and its permit, which is to be given back."""
        began = time.monotonic()
        permit = await traffic.admit(request)
        if traffic.is_down and request.body is None:
            request = structs.replace(request, patience=min(request.patience or self.limits.idle, self.limits.connect))
        try:
            traffic.presence.refuse(began)
            response = await self._wire.exchange(request, sent, traffic)
        except BaseException:
            traffic.ended(request)
            permit()
            raise
        response.began = permit.began
        traffic.answered(permit, response)
        return response, permit


@asynccontextmanager
async def open_transport(settings: TransportSettings) -> AsyncIterator[Transport]:
    """Open a transport; its connections live as long as the ``async with`` block."""
    async with Wire(settings) as wire:
        yield Transport(wire, settings)
