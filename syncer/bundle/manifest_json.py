"""Archives whose content ``manifest.json`` lists: those of `docker save` before version 25 and podman's, and imgpkg's.

An image layout is made of each.  Original blobs stay where they are in the archive; what is made goes into the spool.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct, field, structs
from msgspec.structs import replace

from syncer.bundle.compression import PIECE, SpoolFile, decoder_of, gzipped
from syncer.bundle.framing import File, PlainFraming, read_at
from syncer.bundle.layout import (
    INDEX,
    LAYOUT_CONTENT,
    MAX_INDEX_SIZE,
    OCI_LAYOUT,
    blob_name,
    check_values,
    named_entry,
    shown,
    write_entries,
)
from syncer.bundle.members import Contents, Found, Member, is_plain
from syncer.errors import InvalidContent, InvalidReference, VerificationError
from syncer.oci import Descriptor, Digest, Reference, parse_manifest
from syncer.oci.descriptor import DOCKER_MANIFEST, OCI_MANIFEST
from syncer.oci.manifest import MAX_MANIFEST_SIZE, load_json

MANIFEST = "manifest.json"

_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_LEGACY = re.compile(r"repositories|manifest\.json|[0-9a-f]{64}(/(json|VERSION|layer\.tar)|\.json)")
_UNTAGGED = "<none>:<none>"
_IMGPKG = {"Image", "ImageIndex"}
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_MAX_DEPTH = 8


def find_listed(found: Found, spool: SpoolFile) -> Contents | None:
    """The image layout that is made of an archive with a ``manifest.json``; None for any other archive.

    Raises ``ValueError`` and ``InvalidContent`` for one that does not hold what it lists, with all that is wrong.
    """
    member = found.resolve(MANIFEST)
    if member is None:
        return None
    if member.size > MAX_INDEX_SIZE:
        raise ValueError(f"its {MANIFEST} of {member.size} bytes is larger than {MAX_INDEX_SIZE}")
    content = found.read(member)
    check_values(_TEXTS.sub(b'""', content))  # imgpkg's has whole manifests as texts
    entries = load_json(content)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    if not entries:
        raise ValueError(f"its {MANIFEST} lists no image")
    making = _Making(found, spool)
    if all(entry.keys() <= _IMGPKG for entry in entries):
        _add_imgpkg(making, entries)
    elif all("Layers" in entry for entry in entries):
        _add_docker(making, entries)
    else:
        return None
    return making.contents()


class _Making(Struct):
    """An image layout that is being made, and all that is wrong with what it is made of."""

    found: Found
    spool: SpoolFile
    blobs: dict[Digest, Member] = field(default_factory=dict)
    entries: list[Descriptor] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    names: dict[Reference, Digest] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # the files of the archive that are content

    def add(self, content: bytes, media_type: str) -> Descriptor:
        """Add content that is in hand."""
        digest = Digest.of(content)
        if digest not in self.blobs:
            self.blobs[digest] = spooled(self.spool, blob_name(digest), content)
        return Descriptor(media_type, digest, len(content))

    def keep(self, member: Member, digest: Digest, media_type: str) -> Descriptor:
        """Add content that stays where it is."""
        self.used.add(member.name)
        self.blobs.setdefault(digest, structs.replace(member, name=blob_name(digest)))
        return Descriptor(media_type, digest, member.size)

    def name(self, reference: Reference | None, root: Descriptor) -> None:
        """Add an image, under a name if it has one; one name for two images is a problem."""
        if reference is not None and self.names.setdefault(reference, root.digest) != root.digest:
            self.problems.append(f"{reference} is the name of two images")
            return
        entry = named_entry(reference, root)
        if entry not in self.entries:
            self.entries.append(entry)

    def contents(self) -> Contents:
        """The layout; raises ``ValueError`` with all problems."""
        if self.problems:
            raise ValueError(shown(list(dict.fromkeys(self.problems)), separator="; "))
        made = Contents(PlainFraming(), self.found.file, notes=self.notes)
        made.add(spooled(self.spool, OCI_LAYOUT, LAYOUT_CONTENT))
        for member in self.blobs.values():
            made.add(member)
        made.add(spooled(self.spool, INDEX, write_entries(self.entries)))
        for name in self.found.files:
            if name not in self.used and not _LEGACY.fullmatch(name):
                if not is_plain(name):
                    raise ValueError(f"it holds {name[:160]!r}, which does not belong in an archive")
                made.extras.append(name)
        return made


def spooled(spool: SpoolFile, name: str, content: bytes) -> Member:
    """Make a member of content that is in hand."""
    start, size = spool.add([content])
    return Member(name, size, 0, start, spool.file)


class _DockerImage(Struct, frozen=True):
    """One entry of docker's ``manifest.json``, of which all files are there."""

    names: tuple[Reference, ...]
    config: bytes
    layers: tuple[Member, ...]
    diff_ids: tuple[Digest, ...]


