"""The HTTP client of a Palette console, made of aiohttp's: retries, pauses, redirects and proxies as in transport/."""

from __future__ import annotations

import socket
import ssl
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult
from msgspec import structs
from yarl import URL

from syncer.errors import Interrupted, NetworkError, Unreachable, Unsafe, Waiting
from syncer.transport import Answer, Budget, Request, Traffic, Transport, TransportSettings
from syncer.transport.client import MOST_REDIRECTS, OUTAGES, PAUSING, SILENCE, TRANSIENT
from syncer.transport.connecting import Route
from syncer.transport.failures import HOPELESS, NameUnknown, OutOfReach, failure_of, no_connection, no_tunnel
from syncer.transport.guard import Scope, authority, scope_of
from syncer.transport.http import CutOff, NotHTTP
from syncer.transport.message import is_redirect, read_quota, retry_after
from syncer.transport.settings import tls_context, with_certificates


class _Names(aiohttp.ThreadedResolver):
    """The system's answers for names, without addresses that are nearer than ``reach``.

    The rule for addresses that stand in a URL is in ``check_hop``.
    """

    def __init__(self, reach: Scope | None, scopes: dict[str, Scope]) -> None:
        super().__init__()
        self._reach = reach
        self._scopes = scopes  # of all names, by their farthest address

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        allowed = [each for each in found if self._reach is None or scope_of(each["host"]) <= self._reach]
        if not allowed:
            raise OutOfReach
        self._scopes[host] = min(scope_of(each["host"]) for each in allowed)
        return allowed


class ConsoleClient:
    """The HTTP client of one console; its sessions are closed by the stack that is given to it."""

    def __init__(self, console: URL, settings: TransportSettings, sessions: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = sessions
        self._sessions: dict[Scope | None, aiohttp.ClientSession] = {}  # by how near an address may be
        self._scopes: dict[str, Scope] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._traffic = Traffic(authority(console), settings.host(authority(console)), settings.limits)

    async def ask(self, request: Request, limit: int) -> Answer:
        """The answer to ``request``, whatever its status is, with at most ``limit`` bytes of its body.

        Raises a ``NetworkError`` when no answer could be had.
        """
        traffic = self._traffic
        budget = Budget(self._settings.limits, 1 if traffic.is_down else None)
        while True:
            wait = 0.0
            release = await traffic.admit(request)
            try:
                answer = await self._follow(request, limit)
            except (Unreachable, Interrupted) as error:
                is_hopeless = isinstance(error, HOPELESS) or (isinstance(error, NameUnknown) and budget.failures)
                if is_hopeless or budget.is_spent:
                    traffic.is_down = isinstance(error, SILENCE)
                    raise
            else:
                wait = self._take_in(answer, budget)
                if answer.status not in TRANSIENT or budget.is_spent:
                    traffic.is_down = answer.status in OUTAGES
                    return answer
            finally:
                traffic.ended(request)
                release()
            await budget.sleep(at_least=wait)

    def _take_in(self, answer: Answer, budget: Budget) -> float:
        """The seconds that the console asks this request to wait; raises ``Waiting`` if they are too many."""
        if quota := read_quota(answer.headers):
            self._traffic.heed(quota)
        wait = retry_after(answer.headers) if answer.status in TRANSIENT else None
        if answer.status in PAUSING:
            self._traffic.pause(budget.jitter() if wait is None else wait)
        if wait is not None and wait > self._settings.limits.max_wait:
            raise Waiting(self._traffic.host, wait, self._settings.limits.max_wait)
        return 0.0 if answer.status in PAUSING or wait is None else wait

    async def _follow(self, request: Request, limit: int) -> Answer:
        """One attempt, through redirects; messages name the request before them."""
        asked = str(request)
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._exchange(request, limit)
            if not is_redirect(request.method, answer.status, answer.headers):
                return structs.replace(answer, asked=asked)
            request = Transport.redirected(request, answer.headers["Location"], answer.scope, what="a redirect")
        raise Unsafe(f"{request}: more than {MOST_REDIRECTS} redirects")

    async def _exchange(self, request: Request, limit: int) -> Answer:
        url, proxy = request.url, self._settings.proxies.for_url(request.url)
        session = await self._session(None if proxy else request.reach)  # a proxy may be anywhere
        login = Route(url=url, reach=None, tls=None, proxy=proxy).login
        for_proxy = {"Proxy-Authorization": login} if login else {}
        content = bytearray()
        try:
            async with session.request(
                request.method,
                url,
                headers={**request.headers, **(for_proxy if url.scheme == "http" else {})},
                data=request.body,
                allow_redirects=False,
                ssl=self._context(url, proxy),
                proxy=proxy.origin() if proxy else None,
                proxy_headers=for_proxy,  # of a tunnel
            ) as response:
                async for piece in response.content.iter_any():
                    content += piece
                    if len(content) > limit:
                        break
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(error, request, proxy) from None
        except ValueError:
            raise Unsafe(f"{request}: what would be sent breaks out of its header") from None
        if response.status == 407 and proxy and url.scheme == "http":
            raise no_tunnel(407, authority(proxy), authority(url))
        return Answer(
            asked=str(request),
            url=url,
            status=response.status,
            headers=response.headers,
            content=bytes(memoryview(content)[:limit]),
            is_whole=len(content) <= limit,
            scope=self._scopes.get(url.raw_host or "", Scope.of_host(url.host or "") or Scope.PUBLIC),
        )

    async def _session(self, reach: Scope | None) -> aiohttp.ClientSession:
        if reach not in self._sessions:
            limits = self._settings.limits
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, resolver=_Names(reach, self._scopes)),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": self._settings.user_agent},
                timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect, sock_read=limits.idle),
                auto_decompress=False,
            )
            self._sessions[reach] = await self._stack.enter_async_context(session)
        return self._sessions[reach]

    def _context(self, url: URL, proxy: URL | None) -> ssl.SSLContext | bool:
        """TLS to the server, or to the proxy where the server speaks none; aiohttp takes one for both of them."""
        if url.scheme != "https":
            return self._context(proxy.origin(), None) if proxy and proxy.scheme == "https" else True
        host = authority(url)
        if host not in self._contexts:
            settings = with_certificates(self._settings.host(host), self._settings.certificates, host)
            self._contexts[host] = tls_context(settings)
        return self._contexts[host]


def _failure(error: Exception, request: Request, proxy: URL | None) -> NetworkError:
    """What aiohttp's ``error`` means for ``request``."""
    host, via = authority(request.url), authority(proxy) if proxy else ""
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            cause = error.__cause__
            assert isinstance(cause, OSError)
            is_proxy = proxy is not None and (error.host, error.port) == (proxy.raw_host, proxy.port)
            return no_connection(cause, via if is_proxy else host, is_proxy=is_proxy, server="the console")
        case aiohttp.ConnectionTimeoutError():
            return no_tunnel(error, via, host) if proxy else no_connection(error, host)
        case aiohttp.ClientHttpProxyError():
            return no_tunnel(error.status, via, host)
        case aiohttp.ClientPayloadError():
            return failure_of(CutOff(), request)
        case aiohttp.ClientResponseError():
            return failure_of(NotHTTP(), request)
        case _:
            return failure_of(error, request)
