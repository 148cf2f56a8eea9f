"""Which directories ``serve --disk`` takes, and what it leaves alone in them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import anyio
import pytest

from syncer.errors import Locked, UsageError
from syncer.serve import open_disk, serve
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.programs import needs, run
from tests.support.registries import Registry
from tests.test_bad_input import sentence

IMAGE = images.index(images.image("a"), images.image("b"))
MARK = "syncer-registry.json"


def everything(directory: Path) -> dict[str, bytes | None]:
    """All that lies below a directory; None for what is no file."""
    paths = sorted(directory.rglob("*"))
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize(("name", "problem"), [("", "is given is empty"), (".", "it holds repositories, temporary")])
async def test_the_current_directory_of_somebody_else_is_left_as_it_is(tmp_path: Path, name: str, problem: str) -> None:
    """A script whose variable is not set gives an empty name; ``temporary`` is a name that others use too."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary/thesis.txt").write_text("two years")
    (tmp_path / "repositories").mkdir()
    before = everything(tmp_path)

    with chdir(tmp_path):
        ran = await syncer("serve", "--disk", name, home=tmp_path)

    assert ran.code == 2
    assert problem in sentence(ran)
    assert "hint: " in ran.stderr
    assert everything(tmp_path) == before


def a_file(path: Path) -> None:
    path.write_text("not a directory")


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("not a directory")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def a_users_directory(path: Path) -> None:
    path.mkdir()
    for name in ("notes.txt", "photo.jpg", "temporary", "x", "y"):
        (path / name).write_text(name)


def a_link_to_a_users_directory(path: Path) -> None:
    a_users_directory(path.parent / "users")
    path.symlink_to(path.parent / "users")


def an_image_layout(path: Path) -> None:
    (path / "blobs/sha256").mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def a_store_of_distribution(path: Path) -> None:
    (path / "blobs/sha256/ab").mkdir(parents=True)
    (path / "blobs/sha256/ab/data").write_text("content")
    (path / "repositories/app").mkdir(parents=True)


def a_mark_that_is_none(path: Path) -> None:
    path.mkdir()
    (path / MARK).write_text("{}")


def a_registry_of_a_later_version(path: Path) -> None:
    path.mkdir()
    (path / MARK).write_text('{"kind": "registry of syncer serve --disk", "version": 2}')


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (a_file, "it is not a directory"),
        (below_a_file, "it is not a directory"),
        (a_link_to_nothing, "it leads nowhere"),
        (a_users_directory, "it holds notes.txt, photo.jpg, temporary and 2 more"),
        (a_link_to_a_users_directory, "it holds notes.txt"),
        (an_image_layout, "it holds blobs, oci-layout"),
        (a_store_of_distribution, "it holds blobs, repositories"),
        (a_mark_that_is_none, f"it holds {MARK}"),
        (a_registry_of_a_later_version, "keeps content in another way"),
    ],
)
async def test_what_is_no_directory_of_ours_is_one_sentence(
    tmp_path: Path, make: Callable[[Path], None], problem: str
) -> None:
    path = tmp_path / "above/disk"
    path.parent.mkdir()
    make(path)
    before = everything(tmp_path)

    ran = await syncer("serve", "--disk", path, home=tmp_path / "home")

    assert ran.code == 2
    assert problem in sentence(ran)
    assert "hint: " in ran.stderr
    assert everything(tmp_path) == before


async def test_the_whole_machine_is_not_taken(tmp_path: Path) -> None:
    ran = await syncer("serve", "--disk", "/", home=tmp_path)

    assert ran.code == 2
    assert "/ is not empty" in sentence(ran)
    assert not Path("/lock").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no directory")
def test_a_directory_that_cannot_be_made_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="/proc/disk cannot be served: ") as raised, open_disk(Path("/proc/disk")):
        pass

    assert raised.value.hint


