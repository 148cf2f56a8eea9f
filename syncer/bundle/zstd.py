"""Zstandard frames (RFC 8878) as a bundle uses them, and the seek table of zstd's "seekable format".

Two kinds of frame hold content.  A *stored* frame has raw blocks of 128 KiB, so that plain arithmetic
says where each byte lies; a *packed* one is really compressed.  Both have a window of at most 128 KiB
and are never single-segment, which decoders refuse when large.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator, Sequence

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 128 * 1024
"""Bytes in a stored block: the most that the format allows."""

FRAME = 512 * 1024 * 1024
"""Bytes of content in a stored frame: the seek table counts in 32 bits, and decoders differ beyond 1 GiB."""

MAX_RATIO = 200
"""What shrinks more than this is stored instead; a reader takes a higher ratio for a bomb."""

Error = zstd.ZstdError


class NoSeekTable(ValueError):
    """A file of frames does not end as those of syncer do."""

    def __init__(self) -> None:
        super().__init__("it has no seek table at its end")


FRAME_HEADER = 10
_BLOCK_HEADER = 3
_CHECKSUM = 4
_WINDOW_LOG = 17
_MAX_WINDOW_LOG = 27  # 128 MiB, the most that `zstd -d` takes without being asked
_MAGIC = b"\x28\xb5\x2f\xfd"
_STORED = _MAGIC + b"\x80\x38"  # no checksum, content size in 4 bytes, a window of 128 KiB
_PACKED = _MAGIC + b"\x04\x38"  # a checksum, no content size, a window of 128 KiB
_STORED_LENGTH = FRAME_HEADER + FRAME // BLOCK * _BLOCK_HEADER + FRAME

SKIPPABLE_HEADER = 8
_SKIPPABLE = struct.Struct("<II")
_PAD_MAGIC = 0x184D2A50
_SEEK_TABLE_MAGIC = 0x184D2A5E
_SEEKABLE_MAGIC = 0x8F92EAB1
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")
SEEK_TABLE_FOOTER = _FOOTER.size

Frame = tuple[int, int]
"""Bytes that a frame takes in the file, and bytes of content in it (0 for a skippable frame)."""


def stored_length(total: int) -> int:
    """Bytes of file that ``total`` bytes of content (at least one) take in stored frames."""
    full, rest = divmod(total, FRAME)
    return full * _STORED_LENGTH + (_frame_length(rest) if rest else 0)


def stored_frames(total: int) -> Iterator[Frame]:
    """The stored frames of ``total`` bytes of content."""
    full, rest = divmod(total, FRAME)
    for _ in range(full):
        yield _STORED_LENGTH, FRAME
    if rest:
        yield _frame_length(rest), rest


def _frame_length(content: int) -> int:
    return FRAME_HEADER + -(-content // BLOCK) * _BLOCK_HEADER + content


def offset_of(position: int) -> int:
    """The offset of byte ``position`` of the content, counted from the start of its first stored frame."""
    frames, within = divmod(position, FRAME)
    return frames * _STORED_LENGTH + FRAME_HEADER + (within // BLOCK + 1) * _BLOCK_HEADER + within


def header_before(position: int, total: int) -> bytes:
    """The headers that stand directly before byte ``position``: empty unless a block starts there."""
    if position % BLOCK:
        return b""
    left = min(total - position, FRAME - position % FRAME)
    size = min(left, BLOCK)
    block = (size << 3 | (left == size)).to_bytes(_BLOCK_HEADER, "little")
    if position % FRAME:
        return block
    return _STORED + left.to_bytes(4, "little") + block


def reach(read: Callable[[int, int], bytes], size: int) -> int | None:
    """The end of the frames that begin among the first ``size`` bytes, which lies beyond these where one is cut short.

    A seek table that is whole is the last of them, whatever follows.  ``read`` takes an offset and a number of bytes.
    None for a file in which something else than our frames is met.
    """
    offset = 0
    while offset < size:
        head = read(offset, FRAME_HEADER)
        if is_skippable(head) and len(head) >= SKIPPABLE_HEADER:
            offset += SKIPPABLE_HEADER + int.from_bytes(head[4:SKIPPABLE_HEADER], "little")
            if int.from_bytes(head[:4], "little") == _SEEK_TABLE_MAGIC and offset <= size:
                return offset
        elif is_stored(head) and len(head) == FRAME_HEADER:
            offset += _frame_length(int.from_bytes(head[len(_STORED) :], "little"))
        elif is_packed(head):
            offset = _end_of_packed(read, offset + len(_PACKED), size)
        else:
            return size + 1 if size - offset < FRAME_HEADER else None
    return offset


def _end_of_packed(read: Callable[[int, int], bytes], offset: int, size: int) -> int:
    """The end of a compressed frame, as far as it can be told, of which the first block begins at ``offset``."""
    while offset < size:
        header = read(offset, _BLOCK_HEADER)
        number = int.from_bytes(header, "little")
        offset += _BLOCK_HEADER + (1 if number >> 1 & 3 == 1 else number >> 3)  # a block of one byte, repeated
        if len(header) == _BLOCK_HEADER and number & 1:
            return offset + _CHECKSUM
    return max(offset, size + 1)


def is_zstd(header: bytes) -> bool:
    """Tell whether a file that starts with ``header`` starts with a zstd frame."""
    return header.startswith(_MAGIC)


def is_skippable(header: bytes) -> bool:
    """Tell whether a file that starts with ``header`` starts with a skippable frame, as pzstd's do."""
    return header[1:4] == b"\x2a\x4d\x18" and header[0] & 0xF0 == 0x50


