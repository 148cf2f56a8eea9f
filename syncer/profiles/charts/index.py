"""The index.yaml of a classic chart repository, which is fetched once a run and cached by its ETag.

An index may have hundreds of MiB, so it is read piece by piece.  The fields that find a chart, about a twentieth of
it, go into a file of lines, and memory has only the place of each chart in that file.  Requests to chart repositories
are here too: their logins, their errors, and archives of charts that go to the disk.
"""

from __future__ import annotations

import base64
import difflib
import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self, cast

import orjson
from anyio import to_thread
from msgspec import Struct
from yarl import URL

from syncer.errors import (
    Denied,
    Interrupted,
    InvalidContent,
    InvalidFile,
    ListIncomplete,
    NameMissing,
    NotFound,
    RegistryError,
    TargetError,
    UsageError,
)
from syncer.files import require_room, saving, write_whole
from syncer.formats.semver import Version, newest
from syncer.formats.text import text_field
from syncer.formats.yaml import Map, stream_yaml
from syncer.oci import Digest
from syncer.profiles.palette.edge_credentials import Login
from syncer.transport import Authorizer, Request, Response, Transport
from syncer.transport.guard import without_secrets
from syncer.transport.message import Challenged

MAX_ARCHIVE = 1024 * 1024 * 1024
"""Bytes of one chart or file; charts have some hundred KiB, installers some hundred MiB."""

_NOT_MODIFIED = 304
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BasicLogin:
    """An authorizer that sends its login with the first request, as Helm does: many repositories never ask for one."""

    login: Login = field(repr=False)

    async def authorization(self) -> str | None:
        text = f"{self.login.username}:{self.login.password}"
        return f"Basic {base64.b64encode(text.encode()).decode()}"

    async def challenged(self, answer: Challenged) -> bool:  # noqa: ARG002 - there is nothing else to say
        return False

    def elsewhere(self, url: URL) -> None:  # noqa: ARG002 - nobody gives out tokens for charts
        return None


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was downloaded whole; the caller removes ``path``."""

    path: Path
    digest: Digest
    size: int  # bytes
    headers: Mapping[str, str] = field(repr=False)  # of the answer


async def fetch(transport: Transport, url: URL, directory: Path, *, authorizer: Authorizer | None = None) -> Download:
    """Download the archive at ``url``, of ``MAX_ARCHIVE`` bytes at most; see ``fetch_changed``."""
    found = await fetch_changed(transport, url, directory, authorizer=authorizer, limit=MAX_ARCHIVE)
    if found is None:
        raise _refusal(url, _NOT_MODIFIED)
    return found


async def fetch_changed(
    transport: Transport,
    url: URL,
    directory: Path,
    *,
    headers: Mapping[str, str] = _NO_HEADERS,
    authorizer: Authorizer | None = None,
    limit: int,
) -> Download | None:
    """Download ``url`` into a new file in ``directory``; a download that is cut off begins again.

    None when the server says that the content is what ``headers`` say that we have.  Raises ``Denied``, ``NotFound``
    or another ``RegistryError``, a ``NetworkError``, ``InvalidContent`` for more than ``limit`` bytes, and
    ``TargetError`` when the disk is full.
    """
    budget = transport.budget()
    request = Request(method="GET", url=url, headers=headers, authorizer=authorizer)
    while True:
        try:
            async with transport.open(request, budget=budget) as response:
                if response.status == _NOT_MODIFIED and headers:
                    return None
                if response.status >= 300:
                    raise _refusal(url, response.status)
                return await _write(response, directory, limit)
        except Interrupted:
            if budget.is_spent:
                raise
            await budget.sleep()
        except OSError as error:
            raise TargetError(f"{directory} cannot be written: {error.strerror or error}") from None


async def _write(response: Response, directory: Path, limit: int) -> Download:
    hasher, size = hashlib.sha256(), 0
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) <= limit:
        require_room(directory, int(length), without_secrets(response.request.url))
    with new_file(directory, "fetching-") as file:
        while piece := await response.piece():
            size += len(piece)
            if size > limit:
                raise InvalidContent(f"{without_secrets(response.request.url)} is larger than {limit} bytes")
            hasher.update(piece)
            file.write(piece)
    return Download(Path(file.name), Digest("sha256", hasher.hexdigest()), size, response.headers)


@contextmanager
def new_file(directory: Path, prefix: str) -> Iterator[IO[bytes]]:
    """Open a new file with a unique name that begins with ``prefix``, which is removed when the block fails."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=prefix, delete=False) as file:
        try:
            yield file
        except BaseException:
            Path(file.name).unlink()
            raise


