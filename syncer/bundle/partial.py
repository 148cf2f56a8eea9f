"""The file that a bundle is while it is being written: its lock, its slots, and how it gets its name."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from syncer.bundle import layout, tar
from syncer.bundle.framing import Framing, Stored, write_all
from syncer.bundle.journal import Journal, open_journal, tells_of
from syncer.bundle.slots import Slot, find_holes, is_in_place, proof_of, prove
from syncer.bundle.zstd import Frame
from syncer.content import FileProgress
from syncer.errors import AlreadyThere, Locked, TargetFull, UsageError
from syncer.failpoints import reach
from syncer.files import (
    Flusher,
    allocate,
    lock_holder,
    no_room,
    require_no_other,
    room_at,
    room_for,
    sync,
    sync_path,
    try_lock,
    writing,
)
from syncer.oci import Digest

if TYPE_CHECKING:
    from hashlib import _Hash


_ZEROS = bytes(1024 * 1024)
_PADDING = 50  # a bundle may be padding to one part in so many: 2 %
_PIECE = 4 * 1024 * 1024  # bytes that are copied between two chances to be cancelled
_COPY = ".partial.copy"  # no name that a user gives to a copy of a bundle
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def open_partial(final: Path, framing: Framing, *, resume: bool, force: bool) -> Iterator[Partial]:
    """The file that becomes ``final``, locked, with the slots of an earlier run if ``resume`` is set.

    File and journal stay when the block ends without ``publish``, unless nothing is in them to go on with.
    """
    path, journal_path = _beside(final, layout.UNFINISHED), _beside(final, ".journal")
    with ExitStack() as stack:
        with writing(final):
            _make_directory(final.parent)
            file = _open_locked(final, path, journal_path, force=force)
            stack.callback(os.close, file)  # and with it the lock
            _beside(final, _COPY).unlink(missing_ok=True)  # of a run that was killed while it wrote that
            first, frames = _in_hand(framing, layout.OCI_LAYOUT, layout.LAYOUT_CONTENT)
            journal, slots = open_journal(journal_path, framing, len(first), resume=resume)
            stack.callback(journal.close)
            end = slots[-1].end(framing) if slots else len(first)
            os.ftruncate(file, end)  # what lies beyond belongs to no slot that is known
            write_all(file, [first], 0)
        partial = Partial(final, path, file, framing, journal, slots, frames, end, Flusher(path), reached=end)
        try:
            yield partial
        finally:
            if partial.is_published or not partial.slots:
                journal_path.unlink(missing_ok=True)
            if not partial.is_published and not partial.slots:
                path.unlink(missing_ok=True)


def _make_directory(path: Path) -> None:
    """Make the directory ``path``, if need be; raises ``UsageError`` where a file is in its place, and ``OSError``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{path} is to be a directory, and a file is there", hint="choose another directory") from None


def check_disk(final: Path, size: int) -> None:
    """Raise ``TargetFull`` when the disk of ``final`` has no room for that bundle of ``size`` bytes, begun or not."""
    room = room_at(_beside(final, layout.UNFINISHED))
    if room is not None and size > room:
        raise no_room(final, size, room)


