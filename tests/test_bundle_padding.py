"""What an earlier run fetched, and this one does not want, is no part of the bundle: not even as padding."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from syncer import failpoints
from syncer.api.build import BundleFile
from syncer.api.result import BuildResult, RunOptions, to_all
from syncer.api.save import copy
from syncer.bundle import Format, open_bundle, open_writer, verify_bundle
from syncer.content import FileProgress, Item
from syncer.errors import AlreadyThere, TargetFull
from syncer.log import log_events, open_log
from syncer.oci import Descriptor, Digest
from syncer.profiles.definition.definition import Definition
from syncer.report import Account, ProgressMeter, human_bytes
from syncer.transfer.events import Compacted, Compacting, Copied, Event
from syncer.transfer.run import Options, transfer
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundle_builder import add_large_images
from tests.support.bundles import FORMATS, build, items_of
from tests.support.cli import syncer
from tests.support.images import digest_of
from tests.support.memory import MemorySource

MANY = 60
WANTED = 5
SIZE = 30_000  # bytes of the layer that each image has alone


def many_images(*, lacking: str | None = None) -> MemorySource:
    """Images that share a layer; the source has lost the layer of the one called ``lacking``."""
    source = MemorySource()
    base = images.layer("base", 50_000)
    for number in range(MANY):
        own = images.layer(f"of app{number}", SIZE)
        source.add(f"app{number}", images.image(f"app{number}", layers=[base, own]))
        if f"app{number}" == lacking:
            del source.blobs[digest_of(own.content)]
    return source


def wanted(source: MemorySource) -> list[Item]:
    """A few of the images, in another order than before."""
    return items_of(source)[WANTED:0:-1]


async def interrupt(final: Path, form: Format = "tar.zst") -> None:
    """A build of all images that has fetched everything, and ended before it published."""
    source = many_images()
    async with open_writer(final, format=form) as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=lambda _: None)


async def undisturbed(tmp_path: Path, form: Format = "tar.zst") -> bytes:
    source = many_images()
    await build(final := tmp_path / "undisturbed", source, form, items=wanted(source))
    return final.read_bytes()


def beside(final: Path) -> list[str]:
    return sorted(path.name for path in final.parent.iterdir() if path.name.startswith(final.name))


@pytest.mark.parametrize("form", FORMATS)
async def test_a_bundle_of_less_than_an_interrupted_build_began_has_nothing_of_the_rest(
    tmp_path: Path, form: Format
) -> None:
    """It is the file of a build that was never interrupted, and nothing is fetched again for it."""
    expected = await undisturbed(tmp_path, form)
    await interrupt(final := tmp_path / "bundle", form)
    source = many_images()

    events = await build(final, source, form, items=wanted(source))

    assert final.read_bytes() == expected
    assert not [event for event in events if isinstance(event, Copied)]
    assert beside(final) == ["bundle"]


async def test_whoever_waits_for_the_copy_hears_how_far_it_is(tmp_path: Path) -> None:
    """It takes minutes where tens of GB are copied, long after the last byte has come."""
    await interrupt(tmp_path / "edge.tar.zst")
    source, file = many_images(), BundleFile(output=tmp_path)
    account, display, log = Account(run_id="r", fetches=True, sends=False), ProgressMeter(), io.StringIO()
    events: list[Event] = []
    async with file.open("edge") as writer:
        await transfer(wanted(source), source, writer, options=Options(), emit=account)
        tell = to_all(events.append, display, log_events(open_log(log, run_id="r")))
        built = await file.publish(writer, "edge", account.report(), lambda: Definition(name="edge"), tell)

    began, ended = events
    assert isinstance(began, Compacting)
    assert isinstance(ended, Compacted)
    assert began.path == ended.path == built.path
    assert built.size * 0.9 < began.progress.size == began.progress.done < built.size
    assert re.findall("file_compact(?:ing|ed)", log.getvalue()) == ["file_compacting", "file_compacted"]
    assert display.measure(1.0).step is None
    display(Compacting(Path("/out/edge.tar.zst"), FileProgress(40_000_000_000, done=10_000_000_000)))
    assert display.measure(2.0).step == (
        "edge.tar.zst is copied without what is not wanted of it: 10.0 GB of 40.0 GB, 25 %"
    )


@pytest.mark.parametrize("form", FORMATS)
async def test_a_bundle_without_an_image_that_failed_has_no_room_for_it(tmp_path: Path, form: Format) -> None:
    source = many_images(lacking="app3")
    items = items_of(source)[:WANTED]
    async with open_writer(final := tmp_path / "bundle", format=form) as writer:
        await transfer(items, source, writer, options=Options(), emit=lambda _: None)
        published = await writer.publish(b"version: 1\n", allow_partial=True)

    await build(undisturbed := tmp_path / "undisturbed", source, form, items=[*items[:3], *items[4:]])
    assert final.read_bytes() == undisturbed.read_bytes()
    assert (published.size, published.padding) == (final.stat().st_size, 0)


@pytest.mark.parametrize("form", FORMATS)
async def test_a_little_padding_is_no_reason_to_write_a_file_again(tmp_path: Path, form: Format) -> None:
    """Up to 2 % stay, and the file is the one in which the content arrived."""
    source = many_images()
    source.add("small", images.image("small", layers=[images.layer("small", 4000)]))
    async with open_writer(final := tmp_path / "bundle", format=form) as writer:
        await transfer(items_of(source), source, writer, options=Options(), emit=lambda _: None)
    arrived = (tmp_path / "bundle.partial").stat().st_ino
    async with open_writer(final, format=form) as writer:
        await transfer(items_of(source)[:-1], source, writer, options=Options(), emit=lambda _: None)
        published = await writer.publish(b"version: 1\n")

    assert final.stat().st_ino == arrived
    assert 4000 < published.padding < final.stat().st_size / 50
    with open_bundle(final) as bundle:
        await verify_bundle(bundle)


async def test_a_build_of_nothing_that_was_begun_starts_over(tmp_path: Path) -> None:
    await interrupt(final := tmp_path / "bundle")
    source = MemorySource()
    source.add("another", images.image("another"))

    await build(final, source)

    await build(undisturbed := tmp_path / "undisturbed", source)
    assert final.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("first", ["app", "holder"])
async def test_what_is_a_manifest_in_one_build_may_be_a_blob_in_the_next(
    tmp_path: Path, form: Format, first: str
) -> None:
    """It is compressed in the one and stored in the other, whatever an interrupted build left of it."""
    source, app = MemorySource(), images.image("app", layers=[images.layer("app", 100)])
    source.add("app", app)
    source.add("holder", images.image("holder", layers=[images.layer_of(app.content, compression="none")]))
    items = {str(item.source.repository.rpartition("/")[2]): item for item in items_of(source)}
    async with open_writer(final := tmp_path / "bundle", format=form) as writer:
        await transfer([items.pop(first)], source, writer, options=Options(), emit=lambda _: None)

    await build(final, source, form, items=list(items.values()))

    await build(undisturbed := tmp_path / "undisturbed", source, form, items=list(items.values()))
    assert final.read_bytes() == undisturbed.read_bytes()


def run_build(final: Path, log: Path, *names: str, failpoint: str = "") -> int:
    """The exit code of a build in a process of its own."""
    command = [sys.executable, "-m", "tests.support.bundle_builder", str(final), "tar.zst", str(log), *names]
    ended = subprocess.run(command, env=os.environ | {"SYNCER_FAILPOINT": failpoint}, check=False, timeout=50)
    return ended.returncode


@pytest.mark.parametrize(
    "failpoint", ["bundle.copying=kill@2", "bundle.copied=kill", "bundle.synced=kill", "bundle.replacing=kill"]
)
async def test_a_build_that_is_killed_while_it_drops_padding_fetches_nothing_again(
    tmp_path: Path, failpoint: str
) -> None:
    """Row 46: all that it had is there for the next one, which leaves nothing behind."""
    final, log = tmp_path / "output" / "bundle", tmp_path / "log"
    assert run_build(final, log, failpoint="bundle.synced=kill") == -9
    log.write_text("")

    assert run_build(final, log, "other", failpoint=failpoint) == -9
    assert not final.exists()
    assert beside(final) == ["bundle.journal", "bundle.partial", "bundle.partial.copy"]
    assert run_build(final, log, "other") == 0

    source = MemorySource()
    add_large_images(source)
    await build(undisturbed := tmp_path / "undisturbed", source, items=items_of(source)[1:])
    assert final.read_bytes() == undisturbed.read_bytes()
    assert log.read_text() == ""
    assert beside(final) == ["bundle"]


@pytest.mark.parametrize("failpoint", ["bundle.renamed=kill", "bundle.dropped=kill"])
async def test_what_a_build_leaves_that_is_killed_right_after_publishing_is_removed_by_the_next(
    tmp_path: Path, failpoint: str
) -> None:
    final, log = tmp_path / "output" / "bundle", tmp_path / "log"
    assert run_build(final, log, failpoint="bundle.synced=kill") == -9

    assert run_build(final, log, "other", failpoint=failpoint) == -9
    published = final.read_bytes()
    assert "bundle.journal" in beside(final)
    with pytest.raises(AlreadyThere):
        async with open_writer(final):
            pass

    assert final.read_bytes() == published
    assert beside(final) == ["bundle"]


async def test_what_a_killed_build_left_is_kept_where_its_bundle_never_appeared(tmp_path: Path) -> None:
    """Its journal says that a bundle was about to replace it; the one that is there is another one."""
    final, log = tmp_path / "output" / "bundle", tmp_path / "log"
    assert run_build(final, log, failpoint="bundle.synced=kill") == -9
    assert run_build(final, log, "other", failpoint="bundle.replacing=kill") == -9
    final.write_bytes(b"another")
    with pytest.raises(AlreadyThere):
        async with open_writer(final):
            pass
    assert beside(final) == ["bundle", "bundle.journal", "bundle.partial"]

    final.unlink()
    log.write_text("")
    assert run_build(final, log, "other") == 0
    assert log.read_text() == ""


@pytest.mark.parametrize("call", ["preadv", "fsync"])
async def test_a_cancelled_build_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Row 45: it may take long to write a large file once more, and to flush it."""
    expected = await undisturbed(tmp_path)
    await interrupt(final := tmp_path / "bundle")
    source, original = many_images(), getattr(os, call)

    with anyio.CancelScope() as scope:

        def cancelling(*arguments: Any) -> Any:
            if (tmp_path / "bundle.partial.copy").exists():
                anyio.from_thread.run_sync(scope.cancel)
            return original(*arguments)

        monkeypatch.setattr(os, call, cancelling)
        await build(final, source, items=wanted(source))
    monkeypatch.undo()

    assert scope.cancelled_caught
    assert beside(final) == ["bundle.journal", "bundle.partial"]
    await build(final, source, items=wanted(source))
    assert final.read_bytes() == expected


