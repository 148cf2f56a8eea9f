"""A build that ended early goes on where it was, trusts nothing that it finds, and ends in the same bytes."""

from __future__ import annotations

import fcntl
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from syncer.bundle import Format, open_bundle, open_writer, verify_bundle
from syncer.content import Blob, Pieces, Progress
from syncer.errors import AlreadyThere, DigestMismatch, Interrupted, Locked, SyncerError, TargetFull, UsageError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest
from syncer.transfer.events import Copied, Event, Failed, Skipped
from syncer.transfer.run import Options, transfer
from tests.support import images
from tests.support.bundle_builder import PIECE, add_large_images
from tests.support.bundles import FORMATS, build, items_of
from tests.support.disks import can_allocate, file_size_limit
from tests.support.memory import MemorySource

LARGEST = 2_100_000  # bytes


@dataclass(slots=True)
class FaultySource(MemorySource):
    """Breaks off after ``budget`` bytes of all blobs together, and may alter what it sends."""

    budget: int = 2**60
    alter: Callable[[bytes, int], bytes] = lambda content, _: content  # what the n-th request for a blob gets
    opened: list[tuple[str, int]] = field(default_factory=list)
    sent: int = 0

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        return FaultyBlob(self, descriptor)


@dataclass(slots=True)
class FaultyBlob:
    source: FaultySource
    descriptor: Descriptor

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        digest = str(self.descriptor.digest)
        times = sum(1 for opened, _ in self.source.opened if opened == digest)
        self.source.opened.append((digest, offset))
        content = self.source.alter(self.source.blobs[digest], times)

        async def pieces() -> Pieces:
            for start in range(offset, len(content), 10_000):
                piece = content[start : start + 10_000]
                if self.source.sent + len(piece) > self.source.budget:
                    raise Interrupted(f"GET {digest} broke off")
                self.source.sent += len(piece)
                yield piece

        yield pieces()


def large_images(
    budget: int = 2**60, alter: Callable[[bytes, int], bytes] = lambda content, _: content
) -> FaultySource:
    source = FaultySource(budget=budget, alter=alter)
    add_large_images(source)
    return source


CONTENT = sum(map(len, large_images().blobs.values()))
LOST = 2 * (2**20 + PIECE)  # by a kill at most: a megabyte and the piece in hand of each large blob


async def undisturbed(tmp_path: Path, form: Format = "tar.zst") -> bytes:
    await build(final := tmp_path / "undisturbed", large_images(), form)
    return final.read_bytes()


