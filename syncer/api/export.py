"""The export of images out of a bundle, as files that other tools take: docker, podman, skopeo, containerd, k3s."""

from __future__ import annotations

import json
import os
import platform as machine
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from anyio import from_thread, to_thread
from msgspec import Struct, field

from syncer.api.bundles import Warn, open_checked
from syncer.bundle import Bundle, GivenName, Image, blob_name, shown, tar, write_index
from syncer.bundle.layout import INDEX, LAYOUT_CONTENT, OCI_LAYOUT
from syncer.errors import AlreadyThere, InvalidBundle, PlatformMissing, UsageError
from syncer.files import is_stream, make_directory, no_room, open_whole, room_for, sync_path, writing
from syncer.oci import Descriptor, Digest, Index, Manifest, Platform, Reference
from syncer.oci.manifest import AnyManifest, Descent
from syncer.oci.reference import subject_tag

_PIECE = 1024 * 1024  # bytes read at a time
_IMAGE_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


class ExportFormat(StrEnum):
    """The forms in which images leave a bundle, by the names of skopeo."""

    DOCKER_ARCHIVE = "docker-archive"
    OCI_ARCHIVE = "oci-archive"
    OCI_DIRECTORY = "oci-dir"


class ExportFile(Struct, frozen=True, kw_only=True):
    """The file or directory that is to be written."""

    path: Path
    format: ExportFormat
    force: bool = False  # a file that is there is replaced; a device or a pipe never is, and gets the content
    platform: Platform | None = None  # taken out of every index


class ExportResult(Struct, frozen=True, kw_only=True):
    """The outcome of an export; what goes wrong raises instead."""

    file: ExportFile
    images: tuple[Reference, ...]
    bytes: int  # of distinct content

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.file.path),
            "format": self.file.format.value,
            "images": [str(image) for image in self.images],
            "bytes": self.bytes,
        }


async def export(
    bundle: Path,
    file: ExportFile,
    *,
    images: Sequence[Reference] = (),
    given: GivenName | None = None,
    warn: Warn | None = None,
) -> ExportResult:
    """Write ``images`` of the bundle or archive at ``bundle``, or all that it has, as ``file``, whole or not at all.

    Charts, signatures and other referrers are left out unless they are named, since those who load such files know
    images only; ``warn`` is told.  Every byte is hashed on its way.  Raises ``AlreadyThere``, ``UsageError`` for a name
    that the bundle lacks, ``PlatformMissing``, ``TargetFull``, and as ``open_checked`` does for the bundle.
    """
    is_directory = file.format is ExportFormat.OCI_DIRECTORY
    if file.path.is_dir() and (not is_directory or any(file.path.iterdir())):
        raise AlreadyThere(f"{file.path} is a directory, and not an empty one", hint="choose another --output")
    may_be_there = is_stream(file.path) or file.force
    if file.path.exists() and not file.path.is_dir() and (is_directory or not may_be_there):
        hint = "choose another --output" if is_directory else "replace it with --force, or choose another --output"
        raise AlreadyThere(f"{file.path} is already there", hint=hint)
    async with open_checked(bundle, given, warn=warn) as opened:
        chosen = _choose(opened, images, file, warn or (lambda _: None))
        selection = _Selection(opened, chosen)
        docker = _docker_manifest(opened, chosen, file) if file.format is ExportFormat.DOCKER_ARCHIVE else None
        await to_thread.run_sync(_write, selection, file, docker)
        if opened.changed():
            raise InvalidBundle(
                f"{bundle} was changed while it was being read", hint="export again, from a file at rest"
            )
    return ExportResult(file=file, images=tuple(image.reference for image in chosen), bytes=selection.size)


