"""The examination of a registry: what it is, what it can do, and what syncer does about it."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import anyio
from anyio.streams.tls import TLSAttribute
from msgspec import Struct, structs

from syncer.errors import Denied, Exit, Interrupted, NetworkError, SyncerError, TargetError
from syncer.naming import REPOSITORY
from syncer.oci import Descriptor, Digest, Index
from syncer.oci.manifest import AnyManifest
from syncer.registry import Registries, RegistryAddress, RegistrySettings, check_login, open_registries, repositories
from syncer.registry.answers import hint_for, is_web_page, refusal, uploaded, with_parameters
from syncer.registry.auth import parse_challenges
from syncer.registry.registries import is_loopback
from syncer.registry.repository import Repository, is_success
from syncer.registry.upload_session import Session, opened
from syncer.transport import Answer, Budget, Request
from syncer.transport.client import TRANSIENT
from syncer.transport.failures import Unanswered, no_connection
from syncer.transport.guard import authority, readable, scope_of
from syncer.transport.settings import tls_context, with_certificates

_MOST_REPOSITORIES = 5  # that are looked into for an image
_SOON = 14 * 24 * 3600  # seconds before its end at which a certificate is worth a word
_PATIENCE = 5.0  # seconds for a connection, and for the first answer, which has little in it
_CHUNK = 64 * 1024
_OCTETS = "application/octet-stream"
_LARGEST_CHUNK = 16 * 1024 * 1024
_OF_REGISTRIES = (200, 401, 403)
_ADDRESS = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w.])")
_VERSION = "Docker-Distribution-Api-Version"


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    ODD = "odd"  # it is otherwise than it might be, and syncer works with it
    FAILED = "failed"
    NOT_TRIED = "not tried"


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at: what was found, and what syncer does about it."""

    name: str = ""
    state: State
    found: str
    does: str | None = None
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        return structs.asdict(self) | {"state": self.state.value}

    def rewritten(self, write: Callable[[str], str]) -> Check:
        """The same with each text as ``write`` makes it."""
        texts = {name: text and write(text) for name in ("found", "does", "hint") if (text := getattr(self, name))}
        return structs.replace(self, **texts)


def ok(found: str, does: str | None = None) -> Check:
    """A check that went as it should."""
    return Check(state=State.OK, found=found, does=does)


def odd(found: str, does: str | None = None, hint: str | None = None) -> Check:
    """A check of something that is otherwise than it might be."""
    return Check(state=State.ODD, found=found, does=does, hint=hint)


def untried(found: str, hint: str | None = None) -> Check:
    """A check that was not made."""
    return Check(state=State.NOT_TRIED, found=found, hint=hint)


_NO_IMAGE = untried("no repository with an image is known here", "name one: syncer doctor HOST/REPOSITORY")


class Diagnosis(Struct, frozen=True, kw_only=True):
    """The checks of one registry, in their order, and the exit code: 0 when syncer can work with it."""

    registry: str
    checks: tuple[Check, ...]
    exit: Exit = Exit.OK

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "doctor",
            "registry": self.registry,
            "exit": int(self.exit),
            "checks": [check.to_json() for check in self.checks],
        }


async def diagnose(
    address: RegistryAddress,
    *,
    settings: RegistrySettings | None = None,
    uploads: bool = False,
    shows_names: bool = False,
) -> Diagnosis:
    """Examine the registry at ``address``; what is wrong with it is a check of the result, and no error.

    An image at its base path, or any other that the registry lists, is looked at for what it can do.  With ``uploads``
    a blob is sent into a scratch repository below the base path, and removed where the registry lets it.  Unless it
    ``shows_names``, the result has no names of hosts, repositories and users, and no addresses.
    """
    settings = settings or RegistrySettings()
    limits = settings.transport.limits
    limits = structs.replace(limits, attempts=2, outage=0.0, max_wait=10.0, connect=min(limits.connect, _PATIENCE))
    settings = structs.replace(settings, transport=structs.replace(settings.transport, limits=limits))
    async with open_registries(settings) as registries:
        examination = _Examination(registries, address, settings)
        checks = [check async for check in examination.carry_out(uploads=uploads)]
    write = str if shows_names else examination.without_names
    return Diagnosis(
        registry=write(str(address)),
        checks=tuple(check.rewritten(write) for check in checks),
        exit=examination.exit,
    )