def _add_docker(making: _Making, entries: Sequence[dict[str, Any]]) -> None:
    """Add the images of `docker save`: everything cheap is looked at before a layer is packed."""
    images = [image for entry in entries if (image := _docker_image(making, entry))]
    taken: dict[Reference, bytes] = {}
    for image in images:
        for name in image.names:
            if taken.setdefault(name, image.config) != image.config:
                making.problems.append(f"{name} is the name of two images")
    if making.problems:
        return
    packing = _Packing(making)
    for image in images:
        try:
            layers = [packing.layer(*layer) for layer in zip(image.layers, image.diff_ids, strict=True)]
        except ValueError as error:
            making.problems.append(str(error))
            continue
        is_oci = any(layer.media_type != _DOCKER_LAYER for layer in layers)
        config = making.add(image.config, _OCI_CONFIG if is_oci else _DOCKER_CONFIG)
        media_type = OCI_MANIFEST if is_oci else DOCKER_MANIFEST
        if is_oci:
            layers = [replace(layer, media_type=_oci_layer(layer)) for layer in layers]
        document = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        root = making.add(json.dumps(document, indent=3).encode(), media_type)
        for reference in image.names or (None,):
            making.name(reference, root)
    again = "one layer was" if packing.packed == 1 else f"{packing.packed} layers were"
    packed = f", and {again} compressed again" if packing.packed else ""
    making.notes.append(f"it is docker's archive, which keeps no manifests: the digests of its images are new{packed}")


def _oci_layer(layer: Descriptor) -> str:
    return f"{_OCI_LAYER}+gzip" if layer.media_type == _DOCKER_LAYER else layer.media_type


def _docker_image(making: _Making, entry: dict[str, Any]) -> _DockerImage | None:
    """The image that ``entry`` tells of; None where something is wrong, which is then among the problems."""
    before = len(making.problems)
    names = tuple(_docker_names(making, entry.get("RepoTags")))
    title = str(names[0]) if names else "the image without a name"
    config = _file(making, entry.get("Config"), title)
    paths = entry.get("Layers")
    layers = [_file(making, path, title) for path in (paths if isinstance(paths, list) else [None])]
    content, diff_ids = _config(making, config, title) if config else (b"", ())
    if len(making.problems) == before and len(diff_ids) != len(layers):
        making.problems.append(f"the config of {title} tells of {len(diff_ids)} layers, and there are {len(layers)}")
    if len(making.problems) > before:
        return None
    return _DockerImage(names, content, tuple(filter(None, layers)), diff_ids)


def _docker_names(making: _Making, tags: Any) -> Iterator[Reference]:
    if tags is not None and not isinstance(tags, list):
        making.problems.append(f"RepoTags is no list in its {MANIFEST}")
        return
    for tag in tags or ():
        repository, colon, last = str(tag).rpartition(":")
        if tag == _UNTAGGED:
            continue
        if not (repository and colon and last) or "/" in last:
            making.problems.append(f"its {MANIFEST} names an image {str(tag)[:160]!r}, which is no REPOSITORY:TAG")
            continue
        try:
            yield Reference.parse(str(tag))
        except InvalidReference as error:
            making.problems.append(str(error))


def _file(making: _Making, path: Any, title: str) -> Member | None:
    """The file at ``path``; it may be a link to one, as docker saved a layer of several images."""
    member = making.found.resolve(posixpath.normpath(path)) if isinstance(path, str) else None
    if member is None:
        making.problems.append(f"it lacks {str(path)[:160]!r} of {title}")
    return member


def _config(making: _Making, member: Member, title: str) -> tuple[bytes, tuple[Digest, ...]]:
    """The config of an image, and the digests of its layers when they are not compressed."""
    if member.size > MAX_MANIFEST_SIZE:
        making.problems.append(f"the config of {title} has {member.size} bytes, more than {MAX_MANIFEST_SIZE}")
        return b"", ()
    making.used.add(member.name)
    content = making.found.read(member)
    try:
        check_values(content)
        document = load_json(content)
        rootfs = document.get("rootfs") if isinstance(document, dict) else None
        diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        listed = diff_ids if isinstance(diff_ids, list) else []
        return content, tuple(Digest.parse(str(digest)) for digest in listed)
    except InvalidContent as error:
        making.problems.append(f"the config of {title} is not usable: {error}")
        return content, ()