def _choose(bundle: Bundle, wanted: Sequence[Reference], file: ExportFile, warn: Warn) -> list[Image]:
    """The images that are to be written, reduced to the platform if one is given."""
    known = {image.reference: image for image in bundle.images}
    if missing := [name for name in wanted if name not in known]:
        raise UsageError(f"{bundle.path} holds no {shown(missing)}", hint="syncer definition BUNDLE says what it holds")
    chosen = [known[name] for name in dict.fromkeys(wanted)] or [
        image for image in bundle.images if _is_image(bundle, image)
    ]
    if not chosen:
        raise UsageError(f"{bundle.path} holds no image", hint="charts and other artifacts are named by --image")
    if file.format is ExportFormat.DOCKER_ARCHIVE:
        chosen = [image for image in chosen if _is_image(bundle, image)]
        if others := [name for name in wanted if known[name] not in chosen]:
            raise UsageError(f"docker's archive holds images only, and no {shown(others)}")
    if left := len(bundle.images) - len(chosen) if not wanted else 0:
        warn(f"{bundle.path} holds {left} charts, signatures and other artifacts beside its images, not exported")
    if file.platform is None:
        return chosen
    roots = _each(chosen, lambda image: _for_platform(bundle, image.descriptor, file.platform))
    return [Image(image.reference, image.name, root) for image, root in zip(chosen, roots, strict=True)]


def _is_image(bundle: Bundle, image: Image) -> bool:
    root = _manifest(bundle, image.descriptor)
    if subject_tag(image.reference.tag or "") or root.subject:
        return False
    if isinstance(root, Index):
        return any(child.platform for child in root.manifests)
    return root.config.media_type in _IMAGE_CONFIGS


def _manifest(bundle: Bundle, descriptor: Descriptor) -> AnyManifest:
    return bundle.manifest_by_digest(descriptor.digest, descriptor.media_type)


def _each(images: Iterable[Image], find: Callable[[Image], Descriptor | None]) -> list[Descriptor]:
    """The manifest that ``find`` finds for each image; raises ``PlatformMissing``, which names those without one."""
    found = [(image, find(image)) for image in images]
    if lacking := [image.reference for image, root in found if root is None]:
        raise PlatformMissing(
            f"these have no such platform: {shown(lacking)}",
            hint="choose one that they have with --arch, or name others with --image",
        )
    return [root for _, root in found if root is not None]


def _for_platform(bundle: Bundle, root: Descriptor, wanted: Platform | None) -> Descriptor | None:
    """The manifest below ``root`` for a platform; without one the only one that there is, or this machine's."""
    manifest = _manifest(bundle, root)
    if isinstance(manifest, Manifest):
        return manifest.descriptor
    offered = [child for child in manifest.manifests if child.platform or child.is_index]
    if wanted is None and len(offered) == 1:
        return _for_platform(bundle, offered[0], None)
    name = machine.machine()
    own = wanted or Platform("linux", _MACHINES.get(name, name))
    for child in offered:
        if child.platform is not None and child.platform.satisfies(own):
            return _for_platform(bundle, child, own)
        if child.is_index and child.platform is None and (found := _for_platform(bundle, child, own)):
            return found
    return None


def _docker_manifest(bundle: Bundle, images: Sequence[Image], file: ExportFile) -> bytes:
    """Docker's ``manifest.json``, which knows one platform of each image."""
    roots = _each(images, lambda image: _for_platform(bundle, image.descriptor, file.platform))
    entries: dict[Digest, dict[str, Any]] = {}
    lacking: list[Reference] = []
    for image, root in zip(images, roots, strict=True):
        manifest = _manifest(bundle, root)
        assert isinstance(manifest, Manifest)
        if not all(map(bundle.brings, manifest.layers)):
            lacking.append(image.reference)
        entry = entries.setdefault(
            root.digest,
            {
                "Config": blob_name(manifest.config.digest),
                "RepoTags": [],
                "Layers": [blob_name(layer.digest) for layer in manifest.layers],
            },
        )
        if image.reference.tag:
            entry["RepoTags"].append(f"{image.reference.name}:{image.reference.tag}")
    if lacking:
        raise UsageError(
            f"docker's archive holds every layer, and the bundle lacks foreign ones of {shown(lacking)}",
            hint="build it with --include-foreign, or export an oci-archive",
        )
    return json.dumps(list(entries.values())).encode()