async def break_off(final: Path, after: int, form: Format = "tar.zst") -> FaultySource:
    """A build that ends after so many bytes of blobs."""
    source = large_images(budget=after)
    with pytest.raises(SyncerError):
        await build(final, source, form)
    return source


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("after", [0, 10_000, 1_500_000, 3_000_000, 3_800_000])
async def test_no_byte_that_arrived_is_fetched_again(tmp_path: Path, form: Format, after: int) -> None:
    """Finished slots are hashed again, partial ones go on from their last byte."""
    expected = await undisturbed(tmp_path, form)
    final = tmp_path / "bundle"
    first = await break_off(final, after, form)

    second = large_images()
    events = await build(final, second, form)

    assert final.read_bytes() == expected
    resumed = sum(event.resumed for event in events if isinstance(event, Copied))
    assert resumed + sum(event.descriptor.size for event in events if isinstance(event, Skipped)) == first.sent
    assert first.sent + second.sent == sum(map(len, second.blobs.values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "undisturbed"]


def run_build(final: Path, form: Format, log: Path, failpoint: str = "") -> int:
    """The exit code of a build in a process of its own."""
    command = [sys.executable, "-m", "tests.support.bundle_builder", str(final), form, str(log)]
    ended = subprocess.run(command, env=os.environ | {"SYNCER_FAILPOINT": failpoint}, check=False, timeout=50)
    return ended.returncode


def fetched(log: Path) -> int:
    return sum(int(line.split()[2]) for line in log.read_text().splitlines())


@pytest.mark.parametrize(
    "failpoint",
    [
        "bundle.allotted=kill@1",
        "bundle.allotted=kill@5",
        "bundle.written=kill@1",
        "bundle.written=kill@9",
        "bundle.marked=kill@2",
        "bundle.marked=kill@12",
        "bundle.synced=kill",
    ],
)
async def test_a_build_killed_at_any_point_ends_in_the_same_bytes(tmp_path: Path, failpoint: str) -> None:
    """Row 46: SIGKILL at a named instant, then the same command again."""
    expected = await undisturbed(tmp_path)
    (tmp_path / "output").mkdir()
    final, log = tmp_path / "output" / "bundle", tmp_path / "log"

    assert run_build(final, "tar.zst", log, failpoint) == -9
    assert not final.exists()
    assert run_build(final, "tar.zst", log) == 0

    assert final.read_bytes() == expected
    assert fetched(log) <= CONTENT + LOST
    assert [path.name for path in final.parent.iterdir()] == ["bundle"]


async def test_a_build_killed_again_and_again_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Row 46: whatever was in place before a kill is there after it."""
    expected = await undisturbed(tmp_path)
    final, log = tmp_path / "bundle", tmp_path / "log"
    chosen = random.Random(4)
    kills = 0

    while run_build(final, "tar.zst", log, f"bundle.written=kill@{chosen.randrange(2, 8)}"):
        kills += 1
        assert kills < 20

    assert kills > 1
    assert final.read_bytes() == expected
    assert fetched(log) <= CONTENT + kills * LOST


async def test_a_run_killed_right_after_publishing_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    """Row 46: the name is there and the journal is not gone yet; the next run clears it away."""
    final, log = tmp_path / "bundle", tmp_path / "log"
    assert run_build(final, "tar.zst", log, "bundle.renamed=kill") == -9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.journal", "log"]

    assert run_build(final, "tar.zst", log) != 0

    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "log"]
    with open_bundle(final) as bundle:
        await verify_bundle(bundle)


def test_a_build_whose_name_another_one_takes_at_the_last_moment_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """The other build publishes between the look at the final name and the lock of the partial file."""
    program = (
        "import sys, runpy\n"
        "from pathlib import Path\n"
        "def publish(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('.partial'):\n"
        "        Path(sys.argv[1]).write_bytes(b'of the other build')\n"
        "sys.addaudithook(publish)\n"
        "runpy.run_module('tests.support.bundle_builder', run_name='__main__')"
    )
    final = tmp_path / "bundle"
    command = [sys.executable, "-c", program, str(final), "tar.zst", str(tmp_path / "log")]

    ended = subprocess.run(command, check=False, timeout=50, capture_output=True, text=True)

    assert "AlreadyThere" in ended.stderr
    assert final.read_bytes() == b"of the other build"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "log"]


@pytest.mark.parametrize("form", FORMATS)
async def test_a_bundle_is_on_the_disk_before_it_gets_its_name_and_the_name_before_the_build_ends(
    tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 46: a power failure finds either no bundle or a whole one, and takes no name that was announced."""
    asked: list[tuple[str, int, int]] = []  # of the operating system: what, the file's inode, its bytes
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(file: int) -> None:
        fsync(file)
        status = os.fstat(file)
        asked.append(("fsync", status.st_ino, status.st_size))

    def recorded_replace(old: Path, new: Path) -> None:
        replace(old, new)
        status = new.stat()
        asked.append(("replace", status.st_ino, status.st_size))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    await build(final := tmp_path / "bundle", large_images(), form)
    monkeypatch.undo()

    bundle, directory = final.stat(), tmp_path.stat()
    named = asked.index(("replace", bundle.st_ino, bundle.st_size))
    assert ("fsync", bundle.st_ino, bundle.st_size) in asked[:named]
    assert ("fsync", directory.st_ino) in [event[:2] for event in asked[named:]]


async def test_a_large_blob_is_allocated_as_a_whole_and_flushed_while_it_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``du`` and the disk see it before the blob is whole; the last half waits for the first to be on the disk."""
    content, final = bytes(80 * 2**20), tmp_path / "bundle"
    flushed: list[tuple[int, int]] = []  # of what the operating system was asked for: the file's inode, its blocks
    is_flushed, fdatasync = threading.Event(), os.fdatasync

    def recorded(file: int) -> None:
        fdatasync(file)
        status = os.fstat(file)
        flushed.append((status.st_ino, status.st_blocks * 512))
        is_flushed.set()

    @dataclass(slots=True)
    class Waiting:
        descriptor: Descriptor

        @asynccontextmanager
        async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
            async def pieces() -> Pieces:
                for start in range(offset, len(content), 2**20):
                    if start == len(content) // 2:
                        assert await anyio.to_thread.run_sync(is_flushed.wait, 50)
                    yield content[start : start + 2**20]

            yield pieces()

    monkeypatch.setattr(os, "fdatasync", recorded)
    descriptor = Descriptor(media_type="application/octet-stream", digest=Digest.of(content), size=len(content))
    async with open_writer(final, format="tar") as writer:
        await writer.reserve("", descriptor, None)
        assert await writer.write("", Waiting(descriptor), Progress(descriptor))
        partial = (tmp_path / "bundle.partial").stat()

    assert flushed[0][0] == partial.st_ino
    assert flushed[0][1] >= len(content) or not can_allocate(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("lost", ["the end", "a page in the middle", "everything"])
async def test_what_never_reached_the_disk_is_fetched_again(tmp_path: Path, form: Format, lost: str) -> None:
    """Row 46: after a power failure the journal may tell of bytes that read as zeros, or are not there."""
    expected = await undisturbed(tmp_path, form)
    final, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    await break_off(final, 3_000_000, form)
    size = partial.stat().st_size
    with partial.open("r+b") as file:
        match lost:
            case "the end":
                file.truncate(size // 2)
            case "a page in the middle":
                file.seek(size // 3 // 4096 * 4096)
                file.write(bytes(4096))
            case _:
                file.truncate(0)

    source = large_images()
    await build(final, source, form)

    assert final.read_bytes() == expected
    if lost == "a page in the middle":
        total = sum(map(len, source.blobs.values()))
        assert total - 3_000_000 < source.sent < total - 3_000_000 + LARGEST  # all that was proven is kept


@pytest.mark.parametrize("damage", ["torn", "altered", "of other settings", "empty", "noise"])
async def test_a_journal_is_believed_up_to_its_first_wrong_line(tmp_path: Path, damage: str) -> None:
    """Row 46: a torn last record, a wrong checksum, another tool's file: never an error, always the same bundle."""
    expected = await undisturbed(tmp_path)
    final, journal = tmp_path / "bundle", tmp_path / "bundle.journal"
    await break_off(final, 3_000_000)
    content = journal.read_bytes()
    match damage:
        case "torn":
            journal.write_bytes(content[:-7])
        case "altered":
            journal.write_bytes(content[:900] + b"x" + content[901:])
        case "of other settings":
            await break_off(final, 100_000, "tar")
        case "empty":
            journal.write_bytes(b"")
        case _:
            journal.write_bytes(random.Random(1).randbytes(100_000))

    await build(final, large_images())

    assert final.read_bytes() == expected


async def test_no_resume_starts_over(tmp_path: Path) -> None:
    expected = await undisturbed(tmp_path)
    final = tmp_path / "bundle"
    await break_off(final, 3_000_000)

    source = large_images()
    async with open_writer(final, resume=False) as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=lambda _: None)
        await writer.publish(b"version: 1\n")

    assert source.sent == sum(map(len, source.blobs.values()))
    assert final.read_bytes() == expected


