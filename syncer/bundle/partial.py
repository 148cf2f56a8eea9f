"""The file that a bundle is while it is being written: its lock, its slots, and how it gets its name."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from syncer.bundle import layout, tar
from syncer.bundle.framing import Framing, Stored, write_all
from syncer.bundle.journal import Journal, open_journal
from syncer.bundle.slots import Slot, find_holes, is_in_place, proof_of, prove
from syncer.bundle.zstd import Frame
from syncer.errors import AlreadyThere, Locked, TargetFull
from syncer.failpoints import reach
from syncer.files import lock_holder, no_room, room_for, sync, sync_path, try_lock, writing
from syncer.oci import Digest

if TYPE_CHECKING:
    from hashlib import _Hash


_ZEROS = bytes(1024 * 1024)


@contextmanager
def open_partial(final: Path, framing: Framing, *, resume: bool, force: bool) -> Iterator[Partial]:
    """The file that becomes ``final``, locked, with the slots of an earlier run if ``resume`` is set.

    File and journal stay when the block ends without ``publish``, unless nothing is in them to go on with.
    """
    path, journal_path = _beside(final, ".partial"), _beside(final, ".journal")
    with ExitStack() as stack:
        with writing(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            file = _open_locked(final, path, journal_path, force=force)
            stack.callback(os.close, file)  # and with it the lock
            first, frames = _in_hand(framing, layout.OCI_LAYOUT, layout.LAYOUT_CONTENT)
            journal, slots = open_journal(journal_path, framing, len(first), resume=resume)
            stack.callback(journal.close)
            end = slots[-1].end(framing) if slots else len(first)
            os.ftruncate(file, end)  # what lies beyond belongs to no slot that is known
            write_all(file, [first], 0)
        partial = Partial(final, path, file, framing, journal, slots, frames, end, reached=end)
        try:
            yield partial
        finally:
            if partial.is_published or not partial.slots:
                journal_path.unlink(missing_ok=True)
            if not partial.is_published and not partial.slots:
                path.unlink(missing_ok=True)


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
    reached: int  # bytes that the file has at least
    room: int = 0  # bytes that the file may have, as of the last time that it was asked for
    is_published: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def allot(self, digest: Digest, size: int, packed: int | None = None) -> Slot:
        """The next place in the file."""
        slot = Slot(len(self.slots), digest, size, self.end, packed)
        self.journal.slot(slot)
        reach("bundle.allotted")
        self.slots.append(slot)
        self.end = slot.end(self.framing)
        return slot

    def check_room(self) -> None:
        """Raise ``TargetFull`` when the disk cannot hold the slots that were allotted."""
        if self.end <= self.room:
            return
        room = room_for(self.file)
        self.room = self.end if room is None else room
        if self.end > self.room:
            raise no_room(self.final, self.end, self.room)

    def prove(self, slot: Slot) -> Iterator[tuple[int, _Hash]]:
        """See ``slots.prove``."""
        with writing(self.final):
            yield from prove(self.file, self.framing, slot)

    def write_packed(self, slot: Slot, packed: bytes) -> None:
        """Write all of a packed slot."""
        with writing(self.final):
            self._check_length()
            write_all(self.file, [packed], slot.offset)
            self._reach(slot.offset + len(packed))

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
            self._reach(stored.end_of(position + sum(map(len, whole))))
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
                raise self._altered()

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
                raise self._altered()
            self.path.replace(self.final)
            reach("bundle.renamed")
            sync_path(self.final.parent)
        self.is_published = True

    def _check_length(self) -> None:
        """Raise ``TargetFull`` when the file is shorter than what was written before."""
        reached = self.reached  # looked up before the size: other threads write meanwhile
        if os.fstat(self.file).st_size < reached:
            raise self._altered()

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
        raise self._altered()

    def _altered(self) -> TargetFull:
        return TargetFull(
            f"{self.path} was cut short, replaced or written to by another process, so nothing is published",
            hint="run the same command again: what is there is hashed, and only the rest is fetched",
        )

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
    """The partial file at ``path``, locked; raises ``AlreadyThere`` and ``Locked``."""
    while True:
        if final.exists() and not force:
            if not path.exists():
                journal.unlink(missing_ok=True)  # of a run that was killed right after it had published
            raise AlreadyThere(f"{final} is already there", hint="replace it with --force, or choose another --name")
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


def _beside(final: Path, suffix: str) -> Path:
    return final.with_name(final.name + suffix)