class _Selection(Struct):
    """The images that are written, and all below them once, in the order of the walk."""

    bundle: Bundle
    images: Sequence[Image]
    content: dict[Digest, int] = field(default_factory=dict)  # bytes

    def __post_init__(self) -> None:
        for image in self.images:
            self._add(image.descriptor)

    @property
    def size(self) -> int:
        return sum(self.content.values())

    def _add(self, root: Descriptor) -> None:
        descent = Descent(root, self.bundle.brings)
        self.content[root.digest] = root.size
        descent.enter(_manifest(self.bundle, root))
        for child, is_manifest in descent:
            if child.digest not in self.content and is_manifest:
                descent.enter(_manifest(self.bundle, child))
            self.content[child.digest] = child.size

    def small(self, docker: bytes | None) -> Mapping[str, bytes]:
        """The files beside the content."""
        files = {
            OCI_LAYOUT: LAYOUT_CONTENT,
            INDEX: write_index((image.reference, image.descriptor) for image in self.images),
        }
        return files if docker is None else files | {"manifest.json": docker}

    def pieces(self, digest: Digest) -> Iterator[memoryview]:
        """Content, hashed on its way; raises ``InvalidBundle`` when it is not what its digest names."""
        hasher = digest.hasher()
        buffer = memoryview(bytearray(min(_PIECE, self.content[digest])))
        done = 0
        while done < self.content[digest]:
            from_thread.check_cancelled()
            length = self.bundle.read_into(digest, buffer, done)
            hasher.update(buffer[:length])
            done += length
            yield buffer[:length]
        if not digest.matches(hasher):
            raise InvalidBundle(f"{self.bundle.path} is not sound: {digest} is not what its digest names")


def _write(selection: _Selection, file: ExportFile, docker: bytes | None) -> None:
    with writing(file.path):
        make_directory(file.path.absolute().parent)
        if file.format is ExportFormat.OCI_DIRECTORY:
            _write_directory(selection, file.path)
        else:
            _write_tar(selection, file.path, selection.small(docker))


def _write_tar(selection: _Selection, path: Path, small: Mapping[str, bytes]) -> None:
    with open_whole(path) as file:
        sizes = [len(content) for content in small.values()] + list(selection.content.values())
        _check_room(file.fileno(), path, sum(size + tar.UNIT + tar.padding(size) for size in sizes))
        for name, content in small.items():
            _write_all(file, tar.header(name, len(content)) + content + bytes(tar.padding(len(content))))
        for digest, size in selection.content.items():
            _write_all(file, tar.header(blob_name(digest), size))
            for piece in selection.pieces(digest):
                _write_all(file, piece)
            _write_all(file, bytes(tar.padding(size)))
        _write_all(file, tar.END)


def _write_directory(selection: _Selection, path: Path) -> None:
    with _new_directory(path) as made:
        directory = os.open(made, os.O_RDONLY)
        try:
            _check_room(directory, path, selection.size)
        finally:
            os.close(directory)
        for digest in selection.content:
            (made / blob_name(digest)).parent.mkdir(parents=True, exist_ok=True)
            with (made / blob_name(digest)).open("xb", buffering=0) as file:
                for piece in selection.pieces(digest):
                    _write_all(file, piece)
            sync_path(made / blob_name(digest))
        for name, content in selection.small(None).items():
            (made / name).write_bytes(content)
            sync_path(made / name)


@contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """A hidden directory beside ``path``, which becomes it when the block ends well."""
    made = path.parent / f".{path.name}.{os.urandom(6).hex()}.unfinished"
    made.mkdir()
    try:
        yield made
        made.rename(path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    sync_path(path.absolute().parent)


def _check_room(file: int, path: Path, size: int) -> None:
    room = room_for(file)
    if room is not None and size > room:
        raise no_room(path, size, room, hint="make room, or choose another --output")


def _write_all(file: Any, content: bytes | memoryview) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
