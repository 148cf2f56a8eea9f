"""All registries of a run, and their addresses: a source for references of any host, and the maker of targets."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

import anyio
from msgspec import Struct, field, structs
from yarl import URL

from syncer.content import Blob, Referral, Referrals
from syncer.errors import Denied, InvalidReference, NameMissing, NotFound, UsageError, no_repository
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.docker_hub import DOCKER_HUB, api_host, canonical_host
from syncer.oci.manifest import AnyManifest
from syncer.oci.reference import nearest_tags, refuse_login, registry_place
from syncer.registry.answers import is_web_page, refusal
from syncer.registry.auth import RegistryAuth
from syncer.registry.credentials import Credential, Credentials, CredentialSettings
from syncer.registry.download import RegistryBlob
from syncer.registry.referrers import ReferrerSearch
from syncer.registry.repository import Registry, Repository
from syncer.registry.target import RegistryTarget
from syncer.registry.upload_session import CHUNK_SIZE, Manner, UploadJournal
from syncer.transport import Authorizer, Request, Traffic, Transport, TransportSettings, open_transport
from syncer.transport.guard import Scope, authority
from syncer.transport.message import Kind
from syncer.transport.settings import Ceiling, HostSettings

_USUAL = HostSettings()
_TLS_RECORDS = (b"\x15", b"\x16")  # an alert, a handshake (RFC 8446 §5.1)
_DIGEST = re.compile(r"sha[0-9]+:")
_TAG = re.compile(r"\w[\w.-]*", re.ASCII)
_SCHEME = re.compile(r"(https?)://", re.IGNORECASE)
_ANY_SCHEME = re.compile(r"([A-Za-z]+):/+(.+)")  # of other tools, or with a slash too few

_PACED_LANES = 8  # more would only wait for their turn


class RegistryAddress(Struct, frozen=True):
    """A registry as given on a command line: ``[http://|https://]HOST[:PORT][/BASE]``.

    >>> RegistryAddress.parse("http://10.0.0.1:8000/images")
    RegistryAddress(host='10.0.0.1:8000', base='images', plain_http=True)
    """

    host: str  # as references write it
    base: str = ""  # where in the registry; no slash at either end
    plain_http: bool | None = None  # None: the scheme was not given

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a user; raises ``UsageError``, which says what is wrong."""
        found = _SCHEME.match(text)
        rest = text[found.end() :] if found else text
        host = rest.partition("/")[0]
        refuse_login(rest)
        _refuse_tag(text, rest)
        if not host or "://" in rest or "@" in rest or host.lower() in ("http:", "https:"):
            hint = "write it like registry.example.com:5000/images"
            if found is None and (scheme := _ANY_SCHEME.match(text)):
                hint = f"write {scheme[2]}, with http:// or https:// before it, or nothing"
            raise UsageError(f"{text.rpartition('@')[2]!r} is not a registry", hint=hint)
        host, base = registry_place(text)
        plain_http = found[1].lower() == "http" if found else None
        try:
            parsed = Reference.parse(f"{host}/{base or 'images'}")
        except InvalidReference as error:
            raise UsageError(f"{text!r} is not a registry: {error.problem}") from None
        if parsed.registry != host or (parsed.tag, parsed.digest) != ("latest", None) or base.endswith(":latest"):
            raise UsageError(f"{text!r} is not a registry", hint="give its port too, or http:// or https:// before it")
        return cls(host, base, plain_http)

    @property
    def written(self) -> str:
        """The text that ``parse`` takes for it, with the scheme if there was one."""
        scheme = {True: "http://", False: "https://", None: ""}[self.plain_http]
        return f"{scheme}{self}"

    def __str__(self) -> str:
        return f"{self.host}/{self.base}" if self.base else self.host


def api_url(host: str, *, plain_http: bool | None, settings: HostSettings = _USUAL) -> URL:
    """The root of the registry's API, ``…/v2/``; ``plain_http`` is what was written, or else ``settings`` say it.

    Unless told, loopback speaks plain HTTP and all others TLS.  A certificate in ``settings`` tells, and where none
    is to be verified, or the same ones are for every run, loopback is asked.
    """
    name = api_host(host)
    if plain_http is None:
        plain_http = settings.plain_http
    if plain_http is None:
        wants_tls = (settings.ca_cert is not None or settings.client_cert is not None) and not settings.is_usual
        asks = settings.insecure or settings.is_usual
        plain_http = is_loopback(name) and not wants_tls and not (asks and speaks_tls(name))
    return URL(f"{'http' if plain_http else 'https'}://{name}/v2/")


_CEILINGS = (
    (re.compile(r".*\.dkr\.ecr(?:-fips)?\..*\.amazonaws\.com(?:\.cn)?"), Ceiling(writes=200, manifests=10)),
    (re.compile(r"public\.ecr\.aws"), Ceiling(writes=20, manifests=10)),
    (re.compile(r"(?:.*\.)?(?:pkg\.dev|gcr\.io)"), Ceiling(requests=60_000 / 60, writes=18_000 / 60)),
    (re.compile(r".*\.azurecr\.(?:io|cn|us)"), Ceiling(requests=12_000 / 60, writes=2000 / 60)),
    (re.compile(re.escape(DOCKER_HUB)), Ceiling(requests=5000 / 60)),
)


def ceiling_of(host: str) -> Ceiling:
    """The requests a second that the operator of the registry ``host`` documents as the most that it takes.

    They are those of the largest tier and of one region, before anybody asked for more:

    - Amazon ECR: 10 PutImage, 100 InitiateLayerUpload and 100 CompleteLayerUpload a second; of its public registry 10
      each (docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html, …/public/public-service-quotas.html).
    - Google Artifact Registry: 60,000 requests a minute, 18,000 of them writes
      (cloud.google.com/artifact-registry/quotas).
    - Azure Container Registry, Premium: 10,000 reads and 2,000 writes a minute
      (learn.microsoft.com/azure/container-registry/container-registry-skus).
    - Docker Hub: thousands of requests a minute, which is taken for 5,000 here
      (docs.docker.com/docker-hub/usage, "Abuse rate limit"); its limit of pulls it tells in headers.

    >>> ceiling_of("1.dkr.ecr.eu-west-1.amazonaws.com").manifests, ceiling_of("quay.io").requests
    (10, None)
    """
    name = canonical_host(host.lower())
    return next((ceiling for pattern, ceiling in _CEILINGS if pattern.fullmatch(name)), Ceiling())


def is_loopback(host: str) -> bool:
    """Tell whether ``host[:port]`` is written as a name or an address of this machine."""
    return Scope.of_host(URL(f"http://{host}").host or "") is Scope.LOOPBACK


def speaks_tls(host: str) -> bool:
    """Tell whether the server at ``host[:port]``, on this machine, answers TLS in TLS; True when it is silent.

    Blocks, for three seconds at most.
    """
    url = URL(f"https://{host}")
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    try:
        with socket.create_connection((url.host or "", url.port or 443), timeout=1) as connected:
            connected.sendall(outgoing.read())
            try:
                answer = connected.recv(1)
            except TimeoutError:  # a server of HTTP may wait for the end of a line
                connected.sendall(b"\r\n\r\n")
                answer = connected.recv(1)
    except TimeoutError:
        return True
    except OSError:
        return False
    return answer in _TLS_RECORDS


def _refuse_tag(text: str, rest: str) -> None:
    """Raise ``UsageError`` for a registry, written as ``text``, that ends in a tag or a digest."""
    name, _, digest = rest.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if _DIGEST.match(digest):
        raise UsageError(f"{text!r} has a digest, and a registry takes no digest", hint=f"leave out @{digest}")
    if not digest and _TAG.fullmatch(tag) and ("/" in name or not tag.isdigit()):
        raise UsageError(f"{text!r} has a tag, and a registry takes no tag", hint=f"leave out :{tag}")


class RegistrySettings(Struct, frozen=True, kw_only=True):
    """Everything the registry end is told."""

    transport: TransportSettings = field(default_factory=TransportSettings)
    credentials: CredentialSettings = field(default_factory=CredentialSettings)
    trusted_realms: frozenset[str] = frozenset()  # hosts that may be shown the login of a registry that names them
    include_foreign: bool = (
        False  # foreign layers are fetched, from the registry or else from where their vendors keep them
    )
    chunk_size: int = CHUNK_SIZE  # bytes of an upload in one request; a blob larger than two of them is large


class Registries:
    """Implements ``Source`` for whatever lies in registries."""

    def __init__(self, transport: Transport, settings: RegistrySettings) -> None:
        self._transport = transport
        self._settings = settings
        self._credentials = Credentials(settings.credentials)
        self._registries: dict[str, Registry] = {}
        self._repositories: dict[str, Repository] = {}
        self._searches: dict[str, ReferrerSearch] = {}
        self._tags: dict[str, Sequence[str] | None] = {}  # by repository, for messages
        self._explaining: dict[str, anyio.Lock] = {}
        self._mute: set[str] = set()  # registries that do not tell their tags
        self.notices: dict[str, None] = {}  # what is odd about registries and does no harm, each sentence once

    @property
    def transport(self) -> Transport:
        """For what else is asked of servers, under the same manners."""
        return self._transport

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """The counters of each host, by ``host[:port]``."""
        return self._transport.traffic

    def authorizer(self, url: URL) -> Authorizer:
        """The authorizer for a file of a web server, with that host's login, as a registry asks for it.

        Raises ``UsageError`` for plain HTTP where nobody allowed it; loopback may speak it.
        """
        host = authority(url)
        settings = self._settings.transport.host(host)
        if url.scheme == "http" and not (is_loopback(host) or settings.plain_http):
            raise UsageError(f"{host} is to be spoken to without TLS", hint="--plain-http allows it; https:// is safer")
        auth = RegistryAuth(
            self._transport, url, host, self._credentials, self._settings.trusted_realms, is_foreign=True
        )
        return auth.for_scopes(url.path.strip("/"))

    async def credential(self, host: str) -> Credential | None:
        """The login for ``host``, which others than registries may ask for too.  Raises ``InvalidFile``."""
        return await self._credentials.find(host)

    async def resolve(self, reference: Reference) -> Descriptor:
        """The descriptor that ``reference`` names now, by HEAD; raises ``NotFound`` or ``Denied``."""
        return await self.repository(reference).resolve(_digest_or_tag(reference))

    async def manifest(self, reference: Reference) -> AnyManifest:
        """The manifest that ``reference`` names, in one request; raises ``NotFound`` or ``Denied``."""
        return await self.repository(reference).manifest(_digest_or_tag(reference), reference.digest)

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        """A blob of the repository that ``reference`` is in."""
        return RegistryBlob(descriptor, self.repository(reference))

    def brings(self, layer: Descriptor) -> bool:  # noqa: ARG002  it is all or none
        """Tell whether foreign layers are transferred; see ``content.Bringing``."""
        return self._settings.include_foreign

    async def referrers(self, reference: Reference, subjects: Sequence[Digest]) -> Referrals:
        """Find the referrers of ``subjects`` in the repository of ``reference``; see ``content.Referring``."""
        answers = await self._search(reference).find(self.repository(reference), subjects)
        found: dict[Reference, Referral] = {}
        for subject, answer in answers.items():
            for digest in answer.listed:
                found.setdefault(reference.at(digest), Referral(reference.at(digest), subject))
            for tag in answer.tags:
                found.setdefault(reference.tagged(tag), Referral(reference.tagged(tag)))
        doubts = (answer.doubt for answer in answers.values() if answer.doubt)
        return Referrals(tuple(found.values()), next(doubts, None))

    async def lists(self, name: Reference, subject: Digest, referrer: Digest) -> bool:
        """Tell whether ``subject`` lists ``referrer`` in the repository of ``name``; raises where that is unknown."""
        return await self._search(name).lists(self.repository(name), subject, referrer)

    async def tags(self, reference: Reference) -> list[str]:
        """All tags of the repository that ``reference`` is in; raises ``NameMissing`` or ``Denied``."""
        repository = self.repository(reference)
        try:
            tags = [tag async for tag in repository.tags()]
        except NotFound as error:
            raise NameMissing(no_repository(reference.registry, reference.repository), error) from None
        self._search(reference).told(repository, tags)
        return tags

    async def explain(self, reference: Reference, error: NotFound) -> NotFound:
        """Say of a name that its registry does not have what is there instead; see ``content.Explaining``.

        The tags of a repository are asked for once, and no more at a registry that does not tell them.
        """
        name = reference.name
        if reference.digest or reference.tag is None:
            return NameMissing(f"{name} has no manifest {reference.digest}", error)
        async with self._explaining.setdefault(name, anyio.Lock()):
            if name not in self._tags:
                self._tags[name] = await self._some_tags(reference)
        tags = self._tags[name]
        if tags is None:
            return NameMissing(f"{name} has no tag {reference.tag}", error)
        if not tags:
            return NameMissing(no_repository(reference.registry, reference.repository), error)
        nearest = nearest_tags(reference.tag, tags)
        told = f" (nearest: {', '.join(nearest)})" if nearest else ""
        return NameMissing(f"{name} has no tag {reference.tag}{told}", error, nearest=nearest)

    async def _some_tags(self, reference: Reference) -> Sequence[str] | None:
        """The tags of the repository of ``reference``; none if there is no such repository, None if it is not told."""
        if reference.registry in self._mute:
            return None
        try:
            tags = await self.repository(reference).some_tags()
        except NotFound:
            return ()
        if tags is None:
            self._mute.add(reference.registry)
        return tags or None

    def _search(self, reference: Reference) -> ReferrerSearch:
        return self._searches.setdefault(reference.registry, ReferrerSearch())

    def pause(self, reference: Reference) -> float:
        """The seconds for which the registry of ``reference`` is paused; see ``content.Pausing``."""
        left = self._transport.of(self.registry(reference.registry).base).pause_left
        return left if left <= self._settings.transport.limits.max_wait else 0.0

    def capacity(self, reference: Reference) -> int:
        """The number of blobs that the registry of ``reference`` may deliver at once; see ``content.Limiting``."""
        traffic = self._transport.of(self.registry(reference.registry).base)
        is_slow = traffic.is_paced and not traffic.settings.concurrency
        room = traffic.permits.room(Kind.BLOBS)
        return min(room, _PACED_LANES) if is_slow else room

    def target(
        self,
        address: RegistryAddress,
        *,
        journal: UploadJournal | None = None,
        interrupted: bool = False,
        must_tell: bool = False,
    ) -> RegistryTarget:
        """The registry at ``address`` as a target.

        ``journal`` remembers uploads over runs.  ``interrupted`` says that an earlier push did not end, so that
        asking for each blob is worth it.  ``must_tell``: a name about which it tells nothing is an error; otherwise
        the name is taken for a new one, and what is wrong shows when content is sent.
        """
        registry = self.registry(address.host, plain_http=address.plain_http)
        manner = Manner(address.host, self._settings.chunk_size)
        return RegistryTarget(registry, manner, journal=journal, interrupted=interrupted, must_tell=must_tell)

    def registry(self, host: str, *, plain_http: bool | None = None) -> Registry:
        """The registry ``host[:port]``; the first call settles whether it is spoken to by plain HTTP.

        Raises ``UsageError`` for a call that wants it otherwise.
        """
        registry = self._registries.get(host)
        if registry is None:
            base = api_url(host, plain_http=plain_http, settings=self._settings.transport.host(host))
            auth = RegistryAuth(self._transport, base, host, self._credentials, self._settings.trusted_realms)
            registry = self._registries[host] = Registry(host, base, self._transport, auth, self.notices)
        elif plain_http is not None and plain_http != (registry.base.scheme == "http"):
            raise UsageError(
                f"{host} is to be spoken to by HTTP and by HTTPS", hint="write the same before each of its names"
            )
        return registry

    def host_at(self, address: RegistryAddress) -> str:
        """The name under which the traffic of the registry at ``address`` is counted."""
        return authority(self.registry(address.host, plain_http=address.plain_http).base)

    def settle(self, references: Iterable[Reference]) -> None:
        """Let what is written before some of ``references`` hold for all of their registries; raises ``UsageError``."""
        for reference in references:
            if reference.plain_http is not None:
                self.registry(reference.registry, plain_http=reference.plain_http)

    def repository(self, reference: Reference) -> Repository:
        """The repository that ``reference`` is in, for reading."""
        repository = self._repositories.get(reference.name)
        if repository is None:
            repository = self.registry(reference.registry).repository(reference.repository)
            self._repositories[reference.name] = repository
        return repository


@asynccontextmanager
async def open_registries(settings: RegistrySettings) -> AsyncIterator[Registries]:
    """The connections to registries live exactly as long as the ``async with`` block."""
    async with open_transport(structs.replace(settings.transport, ceiling_of=ceiling_of)) as transport:
        yield Registries(transport, settings)


def _digest_or_tag(reference: Reference) -> str:
    return str(reference.digest or reference.tag)


async def check_login(registries: Registries, address: RegistryAddress) -> bool:
    """Tell whether the registry at ``address`` asked for its login in ``registries``, and accepted it.

    False means that it lets everybody in, so that nothing is known.  Raises ``Denied`` for a wrong login.
    """
    registry = registries.registry(address.host, plain_http=address.plain_http)
    request = Request(method="GET", url=registry.base, authorizer=registry.auth.for_scopes(""))
    answer = await registries.transport.ask(request)
    if answer.status in (401, 403):
        raise refusal(answer, hint=f"check the user name and the password for {address.host}")
    if answer.status != 200 or is_web_page(answer):
        raise refusal(answer, hint=f"is {address.host} a registry?")
    if registry.auth.withholds_login:
        raise Denied(answer.request, 401, ["the login was not shown to the place that the registry names for tokens"])
    return registry.auth.is_asked_for
