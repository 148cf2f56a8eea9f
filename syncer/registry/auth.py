"""Proving who we are: what a server asks for, Basic and Bearer, and the hosts that a login may be shown to.

The rules for tokens are those of distribution's docs/spec/auth/token.md and oauth.md.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import anyio
import orjson
from msgspec import Struct, field
from yarl import URL

from syncer.errors import RegistryError, Unsafe
from syncer.oci.docker_hub import canonical_host
from syncer.registry.answers import refusal, with_parameters
from syncer.registry.credentials import Credential, Credentials, CredentialSettings
from syncer.transport import Answer, Authorizer, Budget, Challenged, Request, Transport
from syncer.transport.guard import Scope, authority, check_hop, origin, upgraded
from syncer.transport.message import resolved

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|$)")
_VALUE = re.compile(r'[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z:/-]+))')
_EQUALS = re.compile(r"[ \t]*=")
_GAP = re.compile(r"[ \t,]*")
_JUNK = re.compile(r'(?:"(?:[^"\\]|\\.)*(?:"|\\?$)|[^,"])*')
_LONGEST = 64 * 1024

_SHARED = (
    "amazonaws.com",
    "amazonaws.com.cn",
    "on.aws",
    "aws.dev",
    "cloudfront.net",
    "elasticbeanstalk.com",
    "azurecr.io",
    "azurecr.cn",
    "azurecr.us",
    "azurewebsites.net",
    "azurestaticapps.net",
    "azure-api.net",
    "azureedge.net",
    "azurefd.net",
    "cloudapp.net",
    "cloudapp.azure.com",
    "windows.net",
    "trafficmanager.net",
    "pkg.dev",
    "gcr.io",
    "run.app",
    "appspot.com",
    "web.app",
    "firebaseapp.com",
    "cloudfunctions.net",
    "googleapis.com",
    "github.io",
    "githubusercontent.com",
    "gitlab.io",
    "bitbucket.io",
    "jfrog.io",
    "cloudsmith.io",
    "sonatype.app",
    "aliyuncs.com",
    "myhuaweicloud.com",
    "myqcloud.com",
    "tencentcloudcr.com",
    "volces.com",
    "scw.cloud",
    "ovh.net",
    "oraclecloud.com",
    "ocir.io",
    "digitaloceanspaces.com",
    "ondigitalocean.app",
    "herokuapp.com",
    "netlify.app",
    "vercel.app",
    "pages.dev",
    "workers.dev",
    "r2.dev",
    "fly.dev",
    "onrender.com",
    "railway.app",
    "ngrok.io",
    "ngrok.app",
    "ngrok.dev",
    "ngrok-free.app",
    "trycloudflare.com",
    "duckdns.org",
    "nip.io",
    "sslip.io",
    "local.gd",
    "lhr.life",
    "loca.lt",
    "dyndns.org",
    "no-ip.org",
    "ddns.net",
)
"""Domains under which strangers have their hosts, as far as registries or those who would pose as one use them."""
_SECOND_LEVEL = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gov", "gouv", "mil", "ne", "net", "nom", "or", "org"}
)
_KNOWN = frozenset({("registry.redhat.io", "sso.redhat.com")})  # pairs of one owner that their names do not show


class Challenge(Struct, frozen=True):
    """One way to authenticate that a server offers; scheme and parameter names are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    token68: str | None = None


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Every challenge in the headers' values, in order.  What cannot be read is passed over.

    >>> [found.scheme for found in parse_challenges(['Negotiate, Basic realm="a, b"'])]
    ['negotiate', 'basic']
    """
    return tuple(found for header in headers for found in _challenges(header[:_LONGEST]))


def _challenges(header: str) -> Iterator[Challenge]:
    scheme: str | None = None
    parameters: dict[str, str] = {}
    position = _end(_GAP, header, 0)
    while position < len(header):
        name = _TOKEN.match(header, position)
        if name is None:
            position = max(_end(_JUNK, header, position), position + 1)
        elif value := _VALUE.match(header, name.end()):
            quoted, plain = value.groups()
            parameters.setdefault(name[0].lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            position = value.end()
        elif _EQUALS.match(header, name.end()):  # a value that cannot be read
            position = _end(_JUNK, header, name.end())
        else:
            if scheme is not None:
                yield Challenge(scheme, MappingProxyType(parameters))
            scheme, parameters = name[0].lower(), {}
            position = name.end()
            if token68 := _TOKEN68.match(header, position):
                yield Challenge(scheme, token68=token68[1])
                scheme, position = None, token68.end()
        position = _end(_GAP, header, position)
    if scheme is not None:
        yield Challenge(scheme, MappingProxyType(parameters))


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def is_related(host: str, other: str) -> bool:
    """Tell whether two hosts are the same, or lie under one domain that somebody can own.

    >>> is_related("registry-1.docker.io", "auth.docker.io"), is_related("mine.azurecr.io", "yours.azurecr.io")
    (True, False)
    """
    host, other = host.lower().rstrip("."), other.lower().rstrip(".")
    if host == other or (host, other) in _KNOWN:
        return True
    domain = _owned_domain(host)
    return domain is not None and domain == _owned_domain(other)


def _owned_domain(host: str) -> str | None:
    """The shortest domain above ``host`` that has one owner; None for an address, a single name, a shared domain."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return None
    if f".{host}".endswith(tuple(f".{shared}" for shared in _SHARED)):
        return None
    labels = host.split(".")
    if len(labels) < 2:
        return None
    is_second_level = len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL  # example.co.uk is owned, co.uk is not
    return ".".join(labels[-3:]) if is_second_level else ".".join(labels[-2:])


