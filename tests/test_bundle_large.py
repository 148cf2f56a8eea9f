"""Content beyond 4 and 8 GiB has its place, and costs no memory.  Holes in the files stand for the bytes."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncer.bundle import Format, open_bundle, verify_bundle
from syncer.bundle.framing import PlainFraming, Stored, ZstdFraming
from syncer.bundle.layout import INDEX, write_index
from syncer.bundle.partial import open_partial
from syncer.bundle.slots import Slot
from syncer.oci import Digest
from tests.support.bundles import FORMATS
from tests.support.programs import run

GIB = 2**30
ZEROS_5_GIB = Digest("sha256", "7f06c62352aebd8125b2a1841e2b9e1ffcbed602f381c3dcb3200200e383d1d5")


def write_holes(file: int, slot: Slot, stored: Stored) -> None:
    """Everything of a slot that is not zero: its tar header, and the headers of frames and blocks."""
    stored.write(file, 0, [slot.header])
    position = stored.framing.run(0)
    while position < stored.total:
        header = stored.framing.header(position, stored.total)
        os.pwrite(file, header, stored.start + stored.framing.offset(position) - len(header))
        position += stored.framing.run(position)


@contextmanager
def sparse_bundle(final: Path, form: Format, *contents: tuple[Digest, int]) -> Iterator[Path]:
    """A bundle of content that is all zeros, and no images."""
    framing = ZstdFraming() if form == "tar.zst" else PlainFraming()
    with open_partial(final, framing, resume=False, force=False) as partial:
        slots = [partial.allot(digest, size) for digest, size in contents]
        for slot in slots:
            write_holes(partial.file, slot, slot.stored(framing))
        partial.finish(slots, [(INDEX, write_index([]))])
        partial.publish()
    yield final
    final.unlink()


@pytest.mark.parametrize("form", FORMATS)
async def test_the_place_of_large_content_that_is_not_wanted_after_all_is_filled(tmp_path: Path, form: Format) -> None:
    """Every reader finds what comes after it, though it takes more than one frame.  What never came takes no room."""
    final, small = tmp_path / "bundle", bytes(1000)
    framing = ZstdFraming() if form == "tar.zst" else PlainFraming()
    with open_partial(final, framing, resume=False, force=False) as partial:
        slots = [partial.allot(ZEROS_5_GIB, GIB // 2 + 2**20)]
        partial.allot(Digest.of(b"never came"), GIB // 4)
        slots.append(partial.allot(Digest.of(small), len(small)))
        for slot in slots:
            write_holes(partial.file, slot, slot.stored(framing))
        partial.finish(slots[1:], [(INDEX, write_index([]))])
        partial.publish()

    with open_bundle(final) as bundle:
        assert list(bundle.digests) == [Digest.of(small)]
        assert bundle.read(Digest.of(small)) == small
    if sys.platform != "darwin":  # whose file system makes no holes by itself
        assert final.stat().st_blocks * 512 < final.stat().st_size - GIB // 5
    tested = await run("zstd", "-t", str(final)) if form == "tar.zst" else await run("tar", "tf", str(final))
    assert tested.code == 0, tested.stderr


def zeros(count: int) -> Digest:
    hasher = hashlib.sha256()
    for piece in itertools.repeat(bytes(2**20), count // 2**20):
        hasher.update(piece)
    return Digest("sha256", hasher.hexdigest())


@pytest.mark.parametrize("form", FORMATS)
async def test_a_blob_of_five_gibibytes_is_read_anywhere(tmp_path: Path, form: Format) -> None:
    after = (Digest.of(bytes(1000)), 1000)
    with (
        sparse_bundle(tmp_path / "bundle", form, (ZEROS_5_GIB, 5 * GIB), after) as final,
        open_bundle(final) as bundle,
    ):
        assert final.stat().st_blocks * 512 < GIB
        for offset in (0, GIB // 2 - 512, GIB // 2, 2**31 - 1, 2**32 - 1, 2**32, 5 * GIB - 1):
            assert bundle.read(ZEROS_5_GIB, offset, 300_000) == bytes(min(300_000, 5 * GIB - offset))
        assert bundle.read(ZEROS_5_GIB, 5 * GIB) == b""
        assert bundle.read(after[0]) == bytes(1000)


@pytest.mark.parametrize("form", FORMATS)
async def test_a_bundle_of_several_frames_is_verified_and_agreed_upon(tmp_path: Path, form: Format) -> None:
    """A blob of 1.2 GiB lies in three frames."""
    size = 1200 * 2**20
    with sparse_bundle(tmp_path / f"bundle.{form}", form, (zeros(size), size)) as final:
        with open_bundle(final) as bundle:
            check = await verify_bundle(bundle)

        assert check.bytes == size
        if form == "tar.zst":
            tested = await run("zstd", "-t", str(final))
            assert tested.code == 0, tested.stderr
        listed = await run("tar", "tvf", str(final))
        assert listed.code == 0, listed.stderr
        assert str(size) in listed.stdout


async def test_tar_understands_a_blob_of_nine_gibibytes(tmp_path: Path) -> None:
    """Beyond 8 GiB a tar header counts in base 256."""
    large, small = (Digest.of(b"large"), 9 * GIB), (Digest.of(b"small"), 77)
    with sparse_bundle(tmp_path / "bundle.tar", "tar", large, small) as final:
        listed = await run("tar", "tvf", str(final))
        with tarfile.open(final) as archive:
            sizes = {member.name: member.size for member in archive}
        with open_bundle(final) as bundle:
            read = bundle.size(large[0])

    assert (listed.code, listed.stderr) == (0, "")
    assert str(9 * GIB) in listed.stdout
    assert sizes[f"blobs/sha256/{large[0].hex}"] == read == 9 * GIB


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_five_gibibytes_are_verified_and_agreed_upon(tmp_path: Path) -> None:
    with sparse_bundle(tmp_path / "bundle.tar.zst", "tar.zst", (ZEROS_5_GIB, 5 * GIB)) as final:
        with open_bundle(final) as bundle:
            assert (await verify_bundle(bundle)).bytes == 5 * GIB
        tested = await run("zstd", "-t", str(final))
        assert tested.code == 0, tested.stderr


def test_memory_does_not_grow_with_the_content(tmp_path: Path) -> None:
    """Row 49: eight blobs of 48 MiB at once, written and verified in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.bundle_weigher", str(tmp_path / "bundle"), "8", "48"],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, ended.stdout.split())

    assert after - before < 8 * 2 + 8  # megabytes: two for each blob under way, and some