@pytest.mark.parametrize("form", FORMATS)
async def test_content_that_is_no_longer_wanted_gives_way(tmp_path: Path, form: Format) -> None:
    """What an earlier run fetched for an image that is no longer asked for is no part of the bundle."""
    final = tmp_path / "bundle"
    await break_off(final, 3_000_000, form)
    source = large_images()
    source.add("new", images.image("new"))

    await build(final, source, form, items=items_of(source)[1:])

    with open_bundle(final) as bundle:
        check = await verify_bundle(bundle)
        assert [image.name for image in bundle.images] == [
            "docker.io/library/other:latest",
            "docker.io/library/new:latest",
        ]
    assert check.unreferenced == ()


async def test_a_byte_that_is_flipped_on_the_way_costs_one_more_fetch(tmp_path: Path) -> None:
    """Row 24: wrong bytes are dropped, and fetched once more from the start."""
    expected = await undisturbed(tmp_path)
    source = large_images(alter=lambda content, times: content if times else b"x" + content[1:])

    await build(final := tmp_path / "bundle", source)

    assert final.read_bytes() == expected
    assert source.sent == 2 * sum(map(len, source.blobs.values()))


async def test_content_that_is_wrong_twice_fails_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Row 24: one full retry, then the image fails."""
    bad = max(large_images().blobs, key=lambda digest: len(large_images().blobs[digest]))
    source = large_images(alter=lambda content, _: b"x" + content[1:] if len(content) > LARGEST else content)
    events: list[Event] = []

    async with open_writer(tmp_path / "bundle") as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=events.append)
        await writer.publish(b"", allow_partial=True)

    failed = [event for event in events if isinstance(event, Failed)]
    assert [str(event.descriptor.digest) for event in failed] == [bad]
    assert isinstance(failed[0].error, DigestMismatch)
    assert source.opened.count((bad, 0)) == 2
    with open_bundle(tmp_path / "bundle") as bundle:
        assert [image.name for image in bundle.images] == ["docker.io/library/other:latest"]


async def test_a_prefix_that_turns_out_wrong_is_fetched_again_without_a_range(tmp_path: Path) -> None:
    """Row 25: a range is never spliced onto bytes that do not belong to it."""
    expected = await undisturbed(tmp_path)
    final = tmp_path / "bundle"
    wrong = large_images(budget=3_000_000, alter=lambda content, _: b"x" + content[1:])
    with pytest.raises(SyncerError):
        await build(final, wrong)

    source = large_images()
    events = await build(final, source)

    assert final.read_bytes() == expected
    assert not any(event.resumed for event in events if isinstance(event, Copied))
    resumed = [digest for digest, offset in source.opened if offset]
    assert resumed
    assert all(source.opened.count((digest, 0)) == 1 for digest in resumed)


async def test_more_bytes_than_the_slot_has_never_reach_its_neighbour(tmp_path: Path) -> None:
    """Row 26: what comes after a blob's size is an error."""
    source = large_images(alter=lambda content, _: content + bytes(1_000_000))
    events: list[Event] = []

    async with open_writer(tmp_path / "bundle") as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=events.append)
        await writer.publish(b"", allow_partial=True)

    assert {type(event.error) for event in events if isinstance(event, Failed)} == {DigestMismatch}
    with open_bundle(tmp_path / "bundle") as bundle:
        assert (await verify_bundle(bundle)).images == 0