_CLIENT_ID = "syncer"
_TOKEN_ATTEMPTS = 3
_TOKEN_PATIENCE = 30.0  # seconds
_LARGEST_ANSWER = 128 * 1024
_SHORTEST_LIFE = 60.0  # seconds; what the spec says where a server says nothing
_LONGEST_LIFE = 24 * 3600.0
_EARLY = 30.0  # seconds before its end at which a token is renewed, at most a tenth of its life


class Token(Struct, frozen=True):
    """A Bearer token and the monotonic time at which to get the next one."""

    header: str
    renew_at: float

    def __repr__(self) -> str:
        return f"Token(renew_at={self.renew_at})"


class Realm(Struct, frozen=True):
    """The place that a registry's tokens come from."""

    url: URL
    service: str | None
    reach: Scope | None


class RegistryAuth:
    """The authorization for one registry; all requests to it share it."""

    def __init__(
        self,
        transport: Transport,
        base: URL,
        host: str,
        credentials: Credentials,
        trusted_realms: frozenset[str] = frozenset(),
        *,
        is_foreign: bool = False,
    ) -> None:
        self.host = host
        self._transport = transport
        self._base = base
        self._credentials = credentials
        self._is_foreign = is_foreign  # no registry, or one that a server sent us to: it hears of no ping
        self._elsewhere: dict[object, RegistryAuth] = {}  # by origin
        self._trusted = frozenset(map(canonical_host, trusted_realms))
        self._realm: Realm | None = None
        self._is_basic = False
        self._tokens: dict[tuple[str, ...], Token] = {}
        self._learned: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._locks: dict[tuple[str, ...], anyio.Lock] = {}
        self._ping_lock = anyio.Lock()
        self._pinged: tuple[Challenge, ...] | None = None  # what the answer to a ping asks for

    @property
    def is_asked_for(self) -> bool:
        """True when the registry has asked for a login."""
        return self._is_basic or self._realm is not None

    @property
    def withholds_login(self) -> bool:
        """True when the registry wants its login sent to a host that is not trusted with it."""
        return self._realm is not None and not self._trusts(self._realm)

    def for_scopes(self, repository: str, *scopes: str) -> Authorizer:
        """Authorizes requests that need ``scopes``, with the login for ``repository``."""
        return _Scoped(self, repository, scopes)

    def elsewhere(self, url: URL) -> RegistryAuth:
        """The authorizer for another origin, which a redirect leads to; it shows no login."""
        place = origin(url)
        found = self._elsewhere.get(place)
        if found is None:
            base = url.origin() / "v2/"
            nobody = Credentials(CredentialSettings())
            found = RegistryAuth(self._transport, base, authority(url), nobody, is_foreign=True)
            self._elsewhere[place] = found
        return found

    async def hint(self, repository: str) -> str:
        """The hint for a user whom this registry does not let in."""
        if note := self._credentials.notes.get(self.host):
            return note
        if await self._credentials.find(self.host, repository) is None:
            return f"log in: syncer registry-login --registry {self.host} --username NAME"
        if self._realm and not self._trusts(self._realm):
            name = authority(self._realm.url)
            return f"the login was not shown to {name}, which {self.host} names for tokens: allow it with --allow-realm"
        return f"check the login for {self.host} and what it may do"

    async def authorization(self, repository: str, scopes: tuple[str, ...]) -> str | None:
        if self._realm:
            return (await self._token(repository, scopes)).header
        if self._is_basic and (credential := await self._credentials.find(self.host, repository)):
            return credential.basic
        return None

    async def challenged(self, repository: str, scopes: tuple[str, ...], answer: Challenged) -> bool:
        """Take in what a 401 says; whether there is something better to send now than what was sent."""
        found = parse_challenges(answer.challenges)
        if not found and not self._is_foreign:
            found = await self._ping()  # some registries say only there how to authenticate
        bearer = next((one for one in found if one.scheme == "bearer" and one.parameters.get("realm")), None)
        if bearer is not None:
            return await self._take_bearer(repository, scopes, bearer, answer)
        credential = await self._credentials.find(self.host, repository)
        if credential and (not found or any(one.scheme == "basic" for one in found)):
            self._is_basic = True
            return credential.basic != answer.sent
        return False

    async def _ping(self) -> tuple[Challenge, ...]:
        """What the registry's base asks for, which is looked at once; all who come meanwhile wait for that."""
        async with self._ping_lock:
            if self._pinged is None:
                answer = await self._transport.ask(Request(method="GET", url=self._base))
                self._pinged = parse_challenges(answer.headers.getall("WWW-Authenticate", ()))
            return self._pinged

    async def _take_bearer(
        self, repository: str, scopes: tuple[str, ...], challenge: Challenge, answer: Challenged
    ) -> bool:
        realm = self._checked_realm(challenge, answer)
        if self._realm and origin(self._realm.url) != origin(realm.url):
            raise Unsafe(
                f"{self.host} first named {authority(self._realm.url)} for tokens, and now {authority(realm.url)}"
            )
        self._realm = realm
        changed = self._learn(scopes, challenge)
        token = self._tokens.get(scopes)
        if token and token.header == answer.sent:
            if not changed and not answer.is_first:
                return False
            del self._tokens[scopes]
        return (await self._token(repository, scopes)).header != answer.sent

    def _checked_realm(self, challenge: Challenge, answer: Challenged) -> Realm:
        """Where to get tokens; raises ``Unsafe`` for a place that the registry must not send us to."""
        try:
            url = upgraded(answer.url, resolved(answer.url, challenge.parameters["realm"]))
        except ValueError:
            raise Unsafe(f"{self.host} names no address for tokens") from None
        service = challenge.parameters.get("service")
        if origin(url) == origin(answer.url):
            return Realm(url, service, answer.scope if self._is_foreign else None)
        check_hop(answer.url, url, answer.scope, "the place for tokens")
        if url.scheme == "http" and url.host != answer.url.host and canonical_host(authority(url)) not in self._trusted:
            raise Unsafe(
                f"{self.host} names {authority(url)} for tokens, and to send it anything without TLS is not safe",
                hint="if it is right, allow it with --allow-realm",
            )
        return Realm(url, service, answer.scope)

    def _learn(self, scopes: tuple[str, ...], challenge: Challenge) -> bool:
        """Note the scopes that the registry itself asks for where they are not the ones that we would ask for.

        A registry behind a path has other names than we know; one that lacks a scope says so.
        """
        asked = tuple(challenge.parameters.get("scope", "").split())
        names = {scope.rpartition(":")[0] for scope in scopes}
        is_lacking = challenge.parameters.get("error") == "insufficient_scope"
        if not asked or ({scope.rpartition(":")[0] for scope in asked} <= names and not is_lacking):
            return False
        known = self._learned.get(scopes, scopes)
        wanted = tuple(dict.fromkeys((*known, *asked))) if is_lacking else asked
        if wanted == known or set(wanted) == set(known):
            return False
        self._learned[scopes] = wanted
        return True

    async def _token(self, repository: str, scopes: tuple[str, ...]) -> Token:
        """A good token for ``scopes``; whoever comes while it is being fetched waits for that one."""
        token = self._tokens.get(scopes)
        if token and time.monotonic() < token.renew_at:
            return token
        async with self._locks.setdefault(scopes, anyio.Lock()):
            token = self._tokens.get(scopes)
            if token is None or time.monotonic() >= token.renew_at:
                token = self._tokens[scopes] = await self._fetch(repository, self._learned.get(scopes, scopes))
            return token

    async def _fetch(self, repository: str, scopes: tuple[str, ...]) -> Token:
        realm = self._realm
        assert realm is not None
        credential = await self._credentials.find(self.host, repository) if self._trusts(realm) else None
        if credential and credential.registry_token:
            return Token(f"Bearer {credential.registry_token}", time.monotonic() + _LONGEST_LIFE)
        answer = await self._ask(realm, credential, scopes)
        if answer.status != 200:
            raise refusal(answer, hint=await self.hint(repository))
        return _parsed(answer)

    async def _ask(self, realm: Realm, credential: Credential | None, scopes: tuple[str, ...]) -> Answer:
        """The token server's answer: by POST with an identity token where it knows that, else by GET."""
        budget = Budget(self._transport.limits, _TOKEN_ATTEMPTS)
        if credential and credential.identity_token:
            answer = await self._transport.ask(
                _exchange(realm, credential, scopes), limit=_LARGEST_ANSWER, budget=budget
            )
            if answer.status not in (404, 405):
                return answer
        query: list[tuple[str, str]] = [("scope", scope) for scope in scopes]
        if realm.service:
            query.insert(0, ("service", realm.service))
        if credential and credential.username:
            query.append(("account", credential.username))
        request = Request(
            method="GET",
            url=with_parameters(realm.url, *query),
            headers={"Authorization": credential.basic} if credential else {},
            reach=realm.reach,
            patience=_TOKEN_PATIENCE,
        )
        return await self._transport.ask(request, limit=_LARGEST_ANSWER, budget=budget)

    def _trusts(self, realm: Realm) -> bool:
        """Whether the login for the registry may be shown to ``realm`` (CVE-2026-48978 is what that is about)."""
        host = realm.url.host or ""
        if not self._trusted.isdisjoint(map(canonical_host, (host, authority(realm.url)))):
            return True
        return is_related(self._base.host or "", host)