class _Examination:
    """The checks of one registry, each of which knows what those before it found."""

    def __init__(self, registries: Registries, address: RegistryAddress, settings: RegistrySettings) -> None:
        self.exit = Exit.OK
        self._registries = registries
        self._transport = registries.transport
        self._address = address
        self._settings = settings.transport
        self._registry = registries.registry(address.host, plain_http=address.plain_http)
        self._url = self._registry.base
        self._host = authority(self._url)
        self._proxy = settings.transport.proxies.for_url(self._url)
        self._names = {address.base: "BASE"} if address.base else {}
        self._names |= dict.fromkeys((address.host, self._host, self._url.host or ""), "REGISTRY")
        if self._proxy:
            self._names[authority(self._proxy)] = "PROXY"
        self._found: Sequence[str] = ()  # addresses
        self._answer: Answer | None = None  # to a ping
        self._failure: Interrupted | None = None  # of that
        self._seconds = 0.0  # that it took
        self._image: tuple[Repository, AnyManifest] | None = None
        self._blob: Descriptor | None = None  # that was sent
        self._scratch: list[Repository] = []  # repositories that have it

    async def carry_out(self, *, uploads: bool) -> AsyncIterator[Check]:
        """Yield the result of each check; after one that all others need, the others are not tried."""
        needed = {
            "name": self._look_up,
            "connection": self._connect,
            "TLS": self._encrypt,
            "API": self._recognize,
            "login": self._log_in,
        }
        wanted = {"referrers": self._list_referrers, "ranges": self._read_range}
        writing = {"chunked upload": self._upload, "mount": self._mount}
        for name, step in (needed | wanted | writing).items():
            if self.exit:
                check = untried("a check before it failed")
            elif name in writing and not uploads:
                check = untried("it writes to the registry", "--upload tries it")
            else:
                check = await self._checked(step, is_needed=name not in wanted)
            yield structs.replace(check, name=name)
        if self._scratch:
            yield structs.replace(await self._clean_up(), name="clean-up")

    async def _checked(self, step: Callable[[], Awaitable[Check]], *, is_needed: bool) -> Check:
        try:
            return await step()
        except SyncerError as error:
            if is_needed:
                self.exit = error.exit
            return Check(state=State.FAILED if is_needed else State.ODD, found=str(error), hint=error.hint)

    def without_names(self, text: str) -> str:
        """``text`` without the names and the addresses of what was met."""
        for name in sorted(self._names, key=len, reverse=True):
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", self._names[name], text)
        return _ADDRESS.sub("ADDRESS", text)

    async def _look_up(self) -> Check:
        if self._proxy:
            return untried(f"the proxy {authority(self._proxy)} looks it up")
        host = self._url.raw_host or ""
        try:
            found = await anyio.getaddrinfo(host, self._url.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise no_connection(error, self._host) from None
        self._found = list(dict.fromkeys(str(address[4][0]) for address in found))
        self._names |= {address: "ADDRESS" for address in self._found if address not in self._names}
        kinds = ", ".join(f"{address} ({scope_of(address).name.lower()})" for address in self._found)
        return ok(f"it is an address ({scope_of(host).name.lower()})" if host in self._found else f"it has {kinds}")

    async def _connect(self) -> Check:
        if self._proxy:
            return untried(f"it goes through the proxy {authority(self._proxy)}", "NO_PROXY names hosts without it")
        failures: list[NetworkError] = []
        began = time.monotonic()
        for address in self._found:
            try:
                with anyio.fail_after(self._settings.limits.connect):
                    await (await anyio.connect_tcp(address, self._url.port or 0)).aclose()
            except OSError as error:
                cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
                failures.append(no_connection(cause, self._host))
        if failures and len(failures) == len(self._found):
            raise failures[0]
        if failures:
            told = f"{len(failures)} of {len(self._found)} addresses do not work: {failures[0]}"
            return odd(told, "it connects to the address that answers first")
        return ok(f"it took {(time.monotonic() - began) / len(self._found) * 1000:.0f} ms")

    async def _encrypt(self) -> Check:
        began = time.monotonic()
        try:
            self._answer = await self._ask(Request(method="GET", url=self._url, patience=self._settings.limits.connect))
        except Interrupted as error:  # it may speak TLS all the same
            self._failure = error
        self._seconds = time.monotonic() - began
        if self._url.scheme == "http":
            told = "it is spoken to by plain HTTP"
            if is_loopback(self._address.host):
                return ok(told)
            return odd(told, "it goes on: whatever is sent there can be read on the way, a login too")
        if self._proxy:
            return ok("it speaks TLS beyond the proxy")
        version, ends = await self._handshake()
        if ends is None:
            return odd(f"{version}; its certificate is not verified (--insecure)")
        left = ends - time.time()
        return (ok if left > _SOON else odd)(f"{version}; its certificate is good for {left / 86400:.0f} days more")

    async def _handshake(self) -> tuple[str, float | None]:
        """The version of TLS, and the time at which the certificate ends; None where it is not verified."""
        settings = with_certificates(self._settings.host(self._host), self._settings.certificates, self._host)
        try:
            with anyio.fail_after(self._settings.limits.connect):
                stream = await anyio.connect_tcp(
                    self._found[0],
                    self._url.port or 443,
                    tls=True,
                    ssl_context=tls_context(settings),
                    tls_standard_compatible=False,
                    tls_hostname=self._url.raw_host,
                )
        except OSError as error:
            raise no_connection(error, self._host) from None
        async with stream:
            told = stream.extra_attributes
            ends = (told[TLSAttribute.peer_certificate]() or {}).get("notAfter")
            return str(told[TLSAttribute.tls_version]()), ssl.cert_time_to_seconds(str(ends)) if ends else None

    async def _ask(self, request: Request) -> Answer:
        return await self._transport.ask(request, budget=Budget(self._transport.limits, attempts=1))

    async def _recognize(self) -> Check:
        answer = self._answer
        if isinstance(self._failure, Unanswered):
            seconds = self._settings.limits.connect
            raise _NoRegistry(f"{self._host} takes the connection, and says nothing for {seconds:.0f} s")
        if self._failure:
            raise self._failure
        assert answer is not None
        if answer.status in TRANSIENT:
            raise refusal(answer)
        if answer.status not in _OF_REGISTRIES or is_web_page(answer):
            kind = "a web page" if is_web_page(answer) else f"status {answer.status}"
            raise _NoRegistry(f"{self._host} is no registry: /v2/ is answered with {kind}")
        server = f"Server: {readable(answer.headers['Server'])}" if "Server" in answer.headers else ""
        told = (readable(answer.headers.get(_VERSION, "")), server, f"answered in {self._seconds * 1000:.0f} ms")
        words = ", ".join(filter(None, told))
        if _VERSION not in answer.headers and answer.media_type != "application/json":
            return odd(f"{words}; it does not say that it is a registry")
        return ok(words)

    async def _log_in(self) -> Check:
        assert self._answer is not None
        challenges = parse_challenges(self._answer.headers.getall("WWW-Authenticate", ()))
        ways = {each.scheme.capitalize(): _host_of(each.parameters.get("realm", "")) for each in challenges}
        self._names |= {host: "TOKEN-SERVER" for host in ways.values() if host and host not in self._names}
        wanted = " or ".join(f"{way} by {host}" if way == "Bearer" else way for way, host in ways.items())
        login = await self._registries.credential(self._address.host)
        if login and login.username:
            self._names[login.username] = "USER"
        try:
            is_checked = await check_login(self._registries, self._address)
        except Denied as error:
            if login:
                words = "; ".join(error.problems) or f"status {error.status}"
                raise _NotLetIn(f"the login is not accepted ({wanted}): {words}", hint=error.hint) from None
            hint = await self._registry.auth.hint(self._address.base)
            raise _NotLetIn(f"it wants a login ({wanted}), and none is known", hint=hint) from None
        if login:
            return ok(f"the login is accepted ({wanted})" if is_checked else "a login is known, and not asked for here")
        if wanted:
            return ok(f"no login is known, and everybody gets a token ({wanted})", "it asks as everybody")
        return ok("it asks nobody for a login")

    async def _list_referrers(self) -> Check:
        found = await self._find_image()
        if found is None:
            return _NO_IMAGE
        repository, manifest = found
        if await repository.listed_referrers(manifest.descriptor.digest) is None:
            return odd("it has no referrers API", "it reads and keeps the tags that stand for it (sha256-…)")
        return ok("it has the referrers API", "it asks that for signatures, attestations and SBOMs")

    async def _read_range(self) -> Check:
        found = await self._find_image()
        if found is None:
            return _NO_IMAGE
        repository, manifest = found
        while isinstance(manifest, Index) and manifest.manifests:
            manifest = await repository.manifest(str(manifest.manifests[0].digest))
        blob = max(manifest.children(), key=lambda blob: blob.size)
        request = Request(
            method="GET",
            url=repository.url(f"blobs/{blob.digest}"),
            headers={"Range": "bytes=1-1"},
            authorizer=repository.authorizer,
        )
        async with self._transport.open(request, budget=Budget(self._transport.limits, attempts=1)) as response:
            status = response.status
        if status == HTTPStatus.PARTIAL_CONTENT:
            return ok("it sends a part of a blob", "a download goes on where it broke off")
        told = "all of the blob" if status == HTTPStatus.OK else f"status {status}"
        return odd(
            f"a request for a part of a blob is answered with {told}",
            "a download that broke off begins anew, and a large blob comes by one connection",
        )

    async def _find_image(self) -> tuple[Repository, AnyManifest] | None:
        """An image: at the base path, a bundle's definition below it, or any that the registry lists."""
        if self._image is None:
            async for name in self._repositories():
                repository = self._registry.repository(name)
                with suppress(SyncerError):
                    if tags := await repository.some_tags():
                        self._names.setdefault(name, "REPOSITORY")
                        self._image = repository, await repository.manifest(tags[0])
                        break
        return self._image

    async def _repositories(self) -> AsyncIterator[str]:
        base = self._address.base
        for name in filter(None, (base, f"{base}/{REPOSITORY}".strip("/"))):
            yield name
        with suppress(SyncerError):
            listed = await repositories(self._registry)
            for name in sorted(listed, key=lambda name: not name.startswith(base))[:_MOST_REPOSITORIES]:
                yield name

    async def _upload(self) -> Check:
        repository = self._a_scratch("a")
        async with self._session(repository) as session:
            length = max(_CHUNK, min(session.least, _LARGEST_CHUNK))
            content = os.urandom(2 * length)
            blob = Descriptor(_OCTETS, Digest.of(content), len(content))
            tells = True
            for start in (0, length):
                answer = await self._send(session, "PATCH", content[start : start + length], start)
                if not is_success(answer):
                    return await self._upload_whole(repository, blob, content, answer.status)
                session.moved(answer)
                standing = await self._ask(structs.replace(session.at, repeatable=True))
                tells = tells and uploaded(standing.headers.get("Range")) == start + length
                session.moved(standing)
            await self._commit(session, blob)
        if tells:
            return ok("it takes a blob in chunks", "a push goes on at the chunk where it broke off")
        told = "it takes a blob in chunks, and does not tell how far it is"
        return odd(told, "a push that broke off sends that blob anew")

    async def _upload_whole(self, repository: Repository, blob: Descriptor, content: bytes, status: int) -> Check:
        async with self._session(repository) as session:
            await self._commit(session, blob, content)
        told = f"it takes no chunks (status {status}), and a blob in one request"
        return odd(told, "each blob goes in one request, and one that broke off begins anew")

    async def _mount(self) -> Check:
        blob, origin = self._blob, self._scratch[0]
        assert blob is not None
        repository = self._a_scratch("b")
        authorizer = self._registry.auth.for_scopes(repository.name, repository.scope, origin.scope)
        url = repository.url(f"blobs/uploads/?mount={blob.digest}&from={origin.name}")
        answer = await self._ask(Request(method="POST", url=url, authorizer=authorizer))
        if answer.status == HTTPStatus.CREATED:
            self._scratch.append(repository)
            return ok("a blob is mounted from another repository", "a blob that several repositories need is sent once")
        if answer.status == HTTPStatus.ACCEPTED:
            await self._cancel(opened(repository, answer))
        told = f"a blob is not mounted from another repository (status {answer.status})"
        return odd(told, "a blob that several repositories need is sent to each of them")

    async def _clean_up(self) -> Check:
        assert self._blob is not None
        left: list[str] = []
        for repository in self._scratch:
            url = repository.url(f"blobs/{self._blob.digest}")
            with suppress(SyncerError):
                answer = await self._ask(Request(method="DELETE", url=url, authorizer=repository.authorizer))
                if is_success(answer) or answer.status == HTTPStatus.NOT_FOUND:
                    continue
            left.append(repository.name)
        if not left:
            return ok("what was sent is removed")
        told = f"a blob of {self._blob.size:,} bytes stays in {' and '.join(left)}: the registry deletes none"
        return odd(told, hint="its garbage collection takes a blob that no image has")

    def _a_scratch(self, name: str) -> Repository:
        base = f"{self._address.base}/" if self._address.base else ""
        scratch = f"{base}syncer-doctor/{os.urandom(4).hex()}-{name}"
        self._names[scratch] = f"SCRATCH-{name.upper()}"
        return self._registry.repository(scratch, "pull,push,delete")

    @asynccontextmanager
    async def _session(self, repository: Repository) -> AsyncIterator[Session]:
        """An upload session, which is cancelled unless it ends in a blob; raises ``TargetError`` and ``Denied``."""
        url = repository.url("blobs/uploads/")
        answer = await self._ask(Request(method="POST", url=url, authorizer=repository.authorizer))
        if answer.status != HTTPStatus.ACCEPTED:
            raise await self._refused(repository, answer)
        session = opened(repository, answer)
        try:
            yield session
        finally:
            if self._blob is None:
                await self._cancel(session)

    async def _cancel(self, session: Session) -> None:
        with suppress(SyncerError):
            await self._ask(structs.replace(session.at, method="DELETE"))

    async def _send(self, session: Session, method: str, content: bytes, start: int) -> Answer:
        headers = {"Content-Type": _OCTETS, "Content-Range": f"{start}-{start + len(content) - 1}"}
        return await self._ask(structs.replace(session.at, method=method, headers=headers, body=content))

    async def _commit(self, session: Session, blob: Descriptor, content: bytes = b"") -> None:
        """End the session with the blob; raises ``TargetError`` and ``Denied``, also where it is not there then."""
        url = with_parameters(session.at.url, ("digest", str(blob.digest)))
        headers = {"Content-Type": _OCTETS}
        answer = await self._ask(structs.replace(session.at, method="PUT", url=url, headers=headers, body=content))
        if not is_success(answer):
            raise await self._refused(session.repository, answer)
        self._blob = blob
        self._scratch.append(session.repository)
        if not await session.repository.has_blob(blob):
            raise TargetError(f"{self._host} says that it took a blob, and does not have it")

    async def _refused(self, repository: Repository, answer: Answer) -> SyncerError:
        error = await repository.refusal(answer)
        if isinstance(error, Denied):
            return error
        return TargetError(str(error), hint=hint_for(self._host, repository.name, error) or error.hint)


class _NoRegistry(NetworkError):
    """Something else than a registry answers."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="is the address right? a registry may listen at another port or name")


class _NotLetIn(SyncerError):
    """The registry does not let us in."""

    exit = Exit.DENIED


def _host_of(realm: str) -> str:
    return re.sub(r"^https?://|/.*", "", realm) if realm.startswith("http") else ""


def lines_of(diagnosis: Diagnosis) -> Iterator[str]:
    """The lines for people: each check with what was found, and below it what syncer does and what may be done."""
    yield f"{'registry:':16}{diagnosis.registry}"
    for check in diagnosis.checks:
        yield f"{check.name + ':':16}{check.state:11}{check.found}"
        if check.does:
            yield f"{'':27}syncer: {check.does}"
        if check.hint:
            yield f"{'':27}hint: {check.hint}"
