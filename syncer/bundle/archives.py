"""The kinds of archives, and of directories, that can be opened: the one place that tells one from another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from syncer.bundle import tar, zstd
from syncer.bundle.compression import SpoolFile, Streams, decoder_of
from syncer.bundle.framing import File, read_at
from syncer.bundle.layout import (
    CONTAINERD_NAME,
    DEFINITION,
    INDEX,
    LAYOUT_CONTENT,
    OCI_LAYOUT,
    blob_name,
    check_values,
    shown,
)
from syncer.bundle.manifest_json import MANIFEST, find_listed, spooled
from syncer.bundle.members import Contents, Found, TarWalk, find_layout, scan_directory, scan_zstd
from syncer.oci import Descriptor, Digest, Index, parse_manifest
from syncer.oci.manifest import MAX_MANIFEST_SIZE, AnyManifest, load_object, reduce_index

_CUT_SHORT = "cut short"
_CHART = re.compile(r"[^/]+/Chart\.yaml")
_PACK = re.compile(r"([^/]+/)?pack\.json")
_HINT = "syncer takes what docker, podman, skopeo, crane, oras, hauler and imgpkg save (docs/bundle.md)"


def is_bundle(file: File) -> bool:
    """Tell whether a file begins as those that syncer writes, byte for byte."""
    start = read_at(file, tar.UNIT, 0)
    if zstd.is_zstd(start):
        return zstd.is_stored(start) or zstd.is_packed(start)
    return start.startswith(tar.header(OCI_LAYOUT, len(LAYOUT_CONTENT)))


def find_contents(file: File, size: int, spool: SpoolFile, directory: Path | None = None) -> Contents:
    """The contents of a file of ``size`` bytes, or of the ``directory`` that it is, whatever wrote it.

    What cannot be read in place is unpacked into ``spool``.  Raises ``ValueError`` and ``InvalidContent`` for what is
    not whole, or no archive of images.
    """
    if directory is not None:
        found = scan_directory(directory)
    else:
        start = read_at(file, tar.UNIT, 0)
        if zstd.is_zstd(start) and is_bundle(file):
            return scan_zstd(file, size)
        found = _scan(file, size, start, spool)
    contents = find_layout(found)
    if contents and MANIFEST in found.files and DEFINITION not in contents.members and not contents.is_haul:
        _keep_what_is_there(contents, spool)
    contents = contents or find_listed(found, spool)
    if contents is None:
        raise ValueError(_guess_by_names(found.files))
    return contents


def _keep_what_is_there(contents: Contents, spool: SpoolFile) -> None:
    """Reduce the images of an archive of docker's or containerd's to the platforms that it has.

    They save what they pulled, which often is one platform, below the index of all (containerd, images/archive,
    WithSkipMissing).
    """
    index = contents.members.get(INDEX)
    if index is None:
        return
    check_values(content := contents.read(index))
    document = load_object(content)
    entries = document.get("manifests")
    left: list[str] = []
    for entry in entries if isinstance(entries, list) else []:
        root = Descriptor.from_json(entry)
        reduced = _reduced(contents, root, spool) if root.is_index else None
        if reduced is not None:
            entry |= {"mediaType": reduced.media_type, "digest": str(reduced.digest), "size": reduced.size}
            left.append(root.annotations.get(CONTAINERD_NAME) or root.digest.short)
    if left:
        contents.members[INDEX] = spooled(spool, INDEX, json.dumps(document).encode())
        contents.notes.append(f"it holds not every platform of {shown(left)}: those that it holds are taken")


def _reduced(contents: Contents, root: Descriptor, spool: SpoolFile) -> Descriptor | None:
    """The only platform that is there of an index, or an index of those that are; None if all are, or none."""

    def find(digest: Digest) -> AnyManifest | None:
        member = contents.members.get(blob_name(digest))
        if member is None or member.size > MAX_MANIFEST_SIZE:
            return None
        check_values(content := contents.read(member))
        return parse_manifest(content, expected=digest)

    def is_there(digest: Digest) -> bool:
        manifest = find(digest)
        return manifest is not None and all(map(has, manifest.children()))

    def has(child: Descriptor) -> bool:
        return blob_name(child.digest) in contents.members

    index = find(root.digest)
    if not isinstance(index, Index) or all(map(has, index.manifests)):
        return None
    kept = [child for child in index.manifests if child.platform and is_there(child.digest)]
    if len(kept) < 2:
        return kept[0] if kept else None
    smaller = reduce_index(index, kept, is_there)
    member = spooled(spool, blob_name(smaller.descriptor.digest), smaller.content)
    contents.members.setdefault(member.name, member)
    return smaller.descriptor


_EMPTY = "it is empty"
_TEXT = "it is a text"
_PAGE = "it is a web page"


def hint_for(error: Exception, place: object) -> str:
    """Say what may be done about the file at ``place``, which is no whole archive of images."""
    if _CUT_SHORT in str(error):
        return "copy or save it again: its sha256 must be that of the original"
    if _EMPTY in str(error):
        return "copy it again from where it was built"
    if _PAGE in str(error):
        return "download it again, and look what its address shows: a page to log in at, or of an error"
    if _TEXT in str(error):
        return (
            f"syncer build --images-file {place} builds a bundle of a list of images, and --profile-file of manifests"
        )
    return _HINT


def _scan(file: File, size: int, start: bytes, spool: SpoolFile) -> Found:
    if found := decoder_of(start):
        compression, make = found
        return _unpack(Streams(file, size, make), compression, spool)
    if len(start) < tar.UNIT or not tar.is_header(start):
        raise ValueError(_guess(start))
    return TarWalk(file).finish(size)


def _unpack(streams: Streams, compression: str, spool: SpoolFile) -> Found:
    """Unpack a tar into the spool, where room for each member is asked for before its content comes."""
    spool.need(streams.size)  # most of an archive is layers, which are compressed already
    walk = TarWalk(spool.file)
    for piece in streams:
        spool.append(piece)
        if not walk.end and len(piece) >= tar.UNIT and not tar.is_header(piece):
            raise ValueError(f"it is compressed by {compression}, and what is in it is no tar")
        walk.advance(spool.size)
        spool.need(walk.end)
    if not spool.size:
        raise ValueError("there is nothing in it")
    return walk.finish(spool.size)


def _guess(start: bytes) -> str:
    """Say what a file may be that is no tar."""
    kinds = (
        (not start, _EMPTY),
        (not any(start), "there is nothing in it"),
        (start.startswith(b"PK\x03\x04"), "it is a zip file"),
        (start.startswith(b"hsqs"), "it is a squashfs image"),
        (start.startswith(b"\x04\x22\x4d\x18"), "it is compressed by lz4: unpack it first"),
        (start.lstrip().lower().startswith((b"<!doctype html", b"<html")), f"{_PAGE}, and not what was asked for"),
        (start.isascii() and b"\0" not in start, f"{_TEXT}, such as a definition or a list of images"),
    )
    otherwise = "it is neither a tar nor compressed by gzip, zstd, xz or bzip2"
    return next((guess for is_it, guess in kinds if is_it), otherwise)


def _guess_by_names(names: Iterable[str]) -> str:
    """Say what a tar or a directory without images may be."""
    known = set(names)
    tops = {name.partition("/")[0] for name in known}
    kinds = (
        (not known, "there is nothing in it"),
        ({"index.json", "blobs"} & tops, "it has no oci-layout, which an image layout begins with"),
        (any(map(_CHART.fullmatch, known)), "it is a Helm chart: a build takes it as a chart, and not as an archive"),
        (any(map(_PACK.fullmatch, known)), "it is a pack of Palette's: build takes it with --packs"),
        ("repositories" in known, "it is of a Docker before 1.10: load it into a newer one, and save it again there"),
        ({"version", "manifest.json"} <= known, "it is what skopeo calls dir: copy it to an oci-archive first"),
        ({"etc", "usr", "bin"} & tops, "it is the file system of a container (docker export): use docker save"),
    )
    otherwise = "it holds neither an image layout (oci-layout, index.json) nor docker's manifest.json"
    return next((guess for is_it, guess in kinds if is_it), otherwise)
