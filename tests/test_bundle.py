"""A bundle as others see it: one file that zstd, tar and skopeo read, the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from syncer.bundle import Format, open_bundle, open_writer
from syncer.content import FileBlob
from syncer.errors import AlreadyThere, InvalidFile, NotFound, SyncerError, UsageError
from syncer.oci import Descriptor, Digest, Reference
from syncer.transfer.events import Event, ImageFailed
from syncer.transfer.run import Options, transfer
from tests.support import images
from tests.support.bundles import FORMATS, build, items_of, some_images
from tests.support.programs import run


@pytest.mark.parametrize("form", FORMATS)
async def test_everything_that_was_written_is_read_in_place(tmp_path: Path, form: Format) -> None:
    source = some_images()

    await build(final := tmp_path / "bundle", source, form)

    with open_bundle(final) as bundle:
        assert [str(image.reference) for image in bundle.images] == list(source.names)
        assert {str(digest) for digest in bundle.digests} == set(source.blobs) | set(source.manifests)
        for digest, content in source.blobs.items():
            assert bundle.read(Digest.parse(digest)) == content
            assert bundle.size(Digest.parse(digest)) == len(content)
        for image in bundle.images:
            assert (await bundle.resolve(image.reference)).digest == image.descriptor.digest
            assert (await bundle.manifest(image.reference)).descriptor.digest == image.descriptor.digest
        assert bundle.definition == b"version: 1\n"


@pytest.mark.parametrize("form", FORMATS)
async def test_any_part_of_a_blob_can_be_read(tmp_path: Path, form: Format) -> None:
    """As bytes, into a buffer, as a stream from an offset, and by the extents that sendfile needs."""
    source = some_images()
    await build(final := tmp_path / "bundle", source, form)
    digest, content = max(source.blobs.items(), key=lambda blob: len(blob[1]))
    name = Digest.parse(digest)

    with open_bundle(final) as bundle:
        blob = bundle.blob(Reference.parse("busybox"), Descriptor(images.OCI_LAYER, name, len(content)))
        assert isinstance(blob, FileBlob)
        for offset in (0, 1, 130_559, 130_560, 130_561, 262_144, len(content) - 1, len(content)):
            assert bundle.read(name, offset) == content[offset:]
            assert bundle.read(name, offset, 200_000) == content[offset : offset + 200_000]

            buffer = bytearray(200_000)
            length = bundle.read_into(name, memoryview(buffer), offset)
            assert buffer[:length] == content[offset : offset + 200_000]

            async with blob.open(offset) as pieces:
                assert b"".join([bytes(piece) async for piece in pieces]) == content[offset:]

            assert (found := bundle.in_place(name, offset, len(content))) is not None
            assert b"".join(os.pread(found[0], length, start) for start, length in found[1]) == content[offset:]


async def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    source = some_images()

    await build(tmp_path / "one", source)
    await build(tmp_path / "two", source)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("form", FORMATS)
async def test_tar_and_zstd_agree(tmp_path: Path, form: Format) -> None:
    source = some_images()
    await build(final := tmp_path / f"bundle.{form}", source, form)

    if form == "tar.zst":
        tested = await run("zstd", "-t", str(final))
        assert tested.code == 0, tested.stderr
        unpacked = await run("zstd", "-d", str(final), "-o", str(tmp_path / "bundle.tar"))
        assert unpacked.code == 0, unpacked.stderr
    listed = await run("tar", "tf", str(final))

    assert listed.code == 0, listed.stderr
    assert listed.stderr == ""
    with tarfile.open(tmp_path / "bundle.tar") as archive:
        names = archive.getnames()
        assert listed.stdout.split() == names
        assert (names[0], names[-3:-1]) == ("oci-layout", ["bundle-definition.yaml", "index.json"])
        for member in archive:
            assert (member.mtime, member.mode, member.uid, member.gid) == (0, 0o644, 0, 0)
            content = archive.extractfile(member)
            assert content is not None
            if member.name.startswith("blobs/"):
                assert hashlib.sha256(content.read()).hexdigest() == member.name.removeprefix("blobs/sha256/")


@pytest.mark.parametrize("form", FORMATS)
async def test_skopeo_reads_every_image(tmp_path: Path, form: Format) -> None:
    source = some_images(docker=False)
    await build(final := tmp_path / f"bundle.{form}", source, form)

    for item in items_of(source):
        copy = tmp_path / f"copy-{item.source.repository.replace('/', '-')}"
        copied = await run("skopeo", "copy", "--all", f"oci-archive:{final}:{item.source}", f"dir:{copy}")

        assert copied.code == 0, copied.stderr
        root = source.manifests[source.names[str(item.source)]]
        assert (copy / "manifest.json").read_bytes() == root.content
        for digest, content in root.all_blobs().items():
            assert (copy / digest.removeprefix("sha256:")).read_bytes() == content


async def test_nothing_but_the_bundle_stays(tmp_path: Path) -> None:
    source = some_images()

    await build(tmp_path / "output" / "bundle.tar.zst", source)

    assert [path.name for path in (tmp_path / "output").iterdir()] == ["bundle.tar.zst"]


async def test_a_bundle_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    source = some_images()
    await build(final := tmp_path / "bundle", source)
    before = final.read_bytes()

    with pytest.raises(AlreadyThere):
        await build(final, source)

    assert final.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


async def test_a_pipe_and_a_directory_are_not_replaced_by_a_bundle(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.tar")
    (directory := tmp_path / "directory.tar").mkdir()

    for path, what in ((pipe, "is not a file to write"), (directory, "is a directory")):
        with pytest.raises(UsageError, match=what):
            async with open_writer(path, force=True):
                pass

    assert sorted(tmp_path.iterdir()) == [directory, pipe]
    assert pipe.is_fifo()


async def test_a_build_that_lacks_something_publishes_nothing(tmp_path: Path) -> None:
    source = some_images()
    del source.blobs[next(iter(source.blobs))]

    with pytest.raises(SyncerError, match="missing"):
        await build(tmp_path / "bundle", source)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.journal", "bundle.partial"]


@pytest.mark.parametrize("form", FORMATS)
async def test_a_partial_bundle_is_valid_and_lacks_the_failed_image_alone(tmp_path: Path, form: Format) -> None:
    source = some_images(docker=False)
    lost = next(iter(source.manifests[source.names["registry.example:5000/app1:v1"]].children[0].blobs))
    del source.blobs[lost]
    final, items = tmp_path / f"bundle.{form}", items_of(source)
    events: list[Event] = []

    async with open_writer(final, format=form) as writer:
        await transfer(items, source, writer, options=Options(), emit=events.append)
        await writer.publish(b"", allow_partial=True)

    assert [str(event.item.source) for event in events if isinstance(event, ImageFailed)] == [
        "registry.example:5000/app1:v1"
    ]
    with open_bundle(final) as bundle:
        assert [image.name for image in bundle.images] == [
            "registry.example:5000/app0:v1",
            "registry.example:5000/app2:v1",
            "docker.io/library/busybox:latest",
        ]
    for item in (items[0], items[2], items[3]):
        copied = await run("skopeo", "copy", "--all", f"oci-archive:{final}:{item.source}", f"dir:{tmp_path / 'copy'}")
        assert copied.code == 0, copied.stderr
    listed = await run("tar", "tf", str(final))
    assert (listed.code, listed.stderr) == (0, "")


async def test_a_missing_file_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="no such file"), open_bundle(tmp_path / "none"):
        pass


async def test_an_image_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    source = some_images()
    await build(final := tmp_path / "bundle", source)

    with open_bundle(final) as bundle, pytest.raises(NotFound):
        await bundle.resolve(Reference.parse("registry.example:5000/app0:v2"))
