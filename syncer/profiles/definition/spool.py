"""The spool: content that is made or fetched whole before a transfer, because no descriptor tells its size."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from syncer.content import Blob, FileBlob, Pieces
from syncer.errors import NotFound, TargetError
from syncer.oci import Descriptor, Digest, Manifest, Reference
from syncer.oci.manifest import AnyManifest

_PIECE = 1024 * 1024  # bytes read at a time


@contextmanager
def open_spool(parent: Path | None = None) -> Iterator[Spool]:
    """Open a spool in a new directory below ``parent``, or below the directory of temporary files.

    The directory is removed at the end of the block.  Raises ``TargetError`` when it cannot be made.
    """
    try:
        directory = tempfile.TemporaryDirectory(prefix="syncer-spool-", dir=parent)
    except OSError as error:
        raise TargetError(f"no temporary directory can be made: {error.strerror or error}") from None
    with directory as name:
        yield Spool(Path(name))


class Spool:
    """A source of artifacts: archives are files in ``directory``, small content is in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[Digest, Path] = {}
        self._small: dict[Digest, bytes] = {}
        self._manifests: dict[Digest, Manifest] = {}
        self._names: dict[Reference, Digest] = {}

    def add_bytes(self, content: bytes, media_type: str) -> Descriptor:
        """Keep small content in memory; returns its descriptor."""
        digest = Digest.of(content)
        self._small[digest] = content
        return Descriptor(media_type, digest, len(content))

    def add_file(self, path: Path, descriptor: Descriptor) -> None:
        """Move the file at ``path``, whose content ``descriptor`` names, into the spool."""
        place = self.directory / f"{descriptor.digest.algorithm}-{descriptor.digest.hex}"
        path.replace(place)
        self._files[descriptor.digest] = place

    def add_artifact(self, name: Reference, manifest: Manifest) -> Reference:
        """Add an artifact called ``name``, whose config and layers were added; returns the name with its digest."""
        self._manifests[manifest.descriptor.digest] = manifest
        self._names[name] = manifest.descriptor.digest
        return Reference(name.registry, name.repository, name.tag, manifest.descriptor.digest)

    def __contains__(self, reference: object) -> bool:
        """Tell whether ``reference`` names an artifact of this spool."""
        return isinstance(reference, Reference) and self._find(reference) is not None

    async def resolve(self, reference: Reference) -> Descriptor:
        return self._manifest(reference).descriptor

    async def manifest(self, reference: Reference) -> AnyManifest:
        return self._manifest(reference)

    def has(self, digest: Digest) -> bool:
        """Tell whether the spool has the blob that ``digest`` names."""
        return digest in self._small or digest in self._files

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        if descriptor.digest in self._small:
            return _SmallBlob(descriptor, self._small[descriptor.digest])
        if descriptor.digest in self._files:
            return _SpooledFile(descriptor, self._files[descriptor.digest])
        raise NotFound(f"{descriptor.digest.short} of {reference}", 404, ["it was not fetched"])

    def _find(self, reference: Reference) -> Manifest | None:
        if not self._manifests:
            return None
        digest = reference.digest
        if digest is None:
            digest = self._names.get(reference)
        return self._manifests.get(digest) if digest else None

    def _manifest(self, reference: Reference) -> Manifest:
        manifest = self._find(reference)
        if manifest is None:
            raise NotFound(str(reference), 404, ["it was not fetched"])
        return manifest


@dataclass(frozen=True, slots=True)
class _SmallBlob(FileBlob):
    descriptor: Descriptor
    content: bytes

    def read_into(self, buffer: memoryview, offset: int) -> int:
        piece = self.content[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        async def pieces() -> Pieces:
            yield self.content[offset:]

        yield pieces()


@dataclass(frozen=True, slots=True)
class _SpooledFile(FileBlob):
    descriptor: Descriptor
    path: Path

    def read_into(self, buffer: memoryview, offset: int) -> int:
        with self.path.open("rb", buffering=0) as file:
            file.seek(offset)
            done = 0
            while done < len(buffer) and (count := file.readinto(buffer[done:])):
                done += count
            return done

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        async def pieces() -> Pieces:
            buffer = memoryview(bytearray(_PIECE))
            place = offset
            while count := await to_thread.run_sync(self.read_into, buffer, place):
                place += count
                yield buffer[:count]

        yield pieces()