async def test_two_builds_of_one_bundle_do_not_meet(tmp_path: Path) -> None:
    """Row 47: the second one says so at once, and the first one is not disturbed."""
    final = tmp_path / "bundle"
    source = large_images()

    async with open_writer(final) as writer:
        with pytest.raises(Locked, match=rf"another run \(process {os.getpid()}, begun .+\) is writing") as refused:
            async with open_writer(final):
                pass
        assert "wait for it to end" in (refused.value.hint or "")
        await transfer(items_of(source), source, writer, options=Options(), emit=lambda _: None)
        await writer.publish(b"version: 1\n")

    assert final.read_bytes() == await undisturbed(tmp_path)


async def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    """Row 47: a killed build leaves no lock behind."""
    final, log = tmp_path / "bundle", tmp_path / "log"
    assert run_build(final, "tar.zst", log, "bundle.written=kill") == -9

    async with open_writer(final):
        pass


@pytest.mark.parametrize("form", FORMATS)
async def test_a_blob_that_broke_off_is_gone_on_with_by_the_same_run(tmp_path: Path, form: Format) -> None:
    source = large_images(budget=LARGEST - 50_000)
    content = next(content for content in source.blobs.values() if len(content) > 2 * 2**20)
    descriptor = Descriptor(images.OCI_LAYER, Digest.of(content), len(content))
    blob = source.blob(Reference.parse("example.com/app"), descriptor)

    async with open_writer(tmp_path / "bundle", format=form) as writer:
        await writer.reserve("", descriptor, None)
        with pytest.raises(Interrupted):
            await writer.write("", blob, Progress(descriptor))
        source.budget = 2**60
        assert await writer.write("", blob, Progress(descriptor))

    assert [offset >= 2**20 for _, offset in source.opened] == [False, True]