async def test_a_directory_without_permission_is_one_sentence(tmp_path: Path) -> None:
    """Root is told so as well, where it has not the right to write everywhere."""
    (tmp_path / "disk").mkdir(mode=0o500)
    rights = "-dac_override,-dac_read_search"
    without = [needs("setpriv"), f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []

    for path in (tmp_path / "disk", tmp_path / "disk/below"):
        ran = await run(*without, sys.executable, "-m", "syncer", "serve", "--disk", str(path))

        assert ran.code == 2
        assert f"error: {path} cannot be served: permission denied" in ran.stderr
        assert "hint: " in ran.stderr
        assert "Traceback" not in ran.stderr


def new(path: Path) -> Path:
    return path / "new/disk"


def empty(path: Path) -> Path:
    return path


def a_new_file_system(path: Path) -> Path:
    (path / "lost+found").mkdir()
    return path


def a_link_to_an_empty_directory(path: Path) -> Path:
    (path / "there").mkdir()
    (path / "link").symlink_to("there")
    return path / "link"


def a_first_start_that_was_killed(path: Path) -> Path:
    (path / "lock").touch()
    (path / f".{MARK}.0123456789ab.unfinished").write_text('{"ki')
    (path / "temporary").mkdir()
    (path / "blobs/sha256").mkdir(parents=True)
    return path


@pytest.fixture(params=[new, empty, a_new_file_system, a_link_to_an_empty_directory, a_first_start_that_was_killed])
def free(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = request.param(tmp_path)
    return made


async def test_an_empty_directory_is_taken_and_known_again(free: Path) -> None:
    with open_disk(free) as disk:
        async with serve(disk) as address:
            await client.push(Registry(str(address), free), "app", IMAGE, "v1")
    (free / "notes.txt").write_text("what stands beside the mark does not matter")
    with open_disk(free) as disk:
        async with serve(disk) as address:
            await client.assert_holds(Registry(str(address), free), "app", IMAGE, "v1")

    assert (free / "notes.txt").exists()


async def test_a_registry_of_an_earlier_version_is_taken_and_marked(serve_disk: OpenRegistry) -> None:
    """It has no mark; what it left half written had 32 digits for a name."""
    async with serve_disk() as registry:
        await client.push(registry, "app", IMAGE, "v1")
    content = registry.directory / "content"
    (content / MARK).unlink()
    (content / "temporary" / ("0" * 32)).write_text("half a manif")

    async with serve_disk() as registry:
        await client.assert_holds(registry, "app", IMAGE, "v1")

    assert (content / MARK).exists()
    assert list((content / "temporary").iterdir()) == []


def test_only_what_we_made_is_removed_from_a_registry(tmp_path: Path) -> None:
    with open_disk(tmp_path):
        pass
    for name in ("thesis.txt", ".v1.0123456789ab.unfinished"):
        (tmp_path / "temporary" / name).write_text(name)
    (tmp_path / "temporary/directory").mkdir()
    (tmp_path / "temporary" / ("0" * 32)).symlink_to("thesis.txt")

    with open_disk(tmp_path):
        left = {path.name for path in (tmp_path / "temporary").iterdir()}

    assert left == {"thesis.txt", "directory", "0" * 32}


@pytest.mark.parametrize("part", ["temporary", "blobs", "blobs/sha256", "repositories"])
def test_a_part_of_a_registry_that_leads_elsewhere_is_refused(tmp_path: Path, part: str) -> None:
    with open_disk(tmp_path / "disk"):
        pass
    (tmp_path / "disk" / part).rename(tmp_path / "elsewhere")
    (tmp_path / "disk" / part).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UsageError, match=f"{part} is a symbolic link") as raised, open_disk(tmp_path / "disk"):
        pass

    assert raised.value.hint


async def test_a_second_serve_of_a_directory_is_told_so(serve_process: OpenRegistry, tmp_path: Path) -> None:
    async with serve_process() as registry:
        ran = await syncer("serve", "--disk", registry.directory / "content", home=tmp_path)
        (tmp_path / "link").symlink_to(registry.directory / "content")
        by_another_name = await syncer("serve", "--disk", tmp_path / "link", home=tmp_path)
        await client.push(registry, "app", IMAGE, "v1")

    assert (ran.code, by_another_name.code) == (75, 75)
    assert "another run (process " in sentence(ran)
    assert " serves " in sentence(ran)


async def test_of_many_that_start_on_a_new_directory_one_gets_it(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def start() -> None:
        try:
            with open_disk(tmp_path / "disk"):
                outcomes.append("served")
                together.wait()
        except Locked:
            outcomes.append("locked")
            together.wait()

    together = threading.Barrier(8, timeout=20)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(anyio.to_thread.run_sync, start)

    assert sorted(outcomes) == ["locked"] * 7 + ["served"]


async def test_an_empty_name_of_a_bundle_is_refused(tmp_path: Path) -> None:
    ran = await syncer("serve", "--bundle", "", home=tmp_path)

    assert ran.code == 2
    assert "--bundle is given is empty" in sentence(ran)
