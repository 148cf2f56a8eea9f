"""Palette's HTTP API, one call at a time: who asks, how often, and what an error says.

Facts are from the API's specification (palette-sdk-go, api/spec/palette.json) and the documentation's
"API Introduction".
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import anyio
import orjson
from yarl import URL

from syncer.errors import Denied, NotFound, RegistryError, UsageError
from syncer.transport import Answer, Request, Transport
from syncer.transport.redact import readable

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes.  A profile with all its values is below 2 MiB."""

_MAX_PAGES = 1000
_NO_QUERY: Mapping[str, str] = MappingProxyType({})
_FAST = ("clusterprofiles", "spectroclusters")
_BURST_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PaletteAccount:
    """Whose API is asked, with which key, and within which project (none: the whole tenant)."""

    url: URL
    api_key: str = field(repr=False)
    project_uid: str = ""

    def __post_init__(self) -> None:
        if not self.api_key or not self.api_key.isascii() or not self.api_key.isprintable() or " " in self.api_key:
            raise UsageError("the API key must be one word of ASCII characters")


def console_url(text: str) -> URL:
    """The address in ``text``, such as ``https://console.spectrocloud.com`` or ``api.spectrocloud.com``.

    Raises ``UsageError``.  A path that ends in ``/v1`` is the API's own, and left away.
    """
    spelt = text.strip() if "://" in text else f"https://{text.strip()}"
    try:
        url = URL(spelt)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(
            f"{text[:160]!r} is not the URL of a console", hint="write it like https://console.example.com"
        )
    if url.user or url.password:
        raise UsageError("the console's URL must not hold a user name or password")
    return url.with_query(None).with_fragment(None).with_path(url.path.rstrip("/").removesuffix("/v1"))


class Pace:
    """The documented limit of one parent resource: so many calls a second, five times as many at once.

    ``take`` decides and does not wait, so that the arithmetic is plain.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = per_second * _BURST_SECONDS
        self._left = self._burst
        self._seen: float | None = None

    def take(self, now: float) -> float:
        """Seconds to wait before the call that is made now; ``now`` is on any clock that only goes forward."""
        if self._seen is not None:
            self._left = min(self._burst, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        self._left -= 1
        return max(0.0, -self._left / self._per_second)


class PaletteCalls:
    """Calls with the account's key, at the pace that Palette allows."""

    def __init__(self, transport: Transport, account: PaletteAccount) -> None:
        self._transport = transport
        self.account = account
        self._paces: dict[str, Pace] = {}

    async def get(self, path: str, query: Mapping[str, str] = _NO_QUERY) -> dict[str, Any]:
        """The JSON object that ``/v1/{path}`` answers.

        Raises ``Denied``, ``NotFound`` or another ``RegistryError``, none of which ever holds the key.
        """
        answer = await self._ask(self.request("GET", path, query))
        try:
            document = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict) or not answer.is_whole:
            hint = f"is {self.account.url} the address of a Palette console or API?"
            raise RegistryError(answer.request, answer.status, [_what_it_is(answer)], hint=hint)
        return document

    async def pages(self, path: str, query: Mapping[str, str] = _NO_QUERY) -> AsyncIterator[dict[str, Any]]:
        """The ``items`` of all pages of a list."""
        token, seen = "", set[str]()
        while True:
            page = await self.get(path, {**query, "continue": token} if token else query)
            for item in page.get("items") or ():
                if isinstance(item, dict):
                    yield item
            listed = page.get("listmeta")
            token = str(listed.get("continue") or "") if isinstance(listed, dict) else ""
            if not token or token in seen or len(seen) >= _MAX_PAGES:
                return
            seen.add(token)

    def request(self, method: str, path: str, query: Mapping[str, str] = _NO_QUERY, body: Any = None) -> Request:
        """A request to ``/v1/{path}``; all that are made here only read, so all may be repeated."""
        headers = {"ApiKey": self.account.api_key, "Accept": "application/json"}
        if self.account.project_uid:
            headers["ProjectUid"] = self.account.project_uid
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = self.account.url.joinpath("v1", *path.split("/")).with_query(dict(query))
        return Request(method=method, url=url, headers=headers, body=None if body is None else orjson.dumps(body))

    async def wait_for_turn(self, request: Request) -> None:
        """Return when the limit of the request's parent resource allows it."""
        resource = request.url.path.partition("/v1/")[2].partition("/")[0]
        pace = self._paces.setdefault(resource, Pace(50 if resource in _FAST else 10))
        if seconds := pace.take(time.monotonic()):
            await anyio.sleep(seconds)

    def refusal(self, answer: Answer) -> RegistryError:
        """What an answer of an error status means, in the server's words, the key cut out of them."""
        code, message = _problem(answer)
        words = [readable(message).replace(self.account.api_key, "…")] if message else [_what_it_is(answer)]
        codes = [code] if code else []
        match answer.status:
            case 401:
                hint = "check the API key, and log in again with syncer login"
                return Denied(answer.request, answer.status, words, codes=codes, hint=hint)
            case 403:
                hint = "the key's user lacks access: check --project-id, and the user's roles in that project"
                return Denied(answer.request, answer.status, words, codes=codes, hint=hint)
            case 404:
                hint = "check the id, and that --project-id is the project it belongs to"
                return NotFound(answer.request, answer.status, words, codes=codes, hint=hint)
            case _:
                return RegistryError(answer.request, answer.status, words, codes=codes)

    async def _ask(self, request: Request) -> Answer:
        await self.wait_for_turn(request)
        answer = await self._transport.ask(request, limit=MAX_ANSWER)
        if answer.status >= 300:
            raise self.refusal(answer)
        return answer


def _problem(answer: Answer) -> tuple[str, str]:
    """Code and message of the API's error document; nothing for any other body (a proxy's page, say)."""
    try:
        document = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(document, dict):
        return "", ""
    code, message = document.get("code"), document.get("message")
    return code if isinstance(code, str) else "", message if isinstance(message, str) else ""


def _what_it_is(answer: Answer) -> str:
    start = answer.content[:512].lstrip().lower()
    kind = "a web page" if answer.media_type == "text/html" or start.startswith(b"<") else "no JSON object"
    return f"the answer is {kind}, not one of Palette's API"