def _refusal(url: URL, status: int) -> RegistryError:
    request = f"GET {without_secrets(url)}"
    if status in (401, 403):
        return Denied(request, status, hint="give a login for this host with --cred-file-path or syncer registry-login")
    if status in (404, 410):
        return NotFound(request, status)
    return RegistryError(request, status)


MAX_INDEX = 256 * 1024 * 1024
"""Bytes.  The index.yaml of a large repository has tens of MiB."""

_MAX_NODES = 20_000_000
_MAX_CHARTS = 100_000
_MAX_VERSIONS = 100_000  # of one chart
_MAX_CACHED = 32 * 1024 * 1024  # bytes
_LONGEST_FIELD = 8 * 1024  # characters of a version, a URL or a digest
_LONGEST_LINE = 256 * 1024  # bytes
_NEAREST = 5


class IndexedChart(Struct, frozen=True):
    """One version of a chart: the URL of its archive, and the SHA-256 that the index gives for it."""

    version: str
    url: str  # empty when the index has none
    digest: str  # hexadecimal; empty when the index has none


class ChartIndex(Struct, frozen=True):
    """The charts of a repository: lines in the file ``path``, those of one chart together."""

    url: URL
    path: Path
    places: Mapping[str, tuple[int, int]]  # by the name of the chart: from byte, to byte

    @classmethod
    def write(cls, url: URL, directory: Path, charts: Iterable[tuple[str, IndexedChart]]) -> Self:
        """Make an index of ``charts``, each with its name, those of one name together, in a new file in ``directory``.

        Raises ``InvalidContent`` for too many charts, and ``TargetError`` when the disk is full.
        """
        places: dict[str, tuple[int, int]] = {}
        with saving(directory), new_file(directory, "index-") as file:
            end = 0
            for name, chart in charts:
                start, _ = places.get(name, (end, end))
                end += file.write(orjson.dumps([name, chart.version, chart.url, chart.digest]) + b"\n")
                places[name] = start, end
                if len(places) > _MAX_CHARTS:
                    raise InvalidContent(f"the index of {without_secrets(url)} has more than {_MAX_CHARTS:,} charts")
        return cls(url, Path(file.name), places)

    def find(self, name: str, version: str | None) -> IndexedChart:
        """Find the chart of exactly ``version``, else the newest one in ``version`` as a range; this blocks.

        Without a version, the newest release is meant, as in Helm.  Raises ``NotFound``, and ``InvalidContent`` for a
        chart that has too many versions.
        """
        if name not in self.places:
            near = difflib.get_close_matches(name, self.places, n=_NEAREST)
            raise self._missing(name, None, near)
        by_version: dict[str, IndexedChart] = {}
        for number, chart in enumerate(self._versions(name)):
            if number == _MAX_VERSIONS:
                raise InvalidContent(
                    f"the index of {without_secrets(self.url)} has more than {_MAX_VERSIONS:,} versions of {name}"
                )
            by_version.setdefault(chart.version, chart)
        if version in by_version:
            return by_version[version]
        try:
            found = newest(by_version, version or "*")
        except UsageError:
            found = None
        if found is None and version is None:
            found = newest(by_version, ">=0-0")  # pre-releases only
        if found is None:
            raise self._missing(name, version, nearest_versions(by_version, version or ""))
        return by_version[found]

    def _versions(self, name: str) -> Iterator[IndexedChart]:
        start, end = self.places[name]
        with self.path.open("rb") as file:
            file.seek(start)
            while file.tell() < end:
                yield IndexedChart(*orjson.loads(file.readline())[1:])

    def _missing(self, name: str, version: str | None, near: Sequence[str]) -> NameMissing:
        place = without_secrets(self.url).rstrip("/")
        return no_chart(place, name, version, near, NotFound(f"GET {place}/index.yaml", 404))


def no_chart(place: str, name: str, version: str | None, near: Sequence[str], answered: RegistryError) -> NameMissing:
    """The error for a chart, or a version of one, that the repository at ``place`` lacks; ``near`` are like it."""
    told = f" (nearest: {', '.join(near)})" if near else ""
    return NameMissing(f"{place} has no chart {f'{name} {version or str()}'.strip()}{told}", answered, nearest=near)