@pytest.mark.parametrize("form", FORMATS)
async def test_a_full_disk_ends_the_build_and_the_next_one_goes_on(tmp_path: Path, form: Format) -> None:
    """Rows 43 and 44: one sentence and a hint; nothing gets the bundle's name."""
    expected = await undisturbed(tmp_path, form)
    final = tmp_path / "bundle"

    with file_size_limit(2_000_000), pytest.raises(TargetFull, match="file too large") as caught:
        await build(final, large_images(), form)

    assert caught.value.hint
    assert not final.exists()
    await build(final, large_images(), form)
    assert final.read_bytes() == expected


async def test_a_bundle_that_cannot_fit_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    """Row 43: what is needed is known from the descriptors."""
    petabyte = Descriptor(images.OCI_LAYER, Digest.of(b"large"), 2**50)

    async with open_writer(tmp_path / "bundle", format="tar") as writer:
        with pytest.raises(TargetFull, match=r"needs 1\.13 PB, and [0-9.]+ [A-Z]B are free") as refused:
            await writer.reserve("", petabyte, None)

    disk = os.statvfs(tmp_path)
    ((number, unit),) = re.findall(r"([0-9.]+) ([MGT])B are free", str(refused.value))
    free = float(number) * {"M": 1e6, "G": 1e9, "T": 1e12}[unit]
    assert free == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.1)  # others may write meanwhile
    assert refused.value.hint


@dataclass(slots=True)
class LateSource(FaultySource):
    """Says nothing of the image ``late`` before whoever wants to fetch others has had every opportunity to."""

    async def manifest(self, reference: Reference) -> AnyManifest:
        if reference.path.endswith("late"):
            for _ in range(500):
                await anyio.lowlevel.checkpoint()
        return self._find(reference)


