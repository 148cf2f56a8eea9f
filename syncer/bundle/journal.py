"""The journal of a build that is not finished: the slots of its file, and the bytes that each has.

A text file of one record a line, each with its CRC-32, only ever appended to.  It is a hint: a torn or
altered line ends what is believed, and no byte of a slot counts before it was hashed again.

    5f1c2a90 ["syncer", 1, "tar.zst", 3, 94]
    0d3b66c1 ["slot", "sha256:9f…", 5312, 94, null]
    77ab0e42 ["mark", 0, 5312, "1b2c…"]
    3b1d77f0 ["replaced", 20014, "6c00…"]

A slot has its content's digest and size, its offset in the file, and its length where it is packed; a
mark the slot's number, the bytes that are in place, and the start of these bytes' hash.  The last line may say that a
copy of the file, without what is not wanted of it, is about to get the bundle's name: the copy's size, and a hash of
its end.  When a bundle of that size and end is there, the file is of no use.  Whoever goes on passes over that line.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from syncer.bundle.framing import Framing
from syncer.bundle.slots import Slot
from syncer.errors import InvalidContent
from syncer.files import sync
from syncer.oci import Digest

_VERSION = 1
_PROOF = re.compile(r"[0-9a-f]{32}")
_READ = 1024 * 1024
_MAX_LINE = 4096
_MAX_SIZE = 2**50


class Journal:
    """Appends to a journal; several threads may."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._slots: list[bytes] = []  # lines that no mark has needed yet
        self._lock = threading.Lock()

    def slot(self, slot: Slot) -> None:
        """Remember a place that was allotted, from the first mark on that comes after it."""
        line = line_of(["slot", str(slot.digest), slot.size, slot.offset, slot.packed])
        with self._lock:
            self._slots.append(line)

    def mark(self, slot: Slot, size: int, proof: bytes) -> None:
        """Remember that ``slot`` has its first ``size`` bytes of content."""
        line = line_of(["mark", slot.number, size, proof.hex()])
        with self._lock:
            slots, self._slots = self._slots, []
            os.write(self._file, b"".join((*slots, line)))

    def replaced(self, file: int) -> None:
        """Remember for good that ``file`` is about to be the bundle."""
        with self._lock:
            os.write(self._file, line_of(["replaced", *_end_of(file)]))
            sync(self._file)

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which was said already; a slot without a mark is worth little
            os.write(self._file, b"".join(self._slots))
        os.close(self._file)


def open_journal(path: Path, framing: Framing, start: int, *, resume: bool) -> tuple[Journal, list[Slot]]:
    """The journal at ``path``, and the slots that it knows, the first one at offset ``start``.

    It is begun anew unless ``resume`` is asked for and it tells of the same ``framing`` and ``start``:
    a build that goes on must end in the bytes of an undisturbed one.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        slots, believed = load(_lines(file) if resume else iter(()), framing, start)
        os.ftruncate(file, believed)
        if not believed:
            os.write(file, line_of(_settings(framing, start)))
    except BaseException:
        os.close(file)
        raise
    return Journal(file), slots


def tells_of(path: Path, final: Path) -> bool:
    """Tell whether the journal at ``path`` says that ``final`` was published in the place of its file."""
    with suppress(OSError), path.open("rb") as journal, final.open("rb") as bundle:
        journal.seek(max(0, os.fstat(journal.fileno()).st_size - _MAX_LINE))
        *_, last = [b"", *journal.read().splitlines(keepends=True)]
        return _record(last) == ["replaced", *_end_of(bundle.fileno())]
    return False


def _end_of(file: int) -> tuple[int, str]:
    """The size of a file, and a hash of its end, which lists all that is in a bundle."""
    size = os.fstat(file).st_size
    return size, hashlib.sha256(os.pread(file, _READ, max(0, size - _READ))).hexdigest()


def load(lines: Iterator[bytes], framing: Framing, start: int) -> tuple[list[Slot], int]:
    """The slots that ``lines`` tell of, and the bytes that were believed: all up to the first wrong line."""
    slots: list[Slot] = []
    settings = _settings(framing, start)
    if _record(next(lines, b"")) != settings:
        return slots, 0
    believed = len(line_of(settings))
    for line in lines:
        if not _apply(_record(line), slots, slots[-1].end(framing) if slots else start):
            break
        believed += len(line)
    return slots, believed


def line_of(record: list[Any]) -> bytes:
    """A record as it stands in the file."""
    text = orjson.dumps(record)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _settings(framing: Framing, start: int) -> list[Any]:
    return ["syncer", _VERSION, framing.format, framing.level, start]


def _lines(file: int) -> Iterator[bytes]:
    """The lines of ``file``, the last one perhaps torn."""
    rest = b""
    while piece := os.read(file, _READ):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if len(rest) > _MAX_LINE:
            break
    if rest:
        yield rest


def _record(line: bytes) -> list[Any] | None:
    """The record in ``line``; None when it is torn or altered."""
    text = line[9:-1]
    if len(line) > _MAX_LINE or line[:9] != b"%08x " % zlib.crc32(text) or line[-1:] != b"\n":
        return None
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, list) else None


def _apply(record: list[Any] | None, slots: list[Slot], end: int) -> bool:
    """Add what ``record`` says to ``slots``, the last of which ends at ``end``; False when it makes no sense."""
    match record:
        case ["slot", str(text), int(size), int(offset), int() | None as packed]:
            if offset != end or not 0 <= size < _MAX_SIZE or (packed is not None and not 0 < packed < _MAX_SIZE):
                return False
            try:
                slots.append(Slot(len(slots), Digest.parse(text), size, offset, packed))
            except InvalidContent:
                return False
            return True
        case ["mark", int(number), int(size), str(proof)] if 0 <= number < len(slots):
            if not 0 <= size <= slots[number].size or not _PROOF.fullmatch(proof):
                return False
            slots[number].marks.add(size, bytes.fromhex(proof))
            return True
        case _:
            return False
