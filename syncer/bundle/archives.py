"""What kind of archive a file or a directory is: the one place that tells, for whatever opens one."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from syncer.bundle import tar, zstd
from syncer.bundle.compression import Spool, Streams, decoder_of
from syncer.bundle.layout import LAYOUT_CONTENT, OCI_LAYOUT
from syncer.bundle.manifest_json import find_listed
from syncer.bundle.members import Contents, Found, TarWalk, find_layout, scan_directory, scan_zstd

_CUT_SHORT = "cut short"
_CHART = re.compile(r"[^/]+/Chart\.yaml")
_PACK = re.compile(r"([^/]+/)?pack\.json")
_HINT = "syncer takes what docker, podman, skopeo, crane, oras, hauler and imgpkg save (docs/bundle.md)"


def is_bundle(file: int, status: os.stat_result) -> bool:
    """Tell whether a file begins as those that syncer writes, byte for byte."""
    if not stat.S_ISREG(status.st_mode):
        return False
    start = os.pread(file, tar.UNIT, 0)
    if zstd.is_zstd(start):
        return zstd.is_stored(start) or zstd.is_packed(start)
    return start.startswith(tar.header(OCI_LAYOUT, len(LAYOUT_CONTENT)))


def find_contents(path: Path, file: int, status: os.stat_result, spool: Spool) -> Contents:
    """The contents of the open file, or of the directory, at ``path``, whatever wrote it.

    What cannot be read in place is unpacked into ``spool``.  Raises ``ValueError`` and ``InvalidContent`` for what is
    not whole, or no archive of images.
    """
    if stat.S_ISDIR(status.st_mode):
        found = scan_directory(path)
    else:
        start = os.pread(file, tar.UNIT, 0)
        if zstd.is_zstd(start) and is_bundle(file, status):
            return scan_zstd(file, status.st_size)
        found = _scan(file, status.st_size, start, spool)
    contents = find_layout(found) or find_listed(found, spool)
    if contents is None:
        raise ValueError(_guess_by_names(found.files))
    return contents


def hint_for(error: Exception) -> str:
    """Say what may be done about a file that is no whole archive of images."""
    if _CUT_SHORT in str(error):
        return "copy or save it again: its sha256 must be that of the original"
    return _HINT


def _scan(file: int, size: int, start: bytes, spool: Spool) -> Found:
    if found := decoder_of(start):
        compression, make = found
        return _unpack(Streams(file, size, make), compression, spool)
    if len(start) < tar.UNIT or not tar.is_header(start):
        raise ValueError(_guess(start))
    return TarWalk(file).finish(size)


def _unpack(streams: Streams, compression: str, spool: Spool) -> Found:
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
        (not start, "it is empty"),
        (not any(start), "there is nothing in it"),
        (start.startswith(b"PK\x03\x04"), "it is a zip file"),
        (start.startswith(b"hsqs"), "it is a squashfs image"),
        (start.startswith(b"\x04\x22\x4d\x18"), "it is compressed by lz4: unpack it first"),
        (start.isascii() and b"\0" not in start, "it is a text, such as a definition or a list of images, and no tar"),
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