class Partial(Struct):
    """An unfinished bundle.  ``write`` may run in several threads at once, each for a slot of its own."""

    final: Path
    path: Path
    file: int
    framing: Framing
    journal: Journal
    slots: list[Slot]
    first_frames: list[Frame]  # of what stands before the slots
    end: int  # where the next slot will start
    flusher: Flusher
    reached: int  # bytes that the file has at least
    room: int = 0  # bytes that the file may have, as of the last time that it was asked for
    is_published: bool = False
    padding: int = 0  # bytes of the finished file that are no content, and no part of its form
    is_cramped: bool = False  # the disk has no room for a copy without them
    original: Partial | None = None  # the file that this is a copy of, without what is not wanted of it
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def allot(self, digest: Digest, size: int, packed: int | None = None) -> Slot:
        """The next place in the file."""
        slot = Slot(len(self.slots), digest, size, self.end, packed)
        self.journal.slot(slot)
        reach("bundle.allotted")
        self.slots.append(slot)
        self.end = slot.end(self.framing)
        return slot

    def check_room(self, tail: int) -> None:
        """Raise ``TargetFull`` when the disk cannot hold the slots that were allotted, and ``tail`` bytes more."""
        needed = self.end + tail
        if not self.has_room(needed):
            raise no_room(self.final, needed, self.room)

    def has_room(self, needed: float) -> bool:
        """Tell whether the disk can hold a file of ``needed`` bytes; True where it does not tell."""
        if needed > self.room:
            room = room_for(self.file)
            self.room = math.ceil(needed) if room is None else room
        return needed <= self.room

    def prove(self, slot: Slot) -> Iterator[tuple[int, _Hash]]:
        """See ``slots.prove``."""
        with writing(self.final):
            yield from prove(self.file, self.framing, slot)

    def allocate(self, slot: Slot) -> None:
        """Have the file system allocate the place of ``slot``, which is cheaper than as its bytes come."""
        allocate(self.file, slot.offset, slot.length(self.framing))

    def write_packed(self, slot: Slot, packed: bytes) -> None:
        """Write all of a packed slot."""
        with writing(self.final):
            self._check_length()
            write_all(self.file, [packed], slot.offset)
            self._reach(slot.offset + len(packed))
            self.flusher.wrote(len(packed))

    def write(self, slot: Slot, done: int, pieces: Sequence[bytes | memoryview]) -> int:
        """Write the bytes that follow the first ``done`` of a stored slot's content; returns how many are done.

        The tar header goes along with the first byte, the padding with the last one.
        """
        position = slot.header_length + done if done else 0
        before = [] if done else [slot.header]
        done += sum(map(len, pieces))
        after = [bytes(tar.padding(slot.size))] if done == slot.size else []
        stored = slot.stored(self.framing)
        whole = [*before, *pieces, *after]
        with writing(self.final):
            self._check_length()
            stored.write(self.file, position, whole)
            length = sum(map(len, whole))
            self._reach(stored.end_of(position + length))
            self.flusher.wrote(length)
        reach("bundle.written")
        return done

    def mark(self, slot: Slot, done: int, hasher: _Hash) -> None:
        """Remember that ``done`` bytes of the slot's content, which went into ``hasher``, are in place."""
        proof = proof_of(hasher)
        slot.marks.add(done, proof)
        with writing(self.final):
            self.journal.mark(slot, done, proof)
        reach("bundle.marked")

    def check(self, kept: Iterable[Slot]) -> None:
        """Raise ``TargetFull`` when another process cut the file short, replaced it, or wrote into one of ``kept``.

        That is told by what is cheap to look at: the file's size and place, holes in it, small content whole, and
        where each slot starts and ends.
        """
        with writing(self.final):
            self._check_place()
            holes = find_holes(self.file)
            if not all(is_in_place(self.file, self.framing, slot, holes) for slot in kept):
                raise self.altered()

    @contextmanager
    def finished(
        self,
        kept: Sequence[Slot],
        tail: Sequence[tuple[str, bytes]],
        checkpoint: Callable[[], None] = lambda: None,
        begun: Callable[[FileProgress], None] = lambda _: None,
    ) -> Iterator[Partial]:
        """The file as a bundle, see ``finish``: this one, or a copy that has ``kept`` alone, in that order.

        It is a copy where more than 2 % of this file would be padding, and the disk has room for both; ``begun`` is
        called when it is begun, and ``checkpoint`` now and then while it is made.  This file stays as it is until the
        copy is published, and is removed then; a copy that is not published is removed instead.
        """
        content = sum(slot.length(self.framing) for slot in kept)
        begin = sum(length for length, _ in self.first_frames)
        copy = None
        if (self.end - begin - content) * _PADDING > self.end:
            progress = FileProgress(begin + content)

            def count(size: int) -> None:
                progress.done += size
                checkpoint()

            copy = self._copy(kept, tail, progress.size, count, lambda: begun(progress))
        if copy is None:
            self.finish(kept, tail)
            yield self
            return
        try:
            yield copy
        finally:
            os.close(copy.file)
            self.is_published = copy.is_published
            with writing(self.final):  # what is not wanted any more, before the journal, which says what became of it
                (self if copy.is_published else copy).path.unlink(missing_ok=True)
            reach("bundle.dropped")

    def finish(self, kept: Iterable[Slot], tail: Sequence[tuple[str, bytes]]) -> None:
        """Make the file a bundle: ``kept`` slots are its content, ``tail`` its last members, nothing else is in it."""
        keeping = {slot.number for slot in kept}
        frames = list(self.first_frames)
        pads = 0
        with writing(self.final):
            for slot in self.slots:
                if slot.number in keeping:
                    frames += slot.frames(self.framing)
                else:
                    frames += self._pad(slot, pads)
                    pads += 1
                    self.padding += slot.length(self.framing)
            end = self.end
            for content, more in (*(_in_hand(self.framing, *member) for member in tail), _end_of_tar(self.framing)):
                write_all(self.file, [content], end)
                end += len(content)
                frames += more
            trailer = self.framing.trailer(frames)
            write_all(self.file, [trailer], end)
            self.reached = end + len(trailer)
            os.ftruncate(self.file, self.reached)

    def sync(self) -> None:
        """Bring every byte to the disk, which may take long; it does no harm when nobody waits for that."""
        with writing(self.final):
            file = os.dup(self.file)
            try:
                sync(file)
            finally:
                os.close(file)
        reach("bundle.synced")

    def publish(self) -> None:
        """Give the finished file, all of which is on the disk, its final name."""
        with writing(self.final):
            self._check_place()
            if os.fstat(self.file).st_size != self.reached:
                raise self.altered()
            if self.original is not None:
                self.original.check(())  # no other process has put another file in its place
                self.journal.replaced(self.file)
                reach("bundle.replacing")
            self.path.replace(self.final)
            reach("bundle.renamed")
            sync_path(self.final.parent)
        self.is_published = True

    def _check_length(self) -> None:
        """Raise ``TargetFull`` when the file is shorter than what was written before."""
        reached = self.reached  # looked up before the size: other threads write meanwhile
        if os.fstat(self.file).st_size < reached:
            raise self.altered()

    def _reach(self, end: int) -> None:
        """Note that the file has been written up to the byte ``end``."""
        with self._lock:
            self.reached = max(self.reached, end)

    def _check_place(self) -> None:
        """Raise ``TargetFull`` unless the file has its name, and all that was written."""
        with suppress(FileNotFoundError):
            own = os.fstat(self.file)
            if os.path.samestat(own, self.path.lstat()) and own.st_size >= self.reached:
                return
        raise self.altered()

    def altered(self) -> TargetFull:
        """The error for a file that is not as it was left."""
        return TargetFull(
            f"{self.path} was cut short, replaced or written to by another process, so nothing is published",
            hint="run the same command again: what is there is hashed, and only the rest is fetched",
        )

    def _copy(
        self,
        kept: Sequence[Slot],
        tail: Sequence[tuple[str, bytes]],
        size: int,
        count: Callable[[int], None],
        begun: Callable[[], None],
    ) -> Partial | None:
        """A finished file of ``kept`` alone, of ``size`` bytes and the tail's; None when the disk has no room.

        ``begun`` is called once it is known to have room, and ``count`` is told of the bytes of each piece.
        """
        path = _beside(self.final, _COPY)
        with writing(self.final):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        begin = sum(length for length, _ in self.first_frames)
        flusher = Flusher(path)
        copy = Partial(self.final, path, file, self.framing, self.journal, [], self.first_frames, begin, flusher, 0)
        copy.original = self
        is_whole = False
        try:
            copy.require_room(size)
            begun()
            copy.take(0, begin, 0, count)
            for slot in kept:
                length = slot.length(self.framing)
                copy.take(slot.offset, length, copy.end, count)
                copy.slots.append(dataclasses.replace(slot, number=len(copy.slots), offset=copy.end))
                copy.end += length
            self.check(kept)  # what was copied was there until now
            copy.finish(copy.slots, tail)
            reach("bundle.copied")
            is_whole = True
        except TargetFull as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _FULL:
                raise
            self.is_cramped = True
        finally:
            if not is_whole:
                os.close(file)  # and with the name gone the disk has its room back
                path.unlink(missing_ok=True)
        return copy if is_whole else None

    def require_room(self, size: int) -> None:
        """Raise ``TargetFull``, as a full disk does, when the file cannot become ``size`` bytes large."""
        room = room_for(self.file)
        with writing(self.final):
            if room is not None and size > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def take(self, start: int, length: int, offset: int, count: Callable[[int], None]) -> None:
        """Write ``length`` bytes from ``start`` of the original at ``offset``: a slot has the same bytes anywhere.

        ``count`` is told of the bytes of each piece.
        """
        assert self.original is not None
        buffer = memoryview(bytearray(min(_PIECE, length)))
        with writing(self.final):
            while length:
                got = os.preadv(self.original.file, [buffer[:length]], start)
                if not got:
                    raise self.original.altered()
                write_all(self.file, [buffer[:got]], offset)
                self.flusher.wrote(got)
                reach("bundle.copying")
                count(got)
                start, length, offset = start + got, length - got, offset + got

    def _pad(self, slot: Slot, number: int) -> Iterator[Frame]:
        offset = slot.offset
        for frame, header in self.framing.pad(slot.length(self.framing), number):
            write_all(self.file, [header], offset)
            self._blank(offset + len(header), offset + frame[0])
            offset += frame[0]
            yield frame

    def _blank(self, offset: int, end: int) -> None:
        """Make every byte zero; holes stay holes."""
        while offset < end:
            content = os.pread(self.file, min(len(_ZEROS), end - offset), offset)
            if not content:
                break  # beyond the end of the file, which is made longer later
            if content != _ZEROS[: len(content)]:
                write_all(self.file, [_ZEROS[: len(content)]], offset)
            offset += len(content)


