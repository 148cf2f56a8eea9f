"""Finding the charts and files that packs request, and making artifacts of them.

A chart of a classic repository is called ``HOST/PATH/NAME:VERSION`` after the repository's URL, and a file
``HOST/PATH/FILE:VERSION`` after its own URL.  Dashes replace characters that a repository name cannot have, and an
underscore replaces the ``+`` of a version, as in Helm.  So after a push with the usual names,
``helm pull oci://REGISTRY/BASE/HOST/PATH/NAME --version VERSION`` finds the chart.  A chart in an OCI registry is an
artifact already and keeps its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import anyio
from anyio import to_thread
from msgspec import Struct
from yarl import URL

from syncer.errors import Denied, DigestMismatch, InvalidContent, NotFound, SyncerError, UsageError, redacted
from syncer.formats.semver import is_exact_version, newest
from syncer.formats.yaml import Map
from syncer.oci import Descriptor, Reference
from syncer.profiles.charts.helm import chart_config, read_chart_metadata
from syncer.profiles.charts.index import (
    BasicLogin,
    ChartIndex,
    Download,
    fetch,
    nearest_versions,
    no_chart,
    read_index,
)
from syncer.profiles.definition.artifacts import (
    CHART_CONFIG,
    CHART_LAYER,
    EMPTY,
    EMPTY_CONFIG,
    FILE,
    TITLE,
    VERSION,
    Spool,
    artifact_manifest,
    repository_of,
    tag_of,
)
from syncer.profiles.definition.definition import ChartRequest
from syncer.profiles.palette.edge_credentials import Login, find_login
from syncer.transport import Transport
from syncer.transport.guard import Scope, authority, origin, without_secrets

_ARCHIVES = (".tgz", ".tar.gz", ".tar", ".zip", ".tar.zst", ".tar.xz")


class OciRegistry(Protocol):
    """The questions about charts that a registry answers; ``profiles`` itself knows no registry."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """The descriptor of ``reference``; raises ``NotFound``, or ``Denied``, as some registries do instead."""
        ...

    async def tags(self, reference: Reference) -> list[str]:
        """The tags of the repository of ``reference``; raises the same errors."""
        ...

    async def login(self, host: str) -> Login | None:
        """The login that is kept for ``host[:port]``, or None; the host need not be a registry."""
        ...


class ResolvedChart(Struct, frozen=True, kw_only=True):
    """A request, and the chart (or other file) that was found for it.

    ``reference`` is its name for the transfer: at a registry, or in the spool with its digest.  ``version`` is the
    exact version that was found.
    """

    request: ChartRequest
    reference: Reference
    version: str
    size: int | None = None  # bytes of the archive; None where a registry has it


class FailedChart(Struct, frozen=True):
    """A request for which no chart was found, and the error."""

    request: ChartRequest
    error: SyncerError


class Charts:
    """A finder of charts, which fetches each index once.

    ``logins`` are by ``host[:port][/path]``; ``cache`` is a directory for indexes of earlier runs.
    """

    def __init__(
        self,
        transport: Transport,
        spool: Spool,
        registry: OciRegistry,
        *,
        logins: Mapping[str, Login] | None = None,
        cache: Path | None = None,
    ) -> None:
        self._transport = transport
        self._spool = spool
        self._registry = registry
        self._logins = logins or {}
        self._cache = cache
        self._indexes: dict[URL, ChartIndex | SyncerError] = {}
        self._locks: dict[URL, anyio.Lock] = {}

    async def resolve(self, request: ChartRequest) -> ResolvedChart:
        """Find the chart, and fetch it into the spool unless a registry has it.  Raises ``SyncerError``."""
        repository, login = _address(request.repo)
        if repository.scheme == "oci":
            return await self._in_registry(request, repository)
        if is_archive(repository):
            return await self._direct(request, repository, login)
        return await self._from_repository(request, repository, login)

    async def resolve_all(self, requests: list[ChartRequest], *, at_once: int = 8) -> list[ResolvedChart | FailedChart]:
        """Resolve all ``requests``, and return the results in their order; one that fails does not stop the others."""
        found: dict[int, ResolvedChart | FailedChart] = {}
        limiter = anyio.CapacityLimiter(at_once)

        async def resolve(number: int, request: ChartRequest) -> None:
            async with limiter:
                try:
                    found[number] = await self.resolve(request)
                except SyncerError as error:
                    found[number] = FailedChart(request, error)

        async with anyio.create_task_group() as tasks:
            for number, request in enumerate(requests):
                tasks.start_soon(resolve, number, request)
        return [found[number] for number in range(len(requests))]

    async def fetch_file(self, address: str, name: str | None = None) -> ResolvedChart:
        """Fetch the file at ``address`` into the spool as an artifact, whatever is in it.  Raises ``SyncerError``."""
        url, login = _address(address)
        fetched = await self._fetch(url, url, login)
        title = name or url.name or url.host or "file"
        return self._file(ChartRequest(address, title), fetched, file_reference(address, name), title)

    async def _from_repository(self, request: ChartRequest, repository: URL, login: Login | None) -> ResolvedChart:
        index = await self._index(repository, login)
        entry = await to_thread.run_sync(index.find, request.name, request.version)
        if not entry.url:
            raise InvalidContent(f"the index of {without_secrets(repository)} has no URL for {request}")
        url = _archive_url(repository, entry.url)
        if url.scheme == "oci":  # Bitnami's index leads to Docker Hub
            return await self._in_registry(request, url)
        fetched = await self._fetch(url, repository, login)
        if entry.digest and entry.digest.lower() != fetched.digest.hex:
            fetched.path.unlink()
            raise DigestMismatch(f"{without_secrets(url)} is not the archive whose digest the index gives")
        metadata = await to_thread.run_sync(_metadata, fetched.path, without_secrets(url))
        if metadata is None:
            fetched.path.unlink()
            raise InvalidContent(f"{without_secrets(url)} is not a chart, although the index lists it as one")
        return self._chart(request, repository_of(repository.path, metadata["name"]), repository, fetched, metadata)

    async def _direct(self, request: ChartRequest, url: URL, login: Login | None) -> ResolvedChart:
        fetched = await self._fetch(url, url, login)
        metadata = await to_thread.run_sync(_metadata, fetched.path, without_secrets(url))
        if metadata is not None:
            repository = repository_of(url.parent.path, metadata["name"])
            return self._chart(request, repository, url, fetched, metadata)
        name = _reference(url, repository_of(url.path), request.version or "")
        return self._file(request, fetched, name, url.name)

    def _file(self, request: ChartRequest, fetched: Download, name: Reference, title: str) -> ResolvedChart:
        layer = Descriptor("application/octet-stream", fetched.digest, fetched.size, annotations={TITLE: title})
        self._spool.add_file(fetched.path, layer)
        self._spool.add_bytes(EMPTY_CONFIG, EMPTY.media_type)
        manifest = artifact_manifest(EMPTY, [layer], artifact_type=FILE)
        reference = self._spool.add_artifact(name, manifest)
        return ResolvedChart(request=request, reference=reference, version=request.version or "", size=fetched.size)

    def _chart(
        self, request: ChartRequest, repository: str, url: URL, fetched: Download, metadata: Map
    ) -> ResolvedChart:
        layer = Descriptor(CHART_LAYER, fetched.digest, fetched.size)
        self._spool.add_file(fetched.path, layer)
        config = self._spool.add_bytes(chart_config(metadata), CHART_CONFIG)
        annotations = {TITLE: metadata["name"], VERSION: metadata["version"]}
        manifest = artifact_manifest(config, [layer], annotations=annotations)
        reference = self._spool.add_artifact(_reference(url, repository, metadata["version"]), manifest)
        return ResolvedChart(request=request, reference=reference, version=metadata["version"], size=fetched.size)

    async def _fetch(self, url: URL, repository: URL, login: Login | None) -> Download:
        """Download an archive; the login of a repository is sent to the repository's own origin only."""
        if origin(url) == origin(repository):
            authorizer = await self._authorizer(url, login)
        else:
            given = find_login(self._logins, authority(url), url.path)
            authorizer = BasicLogin(given) if given else None
        return await fetch(self._transport, url, self._spool.directory, authorizer=authorizer)

    async def _index(self, repository: URL, login: Login | None) -> ChartIndex:
        """The index of ``repository``, fetched once: an error is remembered too, and raised again."""
        async with self._locks.setdefault(repository, anyio.Lock()):
            if repository not in self._indexes:
                try:
                    authorizer = await self._authorizer(repository, login)
                    self._indexes[repository] = await read_index(
                        self._transport, repository, self._spool.directory, authorizer=authorizer, cache=self._cache
                    )
                except SyncerError as error:
                    self._indexes[repository] = error
        index = self._indexes[repository]
        if isinstance(index, SyncerError):
            raise index
        return index

    async def _authorizer(self, url: URL, login: Login | None) -> BasicLogin | None:
        """The login for ``url``, if any; a login that is kept for the host is not sent without encryption."""
        login = login or find_login(self._logins, authority(url), url.path)
        is_private = url.scheme == "https" or Scope.of_host(url.host or "") is Scope.LOOPBACK
        if login is None and is_private:
            login = await self._registry.login(authority(url))
        return BasicLogin(login) if login else None

    async def _in_registry(self, request: ChartRequest, url: URL) -> ResolvedChart:
        """Find the chart at ``URL/NAME`` or at ``URL`` itself: packs write repositories in both ways."""
        base = f"{authority(url)}{url.path.rstrip('/')}"
        base, colon, tag = base.rpartition(":") if ":" in url.path else (base, "", "")
        version = tag if colon else request.version
        candidates = [base] if colon else [f"{base}/{request.name}", base] if request.name else [base]
        failures: list[NotFound | Denied] = []
        for candidate in candidates:
            repository = Reference.parse(candidate)
            try:
                found = await self._tag(repository, version)
            except (NotFound, Denied) as error:
                failures.append(error)
            else:
                return ResolvedChart(request=request, reference=repository.tagged(found), version=found)
        raise await self._missing(request, version, candidates, failures)

    async def _missing(
        self,
        request: ChartRequest,
        version: str | None,
        candidates: Sequence[str],
        failures: Sequence[NotFound | Denied],
    ) -> NotFound | Denied:
        """The error for a chart that is at none of ``candidates``, for the reasons in ``failures``."""
        if not all(isinstance(failure, NotFound) for failure in failures):
            return failures[0]
        tags: list[str] = []
        for candidate in candidates:
            with contextlib.suppress(SyncerError):
                tags = tags or await self._registry.tags(Reference.parse(candidate))
        name = request.name or candidates[0].rpartition("/")[2]
        near = nearest_versions([tag.replace("_", "+") for tag in tags], version or "")
        return no_chart(request.repo, name, version if tags else None, near, failures[0])

    async def _tag(self, repository: Reference, version: str | None) -> str:
        """The tag for ``version``: the same text, with or without ``v``, or the newest tag in it as a range."""
        if version and is_exact_version(version):
            return await self._exact_tag(repository, version)
        tags = [tag.replace("_", "+") for tag in await self._registry.tags(repository)]
        found: str | None = None
        with contextlib.suppress(UsageError):
            found = newest(tags, version or "*")
        if found is None:
            raise NotFound(f"chart {repository.name} {version or ''}".rstrip(), 404, ["no tag of it fits"])
        return tag_of(found)

    async def _exact_tag(self, repository: Reference, version: str) -> str:
        tag = tag_of(version)
        try:
            await self._registry.resolve(repository.tagged(tag))
        except (NotFound, Denied) as error:
            other = tag_of(version.removeprefix("v") if version.startswith("v") else f"v{version}")
            try:
                await self._registry.resolve(repository.tagged(other))
            except (NotFound, Denied):
                raise error from None
            return other
        return tag


