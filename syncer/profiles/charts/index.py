"""The index.yaml of a classic chart repository, which is fetched once a run and cached by its ETag."""

from __future__ import annotations

import difflib
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from anyio import to_thread
from yarl import URL

from syncer.errors import InvalidContent, InvalidFile, ListIncomplete, NotFound, UsageError
from syncer.files import write_whole
from syncer.formats.semver import Version, newest
from syncer.formats.text import decode_text, objects_field, text_field
from syncer.formats.yaml import parse_yaml
from syncer.profiles.charts.http import ask
from syncer.transport import Authorizer, Transport
from syncer.transport.guard import without_secrets

MAX_INDEX = 256 * 1024 * 1024
"""Bytes.  The index.yaml of a large repository has tens of MiB."""

_MAX_NODES = 20_000_000
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class IndexedChart:
    """One version of a chart: the URLs of its archive, and the SHA-256 that the index gives for it."""

    version: str
    urls: tuple[str, ...]
    digest: str  # hexadecimal; empty when the index has none


@dataclass(frozen=True, slots=True)
class ChartIndex:
    """The charts of a repository: versions by the name of the chart, in the order of the index."""

    url: URL
    charts: Mapping[str, Sequence[IndexedChart]]

    def find(self, name: str, version: str | None) -> IndexedChart:
        """Find the chart of exactly ``version``, else the newest one in ``version`` as a range; raises ``NotFound``.

        Without a version, the newest release is meant, as in Helm.
        """
        entries = self.charts.get(name)
        if not entries:
            near = difflib.get_close_matches(name, self.charts, n=_NEAREST)
            raise self._missing(f"chart {name}", "has no such chart", near)
        by_version: dict[str, IndexedChart] = {}
        for entry in entries:
            by_version.setdefault(entry.version, entry)
        if version in by_version:
            return by_version[version]
        try:
            found = newest(by_version, version or "*")
        except UsageError:
            found = None
        if found is None and version is None:
            found = newest(by_version, ">=0-0")  # pre-releases only
        if found is None:
            raise self._missing(f"chart {name} {version}", "has no such version", _nearest(by_version, version or ""))
        return by_version[found]

    def _missing(self, what: str, problem: str, near: Sequence[str]) -> NotFound:
        words = f"the index {problem}; the nearest are {', '.join(near)}" if near else f"the index {problem}"
        return NotFound(f"{what} of {without_secrets(self.url)}", 404, [words])


async def read_index(
    transport: Transport, repository: URL, *, authorizer: Authorizer | None, cache: Path | None
) -> ChartIndex:
    """Fetch the index of ``repository``, or take it from ``cache`` when the server says that it has not changed.

    Raises a ``RegistryError`` or ``NetworkError``, ``InvalidContent`` for an answer that is not an index, and
    ``ListIncomplete`` for one of which nothing says that this is all: a text that is cut off between two entries is an
    index as well.
    """
    url = repository.with_path(f"{repository.path.rstrip('/')}/index.yaml").with_query(repository.query)
    kept = _CachedIndex.load(cache, url) if cache else None
    headers = {"Accept-Encoding": "gzip"}
    if kept and kept.etag:
        headers["If-None-Match"] = kept.etag
    answer = await ask(transport, url, headers=headers, authorizer=authorizer, limit=MAX_INDEX)
    if answer.status == 304 and kept:
        return ChartIndex(repository, kept.charts)
    if not answer.is_whole:
        raise InvalidContent(f"{without_secrets(url)} is larger than {MAX_INDEX} bytes")
    is_packed = answer.headers.get("Content-Encoding", "").lower() == "gzip"
    has_end = is_packed or "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
    charts = await to_thread.run_sync(_parse, answer.content, is_packed, without_secrets(url), has_end)
    if cache and (etag := answer.headers.get("ETag")):
        await to_thread.run_sync(_CachedIndex(etag, charts).save, cache, url)
    return ChartIndex(repository, charts)


@dataclass(frozen=True, slots=True)
class _CachedIndex:
    """One index in the cache: only the fields that find a chart, about a twentieth of the file."""

    etag: str
    charts: Mapping[str, Sequence[IndexedChart]]

    @classmethod
    def load(cls, cache: Path, url: URL) -> _CachedIndex | None:
        """Read the index from ``cache``; None when it is absent or damaged, since a cache is only a hint."""
        try:
            document = orjson.loads(_cache_path(cache, url).read_bytes())
            charts = {
                name: [IndexedChart(version, tuple(urls), digest) for version, urls, digest in entries]
                for name, entries in document["charts"].items()
            }
            return cls(str(document["etag"]), charts)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def save(self, cache: Path, url: URL) -> None:
        charts = {name: [(each.version, each.urls, each.digest) for each in self.charts[name]] for name in self.charts}
        try:
            cache.mkdir(parents=True, exist_ok=True)
            write_whole(_cache_path(cache, url), orjson.dumps({"etag": self.etag, "charts": charts}), is_hint=True)
        except OSError:
            return  # the next run asks again


def _cache_path(cache: Path, url: URL) -> Path:
    return cache / f"index-{hashlib.sha256(str(url).encode()).hexdigest()[:32]}.json"


def _parse(content: bytes, is_packed: bool, origin: str, has_end: bool) -> dict[str, list[IndexedChart]]:
    """The entries of an index; ``has_end`` says that the answer itself told where it ended."""
    try:
        text = decode_text(_unpack(content, origin) if is_packed else content, origin, limit=MAX_INDEX)
        document = parse_yaml(text, origin, max_nodes=_MAX_NODES)
    except InvalidFile as error:
        raise InvalidContent(f"this is not an index of charts: {error}") from None
    entries = document.get("entries") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise InvalidContent(f"{origin} is not an index of charts: it has no entries")
    if not has_end and next(reversed(document)) == "entries":  # Helm writes when it was generated after them
        raise ListIncomplete(
            f"{origin} is not known to be whole: the answer does not say where it ends",
            hint="the repository, or a proxy before it, should send a Content-Length",
        )
    return {name: [_indexed_chart(entry) for entry in objects_field(entries, name)] for name in entries}


def _indexed_chart(entry: Mapping[str, Any]) -> IndexedChart:
    urls = entry.get("urls")
    texts = [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []
    return IndexedChart(text_field(entry, "version"), tuple(texts), text_field(entry, "digest").removeprefix("sha256:"))


def _unpack(content: bytes, origin: str) -> bytes:
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = unpack.decompress(content, MAX_INDEX)
    except zlib.error:
        raise InvalidFile(origin, "its gzip encoding is damaged") from None
    if not unpack.eof:
        raise InvalidFile(origin, f"it is cut off, or larger than {MAX_INDEX} bytes")
    return plain


def _nearest(versions: Mapping[str, object], wanted: str) -> list[str]:
    """The versions around ``wanted``, or the newest ones when ``wanted`` is not a version."""
    parsed = sorted((version, text) for text in versions if (version := Version.parse(text)))
    place = Version.parse(wanted)
    if place is None:
        return [text for _, text in parsed[-_NEAREST:][::-1]]
    before = [text for version, text in parsed if version < place][-2:]
    after = [text for version, text in parsed if version > place][: _NEAREST - len(before)]
    return before + after