def _in_hand(framing: Framing, name: str, content: bytes) -> tuple[bytes, list[Frame]]:
    """A member whose content is there: its bytes in the file, and its frames."""
    return _framed(framing, tar.header(name, len(content)) + content + bytes(tar.padding(len(content))))


def _end_of_tar(framing: Framing) -> tuple[bytes, list[Frame]]:
    return _framed(framing, tar.END)


def _framed(framing: Framing, member: bytes) -> tuple[bytes, list[Frame]]:
    if packed := framing.pack(member):
        return packed, [(len(packed), len(member))]
    interleaved = Stored(framing, 0, len(member)).interleave(0, [member])
    return b"".join(interleaved), list(framing.frames(len(member)))


def _open_locked(final: Path, path: Path, journal: Path, *, force: bool) -> int:
    """The partial file at ``path``, locked; raises ``AlreadyThere``, ``Locked``, and ``UsageError`` for no file."""
    require_no_other(final)
    while True:
        if final.exists() and not force:
            _remove_leftovers(final, path, journal)
            raise AlreadyThere(f"{final} is already there", hint="replace it with --force, or choose another name")
        file = try_lock(path)
        if file is None:
            raise Locked(
                f"another run{lock_holder(path)} is writing {final}",
                hint="wait for it to end, or choose another --name",
            )
        if force or not final.exists():
            return file
        if not os.fstat(file).st_size:
            path.unlink()  # just made: the other process has published its own since we looked
        os.close(file)


def _remove_leftovers(final: Path, path: Path, journal: Path) -> None:
    """Remove what is left of a run that was killed right after it had published, and a copy that was never finished."""
    copy = _beside(final, _COPY)
    if (copy.exists() or tells_of(journal, final)) and (file := try_lock(path)) is not None:
        try:
            copy.unlink(missing_ok=True)
            if tells_of(journal, final) or not os.fstat(file).st_size:
                path.unlink()
        finally:
            os.close(file)
    if not path.exists():
        journal.unlink(missing_ok=True)


def _beside(final: Path, suffix: str) -> Path:
    return final.with_name(final.name + suffix)