def stream_decoder() -> zstd.ZstdDecompressor:
    """A decoder of one frame that another tool wrote."""
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})


def is_stored(header: bytes) -> bool:
    """Tell whether a frame that starts with ``header`` is stored."""
    return header.startswith(_STORED)


def is_packed(header: bytes) -> bool:
    """Tell whether a frame that starts with ``header`` is compressed in the way that ``pack`` does it."""
    return header.startswith(_PACKED)


def pack(content: bytes, level: int) -> bytes | None:
    """``content`` as one compressed frame; None when it must be stored, since it shrinks by too much."""
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(
        options={
            parameter.compression_level: level,
            parameter.window_log: _WINDOW_LOG,
            parameter.checksum_flag: 1,
        }
    )
    packed = compressor.compress(content) + compressor.flush()  # in two steps, so that no content size is written
    return packed if len(packed) * MAX_RATIO >= len(content) else None


def unpack(packed: bytes, total: int) -> bytes:
    """The ``total`` bytes in one compressed frame; raises ``ValueError`` when it holds anything else.

    Never makes more than ``total`` bytes, whatever the frame says.
    """
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        content = decompressor.decompress(packed, max_length=total)
        if not decompressor.eof and len(content) == total:
            beyond = decompressor.decompress(b"", max_length=1)
            if beyond or not decompressor.eof:
                raise ValueError("a frame holds more than the seek table says")
    except (zstd.ZstdError, EOFError) as error:
        raise ValueError(f"a frame cannot be decompressed: {error}") from None
    if len(content) != total:
        raise ValueError("a frame holds less than the seek table says")
    if decompressor.unused_data:
        raise ValueError("something follows a frame inside its place")
    return content


def unpack_start(packed: bytes, length: int) -> bytes:
    """The first ``length`` bytes in a compressed frame, or what there is; raises ``ValueError``."""
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        return decompressor.decompress(packed, max_length=length)
    except zstd.ZstdError as error:
        raise ValueError(f"a frame cannot be decompressed: {error}") from None


def skippable_frames(length: int) -> Iterator[Frame]:
    """The skippable frames that fill ``length`` bytes of file (at least eight)."""
    while length:
        taken = min(length, FRAME)
        if 0 < length - taken < SKIPPABLE_HEADER:
            taken -= SKIPPABLE_HEADER
        yield taken, 0
        length -= taken


def skippable_header(length: int) -> bytes:
    """The header of a skippable frame that takes ``length`` bytes of file."""
    return _SKIPPABLE.pack(_PAD_MAGIC, length - SKIPPABLE_HEADER)


def seek_table(frames: Sequence[Frame]) -> bytes:
    """The skippable frame that ends a file of ``frames``, without checksums."""
    entries = b"".join(_ENTRY.pack(*frame) for frame in frames)
    footer = _FOOTER.pack(len(frames), 0, _SEEKABLE_MAGIC)
    return _SKIPPABLE.pack(_SEEK_TABLE_MAGIC, len(entries) + len(footer)) + entries + footer


def seek_table_length(footer: bytes) -> int:
    """Bytes of the seek table that ends with ``footer``; raises ``ValueError`` if it is none of ours."""
    if len(footer) != _FOOTER.size:
        raise NoSeekTable
    count, flags, magic = _FOOTER.unpack(footer)
    if magic != _SEEKABLE_MAGIC:
        raise NoSeekTable
    if flags:
        raise ValueError("its seek table has flags that a bundle does not use")
    return seek_table_size(count)


def seek_table_size(count: int) -> int:
    """Bytes of a seek table of ``count`` frames."""
    return SKIPPABLE_HEADER + count * _ENTRY.size + _FOOTER.size


def parse_seek_table(table: bytes) -> list[Frame]:
    """The frames that a whole seek table lists; raises ``ValueError``."""
    if len(table) < SKIPPABLE_HEADER + _FOOTER.size or len(table) != seek_table_length(table[-_FOOTER.size :]):
        raise ValueError("its seek table has another length than it says")
    if _SKIPPABLE.unpack_from(table) != (_SEEK_TABLE_MAGIC, len(table) - SKIPPABLE_HEADER):
        raise ValueError("its seek table does not start where it must")
    return list(_ENTRY.iter_unpack(table[SKIPPABLE_HEADER : -_FOOTER.size]))