class _Packing(Struct):
    """The layers of docker's archive, each of which is read once."""

    making: _Making
    packed: int = 0
    _known: dict[str, tuple[Digest | None, Descriptor]] = field(default_factory=dict)  # by their files
    _by_diff_id: dict[Digest, Descriptor] = field(default_factory=dict)

    def layer(self, member: Member, diff_id: Digest) -> Descriptor:
        """The layer in ``member``, as it is if it is compressed; raises ``ValueError`` when it is not ``diff_id``."""
        self.making.used.add(member.name)
        if diff_id in self._by_diff_id:
            return self._by_diff_id[diff_id]
        if member.name not in self._known:
            self._known[member.name] = self._read(member, diff_id)
        found, layer = self._known[member.name]
        if found is not None and found != diff_id:
            raise ValueError(f"{member.name} is not the layer {diff_id.short} that the config of its image tells of")
        if found is not None:
            self._by_diff_id[diff_id] = layer
        return layer

    def _read(self, member: Member, diff_id: Digest) -> tuple[Digest | None, Descriptor]:
        """The layer, and its digest before it was compressed where that is known."""
        with member.opened() as file:
            start = _pread(file, member, 0, 16)
        if (found := decoder_of(start)) is None:
            return self._pack(member, diff_id)
        compression, _ = found
        if compression not in ("gzip", "zstd"):
            raise ValueError(f"{member.name} is a layer that is compressed by {compression}, which no registry takes")
        hasher = hashlib.sha256()
        for piece in self._pieces(member):
            hasher.update(piece)
        media_type = _DOCKER_LAYER if compression == "gzip" else f"{_OCI_LAYER}+zstd"
        return None, self.making.keep(member, Digest("sha256", hasher.hexdigest()), media_type)

    def _pack(self, member: Member, diff_id: Digest) -> tuple[Digest, Descriptor]:
        plain, packed = diff_id.hasher(), hashlib.sha256()
        spool = self.making.spool

        def read() -> Iterator[bytes]:
            for piece in self._pieces(member):
                plain.update(piece)
                yield piece

        def written() -> Iterator[bytes]:
            for piece in gzipped(read()):
                packed.update(piece)
                yield piece

        begun = spool.size
        spool.need(begun + member.size // 2)  # about what a file system shrinks to; the disk tells of the rest
        start, size = spool.add(written())
        self.packed += 1
        digest = Digest("sha256", packed.hexdigest())
        made = Member(blob_name(digest), size, 0, start, spool.file)
        self.making.blobs.setdefault(digest, made)
        return Digest(diff_id.algorithm, plain.hexdigest()), Descriptor(_DOCKER_LAYER, digest, size)

    def _pieces(self, member: Member) -> Iterator[bytes]:
        with member.opened() as file:
            for offset in range(0, member.size, PIECE):
                self.making.spool.checkpoint()
                yield _pread(file, member, offset, PIECE)


def _pread(file: File, member: Member, offset: int, length: int) -> bytes:
    wanted = min(length, member.size - offset)
    content = read_at(file, wanted, member.start + member.header + offset)
    if len(content) != wanted:
        raise ValueError("it is cut short")
    return content


def _add_imgpkg(making: _Making, entries: Sequence[dict[str, Any]]) -> None:
    """Add the images of imgpkg: it keeps manifests and configs as texts, and layers as they are (imgpkg, imagedesc)."""
    for entry in entries:
        image = entry.get("ImageIndex") or entry.get("Image") or {}
        try:
            root = _imgpkg_manifest(making, image, 0)
            making.name(_imgpkg_name(image, root), root)
        except (VerificationError, InvalidReference) as error:
            making.problems.append(str(error))


def _imgpkg_name(image: dict[str, Any], root: Descriptor) -> Reference | None:
    """The repository that it was copied from, with the tag that was asked for, or else its digest."""
    refs = image.get("Refs")
    if not isinstance(refs, list) or not refs:
        return None
    reference = Reference.parse(str(refs[0]))
    tag = image.get("Tag")
    return reference.tagged(tag) if isinstance(tag, str) and tag else reference.at(root.digest)


def _imgpkg_manifest(making: _Making, image: Any, depth: int) -> Descriptor:
    """Add a manifest or an index with all below it."""
    if not isinstance(image, dict) or depth > _MAX_DEPTH:
        raise InvalidContent(f"an entry of its {MANIFEST} is no image of imgpkg's")
    is_index = "Manifest" not in image
    root = image if is_index else image["Manifest"]
    content = _raw(root)
    media_type = root.get("MediaType")
    known = media_type if isinstance(media_type, str) and media_type else None
    manifest = parse_manifest(content, known, expected=Digest.parse(str(root.get("Digest"))))
    if is_index:
        for child in (*_list(image, "Indexes"), *_list(image, "Images")):
            _imgpkg_manifest(making, child, depth + 1)
    else:
        config = _raw(image.get("Config"))
        making.add(config, "")
        for layer in manifest.children():
            name = f"{layer.digest.algorithm}-{layer.digest.hex}.tar.gz"
            if (member := making.found.files.get(name)) is not None:
                making.keep(member, layer.digest, layer.media_type)
    return making.add(content, manifest.descriptor.media_type)


def _list(image: dict[str, Any], key: str) -> list[Any]:
    found = image.get(key)
    return found if isinstance(found, list) else []


def _raw(document: Any) -> bytes:
    raw = document.get("Raw") if isinstance(document, dict) else None
    if not isinstance(raw, str):
        raise InvalidContent(f"an entry of its {MANIFEST} is no image of imgpkg's")
    return raw.encode()
