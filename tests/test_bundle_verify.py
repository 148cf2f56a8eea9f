"""Verification accounts for every byte of a bundle, and says what is wrong in one sentence each."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncer.bundle import Format, check_structure, open_bundle, open_writer, verify_bundle
from syncer.errors import InvalidBundle
from syncer.transfer.events import Event
from syncer.transfer.run import Options, transfer
from tests.support import images
from tests.support.bundles import FORMATS, build, items_of, some_images
from tests.support.memory import MemorySource


async def verify(path: Path) -> None:
    with open_bundle(path) as bundle:
        await verify_bundle(bundle)


@pytest.mark.parametrize("form", FORMATS)
async def test_a_sound_bundle_is_counted(tmp_path: Path, form: Format) -> None:
    source = some_images()
    await build(final := tmp_path / "bundle", source, form)
    advanced: list[int] = []

    with open_bundle(final) as bundle:
        check = await verify_bundle(bundle, advance=advanced.append)
        assert check == check_structure(bundle)

    assert (check.images, check.manifests, check.blobs) == (4, 13, len(source.blobs))
    assert check.bytes == sum(map(len, source.blobs.values())) + sum(
        len(manifest.content) for manifest in source.manifests.values()
    )
    assert check.unreferenced == ()
    assert check.bytes < sum(advanced) < final.stat().st_size * 2


@pytest.mark.parametrize("form", FORMATS)
async def test_a_partial_bundle_is_sound(tmp_path: Path, form: Format) -> None:
    """The places of content that could not be had are filled with nothing, held to be so, and counted."""
    source = some_images()
    small = images.layer("small", 3000)
    source.add("small", images.image("small", layers=[small]))
    del source.blobs[images.digest_of(small.content)]
    final = tmp_path / "bundle"
    events: list[Event] = []
    async with open_writer(final, format=form) as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=events.append)
        published = await writer.publish(b"", allow_partial=True)

    with open_bundle(final) as bundle:
        check = await verify_bundle(bundle)
        offset, length = max(bundle.contents.blanks, key=lambda blank: blank[1])

    assert (check.images, check.unreferenced) == (4, ())
    assert (check.file_size, check.padding) == (final.stat().st_size, published.padding)
    assert 3000 < check.padding < 15_000
    alter(final, offset + length // 2)
    with pytest.raises(InvalidBundle, match="not empty"):
        await verify(final)


def alter(path: Path, offset: int, mask: int = 1) -> None:
    """Flip bits of one byte."""
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ mask]), offset)


def some_offsets(size: int) -> Iterator[int]:
    chosen = random.Random(1)
    yield from range(0, 2000, 7)
    yield from range(size - 500, size, 3)
    yield from (chosen.randrange(size) for _ in range(300))


async def is_found(path: Path, offset: int) -> bool:
    """Whether verification notices another byte at ``offset``."""
    alter(path, offset, 0x10)
    try:
        await verify(path)
    except InvalidBundle:
        return True
    else:
        return False
    finally:
        alter(path, offset, 0x10)


@pytest.mark.parametrize("form", FORMATS)
async def test_a_flipped_byte_anywhere_is_found(tmp_path: Path, form: Format) -> None:
    """Row 24 of the faults, at rest: headers, blocks, padding and the seek table are no exception.

    One thing is: a few bytes of a compressed frame may have two values that mean the same content.
    """
    source = MemorySource()
    source.add("busybox", images.image("busybox", layers=[images.layer("one", 200_000), images.layer("two", 1000)]))
    await build(final := tmp_path / "bundle", source, form)
    with open_bundle(final) as bundle:
        members = bundle.contents.members
    packed = [range(member.start + 6, member.start + member.packed) for member in members.values() if member.packed]

    missed = [offset for offset in some_offsets(final.stat().st_size) if not await is_found(final, offset)]

    assert all(any(offset in place for place in packed) for offset in missed)
    assert len(missed) < 5
    await verify(final)


@pytest.mark.parametrize("form", FORMATS)
async def test_a_bundle_that_is_cut_short_anywhere_is_refused(tmp_path: Path, form: Format) -> None:
    await build(final := tmp_path / "bundle", some_images(), form)
    whole = final.read_bytes()

    for length in (0, 1, 3, 4, 511, 512, 1000, 5000, len(whole) // 2, len(whole) - 513, len(whole) - 9, len(whole) - 1):
        final.write_bytes(whole[:length])
        with pytest.raises(InvalidBundle):
            await verify(final)


@pytest.mark.parametrize("form", FORMATS)
async def test_what_follows_a_bundle_is_refused(tmp_path: Path, form: Format) -> None:
    await build(final := tmp_path / "bundle", some_images(), form)
    whole = final.read_bytes()
    said = "more than the bundle" if form == "tar.zst" else "something follows the end"

    for more in (b"m", b"more", b"m" * 5000):
        final.write_bytes(whole + more)
        with pytest.raises(InvalidBundle, match=said) as caught:
            await verify(final)
        assert "cut short" not in str(caught.value)


@pytest.mark.parametrize("form", FORMATS)
async def test_an_unfinished_bundle_is_called_that(tmp_path: Path, form: Format) -> None:
    """The file of a build that was stopped: it lacks no more than what the same build adds."""
    source, final = some_images(), tmp_path / "bundle"
    async with open_writer(final, format=form) as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=lambda _: None)

    with pytest.raises(InvalidBundle, match="is the unfinished file of a build") as caught:
        await verify(tmp_path / "bundle.partial")

    assert "run the same build again" in (caught.value.hint or "")


async def test_everything_that_is_wrong_is_listed(tmp_path: Path) -> None:
    await build(final := tmp_path / "bundle", some_images())
    with open_bundle(final) as bundle:
        large = [member for member in bundle.contents.members.values() if member.packed is None][:3]
    for member in large:
        alter(final, member.start + 600)

    with pytest.raises(InvalidBundle, match="and 2 more things are wrong") as caught:
        await verify(final)

    assert sorted(caught.value.findings) == sorted(
        f"{member.name}: its content is not what its digest names" for member in large
    )


async def test_a_bundle_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    """Row 48: the file is known by its device, inode, size and time."""
    await build(final := tmp_path / "bundle", some_images())

    with open_bundle(final) as bundle:
        assert not bundle.changed()
        (tmp_path / "other").write_bytes(final.read_bytes())
        (tmp_path / "other").replace(final)

        assert bundle.changed()
        with pytest.raises(InvalidBundle, match="changed while it was being read"):
            await verify_bundle(bundle)
