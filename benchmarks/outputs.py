"""What a build has made: the blobs that are in it, read with nothing of syncer's own."""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE = 1024 * 1024
_BLOB = re.compile(r"(?:.*/)?(?:sha256[-:])?([0-9a-f]{64})(?:\.tar\.gz)?")
"""``blobs/sha256/HEX`` in a layout, ``sha256-HEX.tar.gz`` in imgpkg's tar."""


def problem_with(output: Path, expected: Mapping[str, int], *, hashed: bool) -> str | None:
    """What is wrong with a bundle or layout: one of the ``expected`` blobs is not there in its size.

    When ``hashed``, also that its bytes are not what its name says.
    """
    found = dict(_contents(output, hashed=hashed))
    for digest, size in expected.items():
        wanted = (size, digest.removeprefix("sha256:") if hashed else None)
        if found.get(digest) != wanted:
            return f"{output.name} has {digest} as {found.get(digest)}, not {wanted}"
    return None


def _contents(output: Path, *, hashed: bool) -> Iterator[tuple[str, tuple[int, str | None]]]:
    for name, size, file in _members(output):
        match = _BLOB.fullmatch(name)
        if match:
            yield f"sha256:{match[1]}", (size, _hash(file) if hashed else None)


def _members(output: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    if output.is_dir():
        for path in output.glob("blobs/sha256/*"):
            with path.open("rb") as file:
                yield path.name, path.stat().st_size, file
        return
    opened = zstd.open(output, "rb") if output.suffix == ".zst" else output.open("rb")
    with opened as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content:
                yield member.name, member.size, content


def _hash(file: IO[bytes]) -> str:
    hasher = hashlib.sha256()
    while piece := file.read(_PIECE):
        hasher.update(piece)
    return hasher.hexdigest()
