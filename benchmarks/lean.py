"""The leanest client: threads and blocking sockets.  What it costs is the floor of a machine.

It knows what to send or fetch without asking.  What it fetches it hashes and writes into one file, as a build that
may be trusted must; what it sends it does not hash, since the registry does.  Each distinct blob goes over the wire
once, on a push from the source registry's own directories, and on a sync from one connection to the other.  A push of
what is there asks for each image once, and such a sync once at both ends.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from benchmarks.corpus import Corpus, Image
from syncer.oci.descriptor import OCI_MANIFEST

_THREADS = 32  # what a long link needs; on loopback 8 are as good
_FEW_THREADS = 8
_NEAR = 0.02  # seconds for an answer, connection included
_BUFFER = 1024 * 1024

Job = TypeVar("Job")
Result = TypeVar("Result")


class LeanFailed(Exception):
    """The registry did not answer as expected."""


class LeanClient(threading.local):
    """One kept connection to a registry for each thread that uses it, until ``closes`` does."""

    def __init__(self, address: str, authority: Path | None, closes: ExitStack) -> None:
        self._connection = (
            http.client.HTTPSConnection(address, context=ssl.create_default_context(cafile=authority))
            if authority
            else http.client.HTTPConnection(address)
        )
        closes.callback(self._connection.close)
        self._buffer = memoryview(bytearray(_BUFFER))

    def push_blob(self, corpus: Corpus, repository: str, digest: str) -> None:
        size = corpus.blobs[digest]
        self._begin_put(repository, digest, size)
        with corpus.store.blob(digest).open("rb", buffering=0) as file:
            self._send(file, size)
        self._finish(201)

    def mount_blob(self, repository: str, digest: str, origin: str) -> None:
        self._request("POST", f"/v2/{repository}/blobs/uploads/?mount={digest}&from={origin}", 201)

    def push_manifest(self, corpus: Corpus, repository: str, digest: str, tag: str, media_type: str) -> None:
        content = corpus.store.blob(digest).read_bytes()
        self._request("PUT", f"/v2/{repository}/manifests/{tag}", 201, content, {"Content-Type": media_type})

    def pull(self, path: str, headers: dict[str, str], digest: str, into: Pile) -> None:
        """Fetch what ``digest`` names, by way of a buffer that is used again and again."""
        with self.reading(path, headers) as (size, response):
            offset, hasher = into.room(size), hashlib.sha256()
            while count := response.readinto(self._buffer):
                hasher.update(self._buffer[:count])
                os.pwrite(into.file, self._buffer[:count], offset)
                offset += count
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise LeanFailed(f"GET {path}: not what {digest} names")

    def digest_of(self, repository: str, reference: str, media_type: str) -> str | None:
        """What the registry says that a manifest's digest is; None when it has none of that name."""
        self._connection.request("HEAD", f"/v2/{repository}/manifests/{reference}", headers={"Accept": media_type})
        response = self._connection.getresponse()
        response.read()
        return response.headers.get("Docker-Content-Digest") if response.status == 200 else None

    def relay_blob(self, source: LeanClient, repository: str, digest: str) -> None:
        """Send what comes from ``source``, as it comes."""
        with source.reading(f"/v2/{repository}/blobs/{digest}", {}) as (size, response):
            self._begin_put(repository, digest, size)
            while count := response.readinto(self._buffer):
                self._connection.send(self._buffer[:count])
        self._finish(201)

    def relay_manifest(self, source: LeanClient, repository: str, digest: str, tag: str, media_type: str) -> None:
        with source.reading(f"/v2/{repository}/manifests/{digest}", {"Accept": media_type}) as (_, response):
            content = response.read()
        self._request("PUT", f"/v2/{repository}/manifests/{tag}", 201, content, {"Content-Type": media_type})

    @contextmanager
    def reading(self, path: str, headers: dict[str, str]) -> Iterator[tuple[int, http.client.HTTPResponse]]:
        """The length of an answer, and the answer, to be read to its end in the block."""
        self._connection.request("GET", path, headers=headers)
        response = self._connection.getresponse()
        if response.status != 200 or response.length is None:
            raise LeanFailed(f"GET {path}: {response.status}")
        yield response.length, response

    def _begin_put(self, repository: str, digest: str, size: int) -> None:
        location = self._open_upload(f"/v2/{repository}/blobs/uploads/")
        url = urlsplit(location)
        query = f"{url.query}&digest={digest}" if url.query else f"digest={digest}"
        self._connection.putrequest("PUT", f"{url.path}?{query}")
        self._connection.putheader("Content-Type", "application/octet-stream")
        self._connection.putheader("Content-Length", str(size))
        self._connection.endheaders()

    def _send(self, file: io.FileIO, size: int) -> None:
        connection = self._connection.sock
        if isinstance(connection, ssl.SSLSocket):  # the kernel cannot encrypt what it sends by itself
            while read := file.readinto(self._buffer):
                connection.sendall(self._buffer[:read])
            return
        sent = 0
        while sent < size:
            sent += os.sendfile(connection.fileno(), file.fileno(), sent, size - sent)

    def _open_upload(self, path: str) -> str:
        return self._request("POST", path, 202)["Location"]

    def _request(
        self, method: str, path: str, status: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> http.client.HTTPMessage:
        self._connection.request(method, path, content, headers or {})
        return self._finish(status)

    def _finish(self, status: int) -> http.client.HTTPMessage:
        response = self._connection.getresponse()
        said = response.read()
        if response.status != status:
            raise LeanFailed(f"{response.status} where {status} was expected: {said[:500]!r}")
        return response.headers


class Pile:
    """A file that several threads fill, each where it has room."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._end = 0
        self._lock = threading.Lock()

    def room(self, size: int) -> int:
        """Where the next ``size`` bytes go."""
        with self._lock:
            offset, self._end = self._end, self._end + size
        return offset


@contextmanager
def _connect(address: str, authority: Path | None) -> Iterator[LeanClient]:
    with ExitStack() as closes:
        yield LeanClient(address, authority, closes)


def push(corpus: Corpus, address: str, authority: Path | None = None) -> None:
    """Everything into an empty registry: blobs, largest first, then mounts, manifests, indexes and tags."""
    first = _first_places(corpus)
    with _connect(address, authority) as client:
        _each(lambda item: client.push_blob(corpus, item[1], item[0]), _by_size(corpus, first))
        _each(lambda item: client.mount_blob(item[0], item[1], first[item[1]]), _mounts(corpus, first))
        _each(lambda image: _push_manifests(client, corpus, image), corpus.images)


def relay(corpus: Corpus, address: str, target: str, authority: Path | None = None) -> None:
    """Everything from the registry at ``address`` into the empty one at ``target``, in the order of ``push``."""
    first = _first_places(corpus)

    def relay_manifests(image: Image) -> None:
        for manifest in _manifests(image):
            client.relay_manifest(source, image.repository, *manifest)

    with _connect(address, authority) as source, _connect(target, authority) as client:
        _each(lambda item: client.relay_blob(source, item[1], item[0]), _by_size(corpus, first))
        _each(lambda item: client.mount_blob(item[0], item[1], first[item[1]]), _mounts(corpus, first))
        _each(relay_manifests, corpus.images)


def pull(corpus: Corpus, address: str, into: Path, authority: Path | None = None) -> None:
    """Every manifest and every distinct blob, once."""
    first = _first_places(corpus)
    manifests = {
        f"/v2/{image.repository}/manifests/{reference}": ({"Accept": media_type}, digest)
        for image in corpus.images
        for digest, reference, media_type in _manifests(image)
    }
    with _connect(address, authority) as client, into.open("wb", buffering=0) as file:
        pile = Pile(file.fileno())
        _each(lambda item: client.pull(item[0], *item[1], pile), manifests.items())
        _each(lambda item: client.pull(f"/v2/{item[1]}/blobs/{item[0]}", {}, item[0], pile), _by_size(corpus, first))


def ask(corpus: Corpus, address: str, authority: Path | None = None) -> None:
    """For each image once, whether it is there."""
    lacking = missing(((image.repository, image.tag, image) for image in corpus.images), address, authority)
    if lacking:
        raise LeanFailed(f"not there: {lacking[0]}")


def missing(expected: Iterable[tuple[str, str, Image]], address: str, authority: Path | None = None) -> list[str]:
    """Which of (repository, tag or digest, image) do not have the image's digest at the registry."""

    def check(item: tuple[str, str, Image]) -> str | None:
        repository, reference, image = item
        found = client.digest_of(repository, reference, image.media_type)
        return None if found == image.digest else f"{repository} {reference}: {found}"

    first, *rest = expected
    with _connect(address, authority) as client:
        began = time.monotonic()
        problems = [check(first)]
        threads = _FEW_THREADS if time.monotonic() - began < _NEAR else _THREADS
        return [problem for problem in (*problems, *_each(check, rest, threads)) if problem]


def _first_places(corpus: Corpus) -> dict[str, str]:
    """The repository that has each blob first, by the blob's digest."""
    first: dict[str, str] = {}
    for repository, digest in corpus.places:
        first.setdefault(digest, repository)
    return first


def _mounts(corpus: Corpus, first: Mapping[str, str]) -> list[tuple[str, str]]:
    """The other repositories that have a blob, each with its digest."""
    return [(repository, digest) for repository, digest in corpus.places if first[digest] != repository]


def _by_size(corpus: Corpus, first: Mapping[str, str]) -> list[tuple[str, str]]:
    """The blobs with their repositories, the largest first."""
    return sorted(first.items(), key=lambda item: -corpus.blobs[item[0]])


def _push_manifests(client: LeanClient, corpus: Corpus, image: Image) -> None:
    for manifest in _manifests(image):
        client.push_manifest(corpus, image.repository, *manifest)


def _manifests(image: Image) -> Iterator[tuple[str, str, str]]:
    """The digest, the tag (or digest) and the media type of each manifest, the image's own one last."""
    for child in image.manifests:
        yield child, child, OCI_MANIFEST
    yield image.digest, image.tag, image.media_type


def _each(work: Callable[[Job], Result], jobs: Iterable[Job], threads: int = _THREADS) -> list[Result]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, jobs))


if __name__ == "__main__" and sys.argv[1:]:  # without arguments it only starts, which is timed too
    verb, directory, *where = sys.argv[1:]
    corpus = Corpus.load(Path(directory))
    match verb, where:
        case "pull", (address, into, *authority):
            pull(corpus, address, Path(into), *map(Path, authority))
        case "relay", (address, target, *authority):
            relay(corpus, address, target, *map(Path, authority))
        case "ask both", (address, target, *authority):
            for place in (address, target):
                ask(corpus, place, *map(Path, authority))
        case _, (address, *authority):
            {"push": push, "ask": ask}[verb](corpus, address, *map(Path, authority))
