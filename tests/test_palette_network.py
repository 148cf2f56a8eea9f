"""The way to Palette's console: its certificate, proxies, redirects, pauses, and connections that break."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.abc
import pytest
from aiohttp import web
from yarl import URL

from syncer.errors import Denied, Interrupted, NetworkError, NotFound, RegistryError, Unreachable, Unsafe, Waiting
from syncer.profiles.palette.key import PaletteAccount
from syncer.profiles.palette.palette_api import MAX_ANSWER, PaletteApi, Project, open_palette
from syncer.transport import HostSettings, Limits, Proxies, TransportSettings
from syncer.transport.failures import CertificateRefused, NameUnknown, ProxyRefused, Unanswered
from syncer.transport.guard import Scope
from tests.support.faults import Reply
from tests.support.forward_proxy import ForwardProxy, forward_proxy
from tests.support.palette import KEY, Palette, error, palette_server
from tests.support.tls import Authority
from tests.support.tokens import Login

_LIMITS = Limits(attempts=3, backoff=0.01, connect=5.0, idle=0.3)
_PROJECTS = "/v1/dashboard/projects/metadata"
_FOUND = [Project("Default", "project-1")]
_LOGIN = Login("pat", "canary")


@asynccontextmanager
async def _api(url: URL, project: str = "", **settings: Any) -> AsyncIterator[PaletteApi]:
    account = PaletteAccount(url=url, api_key=KEY, project_uid=project)
    transport = TransportSettings(**{"limits": _LIMITS, "user_agent": "test/1", **settings})
    async with open_palette(account, transport) as api:
        yield api


async def _ask(url: URL, **settings: Any) -> list[Project]:
    async with _api(url, **settings) as api:
        return await api.projects()


def _leads_to(place: str, status: int = 302) -> web.Response:
    return web.Response(status=status, headers={"Location": place})


async def test_the_console_hears_who_asks_and_gets_no_cookie_back() -> None:
    async with palette_server() as palette, _api(palette.url.with_host("localhost")) as api:  # a name, as cookies want
        palette.failures = [error(502, "", "", **{"Set-Cookie": "session=1"})]

        await api.projects()

        assert [headers["User-Agent"] for headers in palette.headers] == ["test/1", "test/1"]
        assert not any("Cookie" in headers for headers in palette.headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_console_keeps_the_key(status: int) -> None:
    async with palette_server() as palette:
        palette.failures = [_leads_to(f"{_PROJECTS}?continue=", status)]

        assert await _ask(palette.url) == _FOUND
        assert palette.requests == [f"GET {_PROJECTS}", f"GET {_PROJECTS}?continue="]


async def test_redirects_without_end_are_not_followed() -> None:
    async with palette_server() as palette:
        palette.failures = [_leads_to(_PROJECTS) for _ in range(20)]

        with pytest.raises(Unsafe, match="more than 5 redirects"):
            await _ask(palette.url)

        assert len(palette.requests) == 6


async def test_a_redirect_of_what_was_sent_is_followed_only_if_it_is_sent_again(tmp_path: Path) -> None:
    """RFC 9110 §15.4: a 302 may turn a POST into a GET, which would ask for something else."""
    async with palette_server(profiles={"p": {"metadata": {}}}) as palette, _api(palette.url) as api:
        there = "/v1/spectroclusters/spc/download"
        palette.failures = [_leads_to(there, 308)]
        await api.download_definition("edge", ["p"], tmp_path / "edge.tgz")
        palette.failures = [_leads_to(there, 302)]
        with pytest.raises(RegistryError, match="302"):
            await api.download_definition("edge", ["p"], tmp_path / "other.tgz")

        assert len(palette.definitions) == 1


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("http://169.254.169.254/latest", "a link-local address"),
        ("http://pat:canary@127.0.0.1/", "holds a user name"),
        ("ftp://127.0.0.1/", "no HTTP address"),
        ("http://", "no address at all"),
    ],
)
async def test_a_redirect_to_where_nobody_may_send_us_is_refused(place: str, problem: str) -> None:
    async with palette_server() as palette:
        palette.failures = [_leads_to(place)]

        with pytest.raises(Unsafe, match=problem) as caught:
            await _ask(palette.url)

        assert "canary" not in str(caught.value)


async def test_a_redirect_that_leaves_tls_is_refused(authority: Authority) -> None:
    async with palette_server(tls=authority.server()) as palette, palette_server() as plain:
        palette.failures = [_leads_to(f"{plain.url}{_PROJECTS}")]

        with pytest.raises(Unsafe, match="from an encrypted connection"):
            await _ask(palette.url, default=HostSettings(ca_cert=authority.certificate))

        assert plain.requests == []


async def test_a_name_that_resolves_to_a_nearer_address_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public console must not make us speak to a private network, whatever a name says at first."""
    addresses = {"console.example.com": "127.0.0.1", "cdn.example.com": "127.0.0.2"}

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[Any]:
        address = addresses[host]
        return [{"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    scopes = {"127.0.0.1": Scope.PUBLIC, "127.0.0.2": Scope.PRIVATE}
    monkeypatch.setattr(Scope, "of", lambda address: scopes[str(address)])
    async with palette_server() as palette, palette_server(host="127.0.0.2") as private:
        console = URL(f"http://console.example.com:{palette.url.port}")
        palette.failures = [_leads_to(f"http://cdn.example.com:{private.url.port}{_PROJECTS}")]
        with pytest.raises(Unsafe, match="a network that it must not send us to"):
            await _ask(console)
        assert private.requests == []

        there = URL(f"http://cdn.example.com:{private.url.port}")
        private.failures = [_leads_to(f"{console}{_PROJECTS}")]
        with pytest.raises(Denied):  # it is asked, without the key
            await _ask(there)
        assert "ApiKey" not in palette.headers[-1]


async def test_a_console_in_trouble_is_asked_again_and_then_given_up() -> None:
    async with palette_server() as palette, _api(palette.url) as api:
        palette.failures = [error(503, "", ""), error(504, "", "")]
        assert await api.projects() == _FOUND

        palette.failures = [error(503, "Busy", f"too busy for {KEY}") for _ in range(4)]
        with pytest.raises(RegistryError, match="503 too busy for …"):
            await api.projects()
        with pytest.raises(RegistryError, match="503"):
            await api.projects()

        assert len(palette.requests) == 3 + 3 + 1  # a console that is down gets one attempt
        assert await api.projects() == _FOUND


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_console_that_asks_for_a_pause_gets_it_if_it_is_short(status: int) -> None:
    async with palette_server() as palette:
        palette.failures = [error(status, "", "", **{"Retry-After": "1"})]
        began = anyio.current_time()
        assert await _ask(palette.url) == _FOUND
        assert anyio.current_time() - began >= 1

        palette.failures = [error(status, "", "", **{"Retry-After": "300"})]
        with pytest.raises(Waiting, match="300 s, longer than the 120 s"):
            await _ask(palette.url)


async def test_a_quota_that_is_used_up_is_waited_for() -> None:
    async with palette_server() as palette, _api(palette.url) as api:
        palette.failures = [error(404, "", "", **{"RateLimit-Remaining": "0", "RateLimit-Reset": "300"})]
        with pytest.raises(NotFound):
            await api.projects()
        with pytest.raises(Waiting):
            await api.projects()

        assert len(palette.requests) == 1


@asynccontextmanager
async def _says(*answers: bytes | None) -> AsyncIterator[tuple[URL, list[bytes]]]:
    """A server that answers each connection with the next of those bytes, nothing for None, and closes it."""
    heard: list[bytes] = []
    left = list(answers)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            heard.append(await stream.receive())
            answer = left.pop(0) if len(left) > 1 else left[0]
            if answer is None:
                await anyio.sleep_forever()
            else:
                await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield URL(f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"), heard
        tasks.cancel_scope.cancel()


_EMPTY = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"items":[]}'
_CUT = b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"items":'


@pytest.mark.parametrize(
    ("answer", "kind", "problem", "times"),
    [
        (b"", Interrupted, "the connection broke", 6),  # aiohttp itself asks once more, each time
        (_CUT, Interrupted, "the answer was cut off", 3),
        (b"SSH-2.0-OpenSSH\r\n", Interrupted, "the answer is not HTTP", 3),
        (None, Unanswered, "no answer came in time", 3),
    ],
)
async def test_an_answer_that_breaks_off_is_asked_for_again(
    answer: bytes | None, kind: type[NetworkError], problem: str, times: int
) -> None:
    async with _says(answer, answer, _EMPTY) as (url, heard):
        assert await _ask(url) == []
        assert len(heard) == 3
    async with _says(answer) as (url, heard):
        with pytest.raises(kind, match=f"GET {url}{_PROJECTS}: {problem}"):
            await _ask(url)
        assert len(heard) == times


async def test_an_answer_that_is_too_long_for_one_is_none() -> None:
    body = b'{"items":[]}' + b" " * MAX_ANSWER
    async with _says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as (url, _):
        with pytest.raises(RegistryError, match="no JSON object"):
            await _ask(url)


async def test_a_console_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port} refused the connection"):
            await _ask(URL(f"http://127.0.0.1:{port}"))
    with pytest.raises(NameUnknown, match=r"console\.invalid cannot be found"):
        await _ask(URL("https://console.invalid"))


async def test_a_certificate_must_be_trusted(authority: Authority) -> None:
    async with palette_server(tls=authority.server()) as palette:
        with pytest.raises(CertificateRefused, match="cannot be trusted") as caught:
            await _ask(palette.url)
        assert "--ca-cert" in str(caught.value.hint)
        assert await _ask(palette.url, default=HostSettings(ca_cert=authority.certificate)) == _FOUND
        assert await _ask(palette.url, default=HostSettings(insecure=True)) == _FOUND
    async with palette_server() as palette:
        with pytest.raises(CertificateRefused, match="does not speak TLS"):
            await _ask(palette.url.with_scheme("https"))


async def test_a_project_that_breaks_out_of_its_header_is_not_sent() -> None:
    async with palette_server() as palette, _api(palette.url, project="a\r\nX-Injected: b") as api:
        with pytest.raises(Unsafe, match="breaks out of its header"):
            await api.projects()

        assert palette.requests == []


@asynccontextmanager
async def _behind(
    authority: Authority, *, console_tls: bool, proxy_tls: bool = False
) -> AsyncIterator[tuple[Palette, ForwardProxy, URL]]:
    """A console that only a proxy with a login can reach."""
    async with palette_server(tls=authority.server("console.test") if console_tls else None) as palette:
        port = palette.url.port
        names = {f"console.test:{port}": f"127.0.0.1:{port}"}
        async with forward_proxy(names, login=_LOGIN, tls=authority.server() if proxy_tls else None) as proxy:
            yield palette, proxy, URL(f"{palette.url.scheme}://console.test:{port}")


@pytest.mark.parametrize("proxy_tls", [False, True])
@pytest.mark.parametrize("console_tls", [False, True])
async def test_a_console_is_reached_by_way_of_a_proxy(console_tls: bool, proxy_tls: bool, authority: Authority) -> None:
    trusting = HostSettings(ca_cert=authority.certificate)
    async with _behind(authority, console_tls=console_tls, proxy_tls=proxy_tls) as (palette, proxy, url):
        assert await _ask(url, default=trusting, proxies=Proxies(http=proxy.url, https=proxy.url)) == _FOUND

        (asked,) = proxy.asked
        assert asked.target == (f"console.test:{url.port}" if console_tls else f"{url}{_PROJECTS}")
        assert ("apikey" in asked.headers) is not console_tls
        assert "Proxy-Authorization" not in palette.headers[0]


@pytest.mark.parametrize("console_tls", [False, True])
async def test_a_proxy_that_refuses_is_named_without_its_login(console_tls: bool, authority: Authority) -> None:
    async with _behind(authority, console_tls=console_tls) as (palette, proxy, url):
        wrong = proxy.url_for(Login("pat", "s3cret"))
        with pytest.raises(ProxyRefused, match=f"the proxy {proxy.address} will not connect us to .*: 407") as caught:
            await _ask(url, proxies=Proxies(http=wrong, https=wrong))

        assert "s3cret" not in f"{caught.value} {caught.value.hint}"
        assert palette.requests == []
        assert len(proxy.asked) == 1


async def test_a_proxy_that_is_busy_is_asked_again(authority: Authority) -> None:
    async with _behind(authority, console_tls=True) as (_, proxy, url):
        proxy.on("CONNECT", "console", Reply(503))

        found = await _ask(url, default=HostSettings(ca_cert=authority.certificate), proxies=Proxies(https=proxy.url))

        assert found == _FOUND
        assert len(proxy.asked) == 2


async def test_a_proxy_that_is_not_there_is_named() -> None:
    with pytest.raises(NameUnknown, match=r"the proxy proxy\.invalid:3128 cannot be found"):
        await _ask(URL("https://console.test"), proxies=Proxies(https="http://pat:s3cret@proxy.invalid:3128"))