class _Scoped(Struct, frozen=True):
    """The authorizer of requests that need certain scopes."""

    auth: RegistryAuth
    repository: str
    scopes: tuple[str, ...]

    async def authorization(self) -> str | None:
        return await self.auth.authorization(self.repository, self.scopes)

    async def challenged(self, answer: Challenged) -> bool:
        return await self.auth.challenged(self.repository, self.scopes, answer)

    def elsewhere(self, url: URL) -> Authorizer:
        return self.auth.elsewhere(url).for_scopes(self.repository, *self.scopes)


def _exchange(realm: Realm, credential: Credential, scopes: tuple[str, ...]) -> Request:
    """The request that turns an identity token into an access token (OAuth 2, RFC 6749 §6)."""
    form = {
        "grant_type": "refresh_token",
        "refresh_token": credential.identity_token,
        "client_id": _CLIENT_ID,
        "scope": " ".join(scopes),
    }
    if realm.service:
        form["service"] = realm.service
    return Request(
        method="POST",
        url=realm.url,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=urlencode(form).encode(),
        reach=realm.reach,
        patience=_TOKEN_PATIENCE,
    )


def _parsed(answer: Answer) -> Token:
    """The token in an answer.  Its ``issued_at`` is not looked at: only our own monotonic clock is."""
    try:
        document: Any = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        document = None
    text = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else None
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise RegistryError(answer.request, answer.status, ["what came is no token"])
    seconds = document.get("expires_in")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    life = min(max(float(seconds) if is_number else 0.0, _SHORTEST_LIFE), _LONGEST_LIFE)
    return Token(f"Bearer {text}", time.monotonic() + life - min(life / 10, _EARLY))