def is_archive(url: URL) -> bool:
    """Tell whether ``url``, the ``repo`` of a chart in a pack, is the address of an archive, not of a repository."""
    return url.scheme != "oci" and url.name.endswith(_ARCHIVES)


def guess_reference(request: ChartRequest) -> Reference | None:
    """Guess the name that a chart will get, before it is fetched, so that a bundle at hand can be searched for it.

    None for a request without an exact version, and for a chart of an OCI registry.
    """
    url, _ = _address(request.repo)
    if not request.name or not request.version or not is_exact_version(request.version) or url.scheme == "oci":
        return None
    if is_archive(url):
        return _reference(url, repository_of(url.path), request.version)
    return _reference(url, repository_of(url.path, request.name), request.version)


def file_reference(address: str, name: str | None = None) -> Reference:
    """The name of the file at ``address`` as an artifact, ``HOST/PATH/FILE:latest``; ``name`` replaces the last part.

    Raises ``UsageError`` for an address that is none, and ``InvalidReference`` for a name that is too long.
    """
    url, _ = _address(address)
    folder = url.parent.path if url.name else url.path
    return _reference(url, repository_of(folder, name or url.name or url.host or "file"), "")


def _address(repo: str) -> tuple[URL, Login | None]:
    """The URL that ``repo`` means, and the login in it, if any; without a scheme it is HTTPS."""
    text = repo.strip()
    try:
        url = URL(text if "://" in text else f"https://{text}")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https", "oci") or not url.host:
        raise UsageError(f"{redacted(text)[:160]!r} is not the address of a chart repository")
    login = Login(url.user, url.password or "") if url.user else None
    return url.with_user(None), login


def _archive_url(repository: URL, text: str) -> URL:
    """The absolute URL of an archive; ``text``, from an index, is relative to it (helm.sh, "The Index File")."""
    base = repository.with_path(f"{repository.path.rstrip('/')}/")
    url = base.join(URL(text))
    return url.with_query(repository.query) if origin(url) == origin(base) and not url.query_string else url


def _reference(url: URL, repository: str, version: str) -> Reference:
    """The name for content from ``url``; raises ``InvalidReference`` for a name that is too long."""
    return Reference.parse(f"{authority(url)}/{repository}:{tag_of(version)}")


def _metadata(path: Path, name: str) -> Map | None:
    with path.open("rb") as file:
        return read_chart_metadata(file, name)


__all__ = [
    "Charts",
    "FailedChart",
    "OciRegistry",
    "ResolvedChart",
    "file_reference",
    "guess_reference",
    "is_archive",
]