@pytest.mark.parametrize("is_begun", [False, True])
async def test_nothing_is_fetched_before_all_of_a_bundle_is_known_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_begun: bool
) -> None:
    """Row 43: though what was found first would fit, and an earlier build has brought some of it."""
    if is_begun:
        await break_off(tmp_path / "bundle", 1_500_000)
    source = LateSource()
    add_large_images(source)
    source.add("late", images.image("late", layers=[images.layer("late", 5_000_000)]))

    def small_disk(file: int) -> os.statvfs_result:
        free = 1600 - os.fstat(file).st_blocks // 8  # of 6.5 MB in all
        return os.statvfs_result((4096, 4096, 4096, free, free, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "fstatvfs", small_disk)

    with pytest.raises(TargetFull, match=r"bundle needs 8\.\d\d MB, and 6\.\d\d MB are free"):
        await build(tmp_path / "bundle", source)

    assert source.opened == []


async def test_a_cancelled_build_leaves_all_that_landed_and_no_lock(tmp_path: Path) -> None:
    """Row 45: whatever is under way ends, and the next build goes on."""
    final = tmp_path / "bundle"
    expected = await undisturbed(tmp_path)
    source = large_images()
    stuck = anyio.Event()

    def hang_on(content: bytes, times: int) -> bytes:
        stuck.set()
        return content

    source.alter = hang_on
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(build, final, source)
        await stuck.wait()
        tasks.cancel_scope.cancel()

    assert not final.exists()
    await build(final, large_images())
    assert final.read_bytes() == expected


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_a_build_leaves_no_file_open_however_it_ends(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    await break_off(tmp_path / "first", 1_000_000)  # what the first build of a process opens for good
    before = open_files()

    await break_off(final, 1_000_000)
    assert open_files() == before
    async with open_writer(final):
        with pytest.raises(Locked):
            async with open_writer(final):
                pass
    assert open_files() == before
    await build(final, large_images())
    assert open_files() == before
    with pytest.raises(AlreadyThere):
        await build(final, large_images())
    assert open_files() == before


async def test_a_bundle_that_is_there_is_replaced_only_when_that_is_asked_for(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    final.write_bytes(b"somebody's only copy")

    with pytest.raises(AlreadyThere, match="is already there") as refused:
        await build(final, large_images())
    assert "--force" in (refused.value.hint or "")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("bundle", b"somebody's only copy")]

    source = large_images()
    async with open_writer(final, force=True) as writer:
        assert final.read_bytes() == b"somebody's only copy"
        await transfer(items_of(source), source, writer, options=Options(), emit=lambda _: None)
        await writer.publish(b"version: 1\n")
    assert final.read_bytes() == await undisturbed(tmp_path)


@pytest.mark.parametrize("force", [False, True])
async def test_a_bundle_that_another_process_publishes_at_the_last_moment_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool
) -> None:
    """Row 47: between the opening of its file and the lock."""
    final, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    await break_off(final, 3_000_000)
    content, before = partial.read_bytes(), open_files()
    lock = fcntl.flock

    def locked_too_late(file: int, how: int) -> None:
        if not final.exists():
            partial.rename(final)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", locked_too_late)
    if force:
        async with open_writer(final, force=True):
            assert final.read_bytes() == content
            assert not partial.samefile(final)
    else:
        with pytest.raises(AlreadyThere):
            async with open_writer(final):
                pass

    assert final.read_bytes() == content
    assert open_files() == before


async def test_what_was_fetched_stays_when_another_process_publishes_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 47: under the same name, and from a file of its own."""
    final, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    await break_off(final, 3_000_000)
    content = partial.read_bytes()
    lock = fcntl.flock

    def locked_too_late(file: int, how: int) -> None:
        final.write_bytes(b"another")
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", locked_too_late)
    with pytest.raises(AlreadyThere):
        async with open_writer(final):
            pass

    assert (final.read_bytes(), partial.read_bytes()) == (b"another", content)


async def test_a_build_that_was_begun_is_gone_on_with_when_another_bundle_has_come_to_its_place(
    tmp_path: Path,
) -> None:
    """The refusal takes nothing away that was fetched."""
    final = tmp_path / "bundle"
    first = await break_off(final, 3_000_000)
    final.write_bytes(b"another")
    with pytest.raises(AlreadyThere):
        await build(final, large_images())
    final.unlink()

    source = large_images()
    await build(final, source)

    assert first.sent + source.sent == sum(map(len, source.blobs.values()))


async def test_the_directory_of_a_bundle_is_made(tmp_path: Path) -> None:
    final = tmp_path / "not" / "there" / "bundle"

    await build(final, large_images())

    assert final.read_bytes() == await undisturbed(tmp_path)
    assert list(final.parent.iterdir()) == [final]


async def test_a_directory_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    """Row 43: also when a file is where a directory must be."""
    (tmp_path / "file").write_text("")

    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=f"{directory} is to be a directory, and a file is there"):
            async with open_writer(directory / "bundle"):
                pass
    with pytest.raises(TargetFull, match="cannot write"):
        async with open_writer(Path("/proc/bundle")):
            pass


async def test_a_build_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    async with open_writer(tmp_path / "bundle"):
        pass

    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", FORMATS)
async def test_sixty_kills_end_in_the_same_bytes(tmp_path: Path, form: Format) -> None:
    """Row 46: at random instants, with nothing fetched twice beyond a megabyte per open blob and kill."""
    expected = await undisturbed(tmp_path, form)
    points = ["bundle.allotted", "bundle.written", "bundle.marked", "bundle.synced", "bundle.renamed"]
    chosen = random.Random(60)
    kills = builds = 0
    while kills < 60:
        final, log = tmp_path / f"bundle{builds}", tmp_path / f"log{builds}"
        own = 0
        while (
            run_build(final, form, log, f"{chosen.choice(points)}=kill@{chosen.randrange(1, 10)}")
            and not final.exists()
        ):
            own += 1
        kills, builds = kills + own, builds + 1

        assert final.read_bytes() == expected
        assert fetched(log) <= CONTENT + own * LOST


def tamper(partial: Path, how: str) -> None:
    """What another process may do to a file that is being written."""
    size = partial.stat().st_size
    match how:
        case "cuts off its last bytes":
            os.truncate(partial, size - 100)
        case "cuts off half of it":
            os.truncate(partial, size // 2)
        case "cuts off half of it and makes it as long as before":
            os.truncate(partial, size // 2)
            os.truncate(partial, size)
        case "leaves a hole in a layer":
            content = partial.read_bytes()
            os.truncate(partial, size // 3)
            with partial.open("r+b") as file:
                file.seek(size // 3 + 100_000)
                file.write(content[size // 3 + 100_000 :])
        case "removes it":
            partial.unlink()
        case "puts another one in its place":
            (other := partial.with_name("other")).write_bytes(partial.read_bytes())
            other.replace(partial)
        case "alters a manifest":
            with partial.open("r+b") as file:
                file.seek(partial.read_bytes().index(b"blobs/sha256/") + 700)
                file.write(b"x")
        case "alters a header":
            with partial.open("r+b") as file:
                file.seek(partial.read_bytes().rindex(b"blobs/sha256/"))
                file.write(b"x")


TAMPERING = [
    "cuts off its last bytes",
    "cuts off half of it",
    "cuts off half of it and makes it as long as before",
    "leaves a hole in a layer",
    "removes it",
    "puts another one in its place",
    "alters a manifest",
    "alters a header",
]


@pytest.mark.parametrize("how", TAMPERING)
async def test_a_partial_file_that_another_process_alters_is_not_published(tmp_path: Path, how: str) -> None:
    """Row 48: it is looked at before it gets its name, and the next build mends it."""
    expected = await undisturbed(tmp_path, "tar")
    final, source = tmp_path / "bundle", large_images()

    async with open_writer(final, format="tar") as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=lambda _: None)
        tamper(tmp_path / "bundle.partial", how)
        with pytest.raises(TargetFull, match="by another process, so nothing is published") as refused:
            await writer.publish(b"version: 1\n")

    assert "run the same command again" in str(refused.value.hint)
    assert not final.exists()
    await build(final, large_images(), "tar")
    assert final.read_bytes() == expected


@pytest.mark.parametrize("how", ["cuts off its last bytes", "removes it", "puts another one in its place", "appends"])
async def test_a_partial_file_that_is_altered_after_its_last_look_is_not_published(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 48: between the moment when it is on the disk and its name."""
    expected = await undisturbed(tmp_path, "tar")
    final, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    fsync = os.fsync

    def tampering(file: int) -> None:
        fsync(file)
        if os.fstat(file).st_size == len(expected):
            if how == "appends":
                os.truncate(partial, len(expected) + 1)
            else:
                tamper(partial, how)

    monkeypatch.setattr(os, "fsync", tampering)
    with pytest.raises(TargetFull, match="by another process, so nothing is published"):
        await build(final, large_images(), "tar")

    assert not final.exists()


async def test_what_another_process_appends_to_a_partial_file_is_no_part_of_the_bundle(tmp_path: Path) -> None:
    final, source = tmp_path / "bundle", large_images()

    async with open_writer(final, format="tar") as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=lambda _: None)
        with (tmp_path / "bundle.partial").open("ab") as file:
            file.write(b"x" * 100_000)
        await writer.publish(b"version: 1\n")

    assert final.read_bytes() == await undisturbed(tmp_path, "tar")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("how", TAMPERING[:3])
async def test_a_partial_file_that_is_cut_short_between_two_writes_is_not_published(
    tmp_path: Path, form: Format, how: str
) -> None:
    """Row 48: later writes would fill the place again, and leave zeros where content was."""
    expected = await undisturbed(tmp_path, form)
    final = tmp_path / "bundle"

    def cut(content: bytes, times: int) -> bytes:
        if len(content) < 1_000_000 or (tmp_path / "tampered").exists():
            return content
        if (tmp_path / "bundle.partial").stat().st_size > 1_900_000:
            tamper(tmp_path / "bundle.partial", how)
            (tmp_path / "tampered").touch()
        return content

    with pytest.raises(SyncerError, match="by another process, so nothing is published"):
        await build(final, large_images(alter=cut), form)

    assert (tmp_path / "tampered").exists()
    assert not final.exists()
    await build(final, large_images(), form)
    assert final.read_bytes() == expected