@pytest.mark.parametrize("how", ["is made a hole", "is cut short", "is replaced"])
async def test_a_partial_file_that_another_process_alters_while_it_is_copied_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Row 48: also where the copy was made before, or the other process's file would be removed."""
    await interrupt(final := tmp_path / "bundle", "tar")
    partial, source, reach = tmp_path / "bundle.partial", many_images(), failpoints.reach

    def tampering(point: str) -> None:
        if how == "is replaced" and point == "bundle.copied":
            partial.rename(tmp_path / "away")
            partial.write_bytes(b"another")
        elif how != "is replaced" and point == "bundle.copying" and partial.stat().st_blocks > 16:
            size = partial.stat().st_size
            os.truncate(partial, 8192)
            os.truncate(partial, size if how == "is made a hole" else 8192)
        reach(point)

    monkeypatch.setattr("syncer.bundle.partial.reach", tampering)
    with pytest.raises(TargetFull, match="by another process, so nothing is published"):
        await build(final, source, "tar", items=wanted(source))

    assert beside(final) == ["bundle.journal", "bundle.partial"]


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("form", FORMATS)
async def test_a_disk_without_room_for_a_copy_gets_the_bundle_with_its_padding(
    tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch, *, tells: bool
) -> None:
    """Row 43: it is whole, and says how much of it is for nothing, whether or not the disk tells how full it is."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = await anyio.run_process(["mount", "-t", "tmpfs", "-o", "size=2800k", "none", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    if not tells:
        monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result((0,) * 10))
    try:
        await interrupt(final := disk / "bundle", form)
        source = many_images()
        async with open_writer(final, format=form) as writer:
            await transfer(items_of(source)[:30], source, writer, options=Options(), emit=lambda _: None)
            published = await writer.publish(b"version: 1\n")

        assert published.is_cramped
        assert published.size == final.stat().st_size
        assert published.padding > published.size / 3
        assert beside(final) == ["bundle"]
        with open_bundle(final) as bundle:
            assert len(bundle.images) == 30
            await verify_bundle(bundle)
    finally:
        await anyio.run_process(["umount", str(disk)])


async def test_a_disk_without_room_is_told_with_what_an_earlier_build_left(tmp_path: Path) -> None:
    await interrupt(final := tmp_path / "bundle")
    left = (tmp_path / "bundle.partial").stat().st_size // 2**20
    petabyte = Descriptor(images.OCI_LAYER, Digest.of(b"large"), 2**50)

    async with open_writer(final) as writer:
        with pytest.raises(TargetFull, match=r"needs .* are free") as refused:
            await writer.reserve("", petabyte, None)

    assert f"removing {final}.partial gives back {left} MiB or less" in str(refused.value.hint)


async def test_a_run_that_is_cut_while_it_publishes_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await build(few := tmp_path / "few.tar.zst", source := many_images(), items=wanted(source))
    told: list[tuple[int, str]] = []
    options = RunOptions(on_cut=lambda report, name: told.append((report.totals.images, name)))
    sync = os.fsync

    with anyio.CancelScope() as scope:

        def cancelling(file: int) -> None:
            anyio.from_thread.run_sync(scope.cancel)
            sync(file)

        monkeypatch.setattr(os, "fsync", cancelling)
        await copy(few, BundleFile(output=tmp_path / "out"), options=options)

    assert told == [(WANTED, "few")]


FULL = os.statvfs_result((4096, 4096, 9, 9, 9, 0, 0, 0, 0, 255))


async def test_a_file_that_keeps_its_padding_is_told_with_the_way_to_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run warns, verify tells how much it is, and a copy has none of it."""
    source = many_images()
    await build(few := tmp_path / "few.tar.zst", source, items=wanted(source))
    await interrupt(padded := tmp_path / "padded.tar.zst")
    monkeypatch.setattr(os, "fstatvfs", lambda _: FULL)
    built = await copy(few, BundleFile(output=tmp_path, file_name=padded.name))
    monkeypatch.undo()
    assert isinstance(built, BuildResult)

    verified = await syncer("verify", "--file", padded, home=tmp_path)
    told = (await syncer("verify", "--file", padded, "--json", home=tmp_path)).json
    copied = await syncer("copy", "--source", padded, "--destination", tmp_path / "copy.tar.zst", home=tmp_path)
    again = (await syncer("verify", "--file", tmp_path / "copy.tar.zst", "--json", home=tmp_path)).json

    size = padded.stat().st_size
    assert (built.size, built.padding) == (size, told["bytes_padding"])
    assert (
        f"{human_bytes(built.padding)} of the {human_bytes(size)} of {padded} are padding" in built.report.warnings[0]
    )
    assert (
        f"padding: {human_bytes(built.padding)} of {human_bytes(size)} ({built.padding / size:.1%})" in verified.stdout
    )
    assert f"hint: syncer copy --source {padded} --destination" in verified.stderr
    assert (told["bytes_file"], copied.code, again["bytes_padding"]) == (size, 0, 0)
    assert f"\nfile:    {human_bytes(again['bytes_file'])}\n" in copied.stdout


async def test_the_summary_of_a_build_tells_the_size_of_the_file(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "team/app", images.image("app"), "1")
        built = await syncer("build", "--image", f"{registry.address}/team/app:1", "--output", tmp_path, home=tmp_path)

    size = (tmp_path / "bundle.tar.zst").stat().st_size
    assert f"\nfile:    {human_bytes(size)}\n" in built.stdout
