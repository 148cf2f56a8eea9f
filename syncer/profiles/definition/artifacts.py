"""Making artifacts of charts, files, packs and definitions: the same content always gives the same manifest.

And the spool, in which they lie whole before a transfer, because no descriptor tells their size.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
from anyio import to_thread

from syncer.content import Blob, FileBlob, Pieces
from syncer.errors import InvalidContent, NotFound, TargetError
from syncer.naming import PACKS, PACKS_HOST, REPOSITORY
from syncer.oci import Descriptor, Digest, Index, Manifest, Reference, parse_manifest
from syncer.oci.descriptor import OCI_MANIFEST
from syncer.oci.manifest import AnyManifest

CHART_CONFIG = "application/vnd.cncf.helm.config.v1+json"
CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
FILE = "application/vnd.syncer.file.v1"
"""The artifact type of a file."""

DEFINITION = "application/vnd.syncer.bundle-definition.v1+yaml"
"""The artifact type of a bundle's definition, and the media type of its first layer."""

CONTENTS = "application/vnd.syncer.bundle-contents.v1+json"
"""The media type of the layer that lists the content of the images in a definition (``transfer.memory.Contents``)."""


TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
EMPTY_CONFIG = b"{}"
EMPTY = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(EMPTY_CONFIG), len(EMPTY_CONFIG))
"""The config of an artifact without a config (image-spec, "Guidance for an empty descriptor")."""

_IMAGES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")  # of configs
_NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})
_NOT_IN_COMPONENT = re.compile(r"[^a-z0-9._-]+")
_SEPARATORS = re.compile(r"[._-]*[.][._-]*|_{3,}|[_-]*-[_-]*_[_-]*|_+-[_-]*")


def artifact_manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    *,
    artifact_type: str | None = None,
    annotations: Mapping[str, str] = _NO_ANNOTATIONS,
) -> Manifest:
    """Make a manifest without times, with its keys in the order of image-spec and its annotations sorted."""
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
    if artifact_type:
        document["artifactType"] = artifact_type
    document["config"] = config.to_json()
    document["layers"] = [layer.to_json() for layer in layers]
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    manifest = parse_manifest(orjson.dumps(document), OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    return manifest


def definition_artifact(content: bytes, contents: bytes = b"") -> tuple[Manifest, Mapping[Digest, bytes]]:
    """Make an artifact of a definition, the bytes of its YAML; returns the manifest, and its blobs by digest.

    ``contents`` lists what the images consist of, and is a second layer, unless it is empty.
    """
    parts = {DEFINITION: ("bundle-definition.yaml", content)}
    if contents:
        parts[CONTENTS] = ("bundle-contents.json", contents)
    layers = [
        Descriptor(media_type, Digest.of(part), len(part), annotations={TITLE: title})
        for media_type, (title, part) in parts.items()
    ]
    manifest = artifact_manifest(EMPTY, layers, artifact_type=DEFINITION)
    blobs = {layer.digest: part for layer, (_, part) in zip(layers, parts.values(), strict=True)}
    return manifest, {EMPTY.digest: EMPTY_CONFIG, **blobs}


def definition_layer(manifest: AnyManifest, name: Reference) -> Descriptor:
    """The layer with the YAML of a definition.

    Raises ``InvalidContent`` when ``manifest``, which is called ``name``, is not a definition's.
    """
    layers = manifest.layers if isinstance(manifest, Manifest) else ()
    found = [layer for layer in layers if layer.media_type == DEFINITION]
    if len(found) != 1:
        what = "an image" if isinstance(manifest, Index) or manifest.artifact_type in _IMAGES else "an artifact"
        raise InvalidContent(
            f"{name} is {what}, not a bundle definition",
            hint=f"definitions of bundles are named …/{REPOSITORY}:NAME; syncer list lists them",
        )
    return found[0]


def contents_layer(manifest: AnyManifest) -> Descriptor | None:
    """The layer that lists what the images of a definition consist of; None where a push left no such list."""
    layers = manifest.layers if isinstance(manifest, Manifest) else ()
    return next((layer for layer in layers if layer.media_type == CONTENTS), None)


def repository_of(*parts: str) -> str:
    """Join ``parts`` of a URL or a name into one repository name: lower case, with dashes for other characters."""
    components = [component for part in parts for component in part.split("/")]
    return "/".join(filter(None, map(_component, components)))


def tag_of(version: str) -> str:
    """The tag for ``version``; build metadata follows an underscore, as in Helm (``1.0.0_build.5``)."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", version.replace("+", "_")).lstrip(".-")[:128] or "latest"


def pack_reference(name: str, version: str) -> Reference:
    """The name of a pack in a bundle."""
    return Reference.parse(f"{PACKS_HOST}/{PACKS}/archive/{repository_of(name)}:{tag_of(version)}")


def _component(text: str) -> str:
    """Turn ``text`` into one component of a repository name (distribution-spec, "Pulling manifests")."""
    plain = _NOT_IN_COMPONENT.sub("-", text.lower())
    return _SEPARATORS.sub(_one_separator, plain).strip("._-")


def _one_separator(match: re.Match[str]) -> str:
    return "." if "." in match[0] else "-"


_PIECE = 1024 * 1024  # bytes read at a time


@contextmanager
def open_spool(parent: Path | None = None) -> Iterator[Spool]:
    """Open a spool in a new directory below ``parent``, or below the directory of temporary files.

    The directory is made when it is first needed, which is not for small content, and removed at the end of the block.
    """
    with ExitStack() as stack:

        def make() -> Path:
            try:
                directory = tempfile.TemporaryDirectory(prefix="syncer-spool-", dir=parent)
            except OSError as error:
                raise TargetError(f"no temporary directory can be made: {error.strerror or error}") from None
            return Path(stack.enter_context(directory))

        yield Spool(make)


class Spool:
    """A source of artifacts: archives are files in ``directory``, small content is in memory."""

    def __init__(self, directory: Path | Callable[[], Path]) -> None:
        self._directory = directory
        self._making = threading.Lock()
        self._files: dict[Digest, Path] = {}
        self._small: dict[Digest, bytes] = {}
        self._manifests: dict[Digest, Manifest] = {}
        self._names: dict[Reference, Digest] = {}

    @property
    def directory(self) -> Path:
        """The directory for files of the spool; raises ``TargetError`` when it cannot be made."""
        with self._making:
            if not isinstance(self._directory, Path):
                self._directory = self._directory()
            return self._directory

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


@dataclass(slots=True, eq=False, repr=False)
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


@dataclass(slots=True, eq=False, repr=False)
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