async def read_index(
    transport: Transport, repository: URL, directory: Path, *, authorizer: Authorizer | None, cache: Path | None
) -> ChartIndex:
    """Fetch the index of ``repository``, or take it from ``cache`` when the server says that it has not changed.

    The index keeps its file in ``directory``.  Raises a ``RegistryError`` or ``NetworkError``, ``InvalidContent`` for
    an answer that is not an index, ``ListIncomplete`` for one of which nothing says that this is all (a text that is
    cut off between two entries is an index as well), and ``TargetError`` when the disk is full.
    """
    url = repository.with_path(f"{repository.path.rstrip('/')}/index.yaml").with_query(repository.query)
    kept = await to_thread.run_sync(_load, cache, url, repository, directory) if cache else None
    headers = {"Accept-Encoding": "gzip"}
    if kept:
        headers["If-None-Match"] = kept[0]
    try:
        found = await fetch_changed(transport, url, directory, headers=headers, authorizer=authorizer, limit=MAX_INDEX)
    except NotFound as error:
        place = without_secrets(repository).rstrip("/")
        raise NameMissing(f"{place} is no repository of charts: it has no index.yaml", error) from None
    if found is None:
        if kept is None:
            raise InvalidContent(f"{without_secrets(url)} is not given, as if we had it already")
        return kept[1]
    try:
        charts = _charts_in(found, without_secrets(url))
        index = await to_thread.run_sync(ChartIndex.write, repository, directory, charts)
    finally:
        found.path.unlink()
    if cache and (etag := found.headers.get("ETag")):
        await to_thread.run_sync(_save, cache, url, etag, index)
    return index


def _cache_path(cache: Path, url: URL) -> Path:
    """The file for an index: a line of JSON with its ETag and the bytes that follow, the lines of ``ChartIndex``."""
    return cache / f"index-{hashlib.sha256(str(url).encode()).hexdigest()[:32]}.json"


def _load(cache: Path, url: URL, repository: URL, directory: Path) -> tuple[str, ChartIndex] | None:
    """The ETag and the index in ``cache``; None when it is absent or damaged, since a cache is only a hint."""
    try:
        with _cache_path(cache, url).open("rb") as file:
            head = orjson.loads(file.readline(_LONGEST_LINE))
            if head["bytes"] != os.fstat(file.fileno()).st_size - file.tell():
                return None  # a hint may be cut off by a power failure
            lines = (orjson.loads(line) for line in iter(partial(file.readline, _LONGEST_LINE), b""))
            charts = ((name, IndexedChart(*map(_checked, fields))) for name, *fields in lines)
            return _checked(head["etag"]), ChartIndex.write(repository, directory, charts)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(text)
    return text


def _save(cache: Path, url: URL, etag: str, index: ChartIndex) -> None:
    try:
        if index.path.stat().st_size <= _MAX_CACHED:
            cache.mkdir(parents=True, exist_ok=True)
            lines = index.path.read_bytes()
            head = orjson.dumps({"etag": etag, "bytes": len(lines)})
            write_whole(_cache_path(cache, url), b"\n".join((head, lines)), is_hint=True)
    except OSError:
        return  # the next run asks again


def _charts_in(answer: Download, origin: str) -> Iterator[tuple[str, IndexedChart]]:
    """The charts of the index that ``answer`` is, each with its name; raises the errors of ``read_index``."""
    is_packed = answer.headers.get("Content-Encoding", "").lower() == "gzip"
    root: Any = None
    entries: Any = None
    try:
        with answer.path.open("rb") as file:
            source = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_packed else file
            found = stream_yaml(source, origin, depth=3, max_bytes=MAX_INDEX, max_nodes=_MAX_NODES)
            for keys, value in found:
                match keys:
                    case ("entries", name) if isinstance(value, Map) and value:
                        yield name, _indexed_chart(value)
                    case ("entries",):
                        entries = value
                    case ():
                        root = value
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InvalidContent(f"{origin} is not an index of charts: its gzip encoding is damaged") from None
    except InvalidFile as error:
        raise InvalidContent(f"this is not an index of charts: {error}") from None
    if not isinstance(entries, Map):
        raise InvalidContent(f"{origin} is not an index of charts: it has no entries")
    has_end = is_packed or "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
    if not has_end and next(reversed(root)) == "entries":  # Helm writes when it was generated after them
        raise ListIncomplete(
            f"{origin} is not known to be whole: the answer does not say where it ends",
            hint="the repository, or a proxy before it, should send a Content-Length",
        )


def _indexed_chart(entry: Mapping[str, Any]) -> IndexedChart:
    urls = entry.get("urls")
    texts = [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []
    fields = text_field(entry, "version"), next(iter(texts), ""), text_field(entry, "digest").removeprefix("sha256:")
    return IndexedChart(*(text if len(text) < _LONGEST_FIELD else "" for text in fields))


def nearest_versions(versions: Iterable[str], wanted: str) -> list[str]:
    """The versions around ``wanted``, or the newest ones when ``wanted`` is not a version."""
    parsed = sorted((version, text) for text in versions if (version := Version.parse(text)))
    place = Version.parse(wanted)
    if place is None:
        return [text for _, text in parsed[-_NEAREST:][::-1]]
    before = [text for version, text in parsed if version < place][-2:]
    after = [text for version, text in parsed if version > place][: _NEAREST - len(before)]
    return before + after
