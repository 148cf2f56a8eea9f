"""The bytes of a layer: a tar of one file that no compressor shrinks, in a gzip of stored blocks.

AES in counter mode makes gigabytes a second, the same on every machine; the gzip is framed here, since
what a compression library makes of level 0 differs between its versions.
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.recipes import Layer

_GZIP_HEADER = bytes.fromhex("1f8b08000000000000ff")  # no name, no time, unknown system (RFC 1952)
_STORED = 65535  # bytes in a stored block at most (RFC 1951, 3.2.4)
_PIECE = 16 * _STORED


class Written(NamedTuple):
    """What became of a layer: digest and size as stored, and the digest of the tar in it."""

    digest: str
    size: int
    diff_id: str


def write_layer(layer: Layer, corpus: str, path: Path) -> Written:
    """Write the bytes of ``layer``, which follow from its name and that of the corpus, to ``path``."""
    stored, tar = hashlib.sha256(_GZIP_HEADER), hashlib.sha256()
    checksum = length = 0
    with path.open("wb") as file:
        file.write(_GZIP_HEADER)
        for piece in _tar(layer, corpus):
            tar.update(piece)
            checksum = zlib.crc32(piece, checksum)
            length += len(piece)
            framed = _stored_blocks(piece)
            stored.update(framed)
            file.write(framed)
        end = _block(b"", final=True) + struct.pack("<II", checksum, length & 0xFFFFFFFF)
        stored.update(end)
        file.write(end)
        size = file.tell()
    return Written(f"sha256:{stored.hexdigest()}", size, f"sha256:{tar.hexdigest()}")


def _tar(layer: Layer, corpus: str) -> Iterator[bytes]:
    member = tarfile.TarInfo("data")
    member.size = layer.size
    yield member.tobuf(tarfile.USTAR_FORMAT)
    key = hashlib.sha256(f"{corpus}/{layer.name}".encode()).digest()
    stream = Cipher(algorithms.AES(key[:16]), modes.CTR(bytes(16))).encryptor()
    for start in range(0, layer.size, _PIECE):
        yield stream.update(bytes(min(_PIECE, layer.size - start)))
    yield bytes(-layer.size % 512 + 1024)


def _stored_blocks(piece: bytes) -> bytes:
    return b"".join(_block(piece[start : start + _STORED]) for start in range(0, len(piece), _STORED))


def _block(content: bytes, *, final: bool = False) -> bytes:
    return struct.pack("<BHH", final, len(content), len(content) ^ 0xFFFF) + content
