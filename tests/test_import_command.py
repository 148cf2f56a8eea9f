"""``syncer import`` as a user runs it: the sync file on stdout, what could not be carried over on stderr."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncer.profiles.imports.importers import FORMATS
from syncer.profiles.syncfile.sync_file import parse_sync_file
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer

REGSYNC = """\
version: 1
creds:
  - {registry: docker.io, user: robot, pass: '{{env "HUB_TOKEN"}}'}
sync:
  - source: busybox:1.37
    target: harbor.example.com/mirror/busybox:1.37
    type: image
"""


async def test_a_file_of_another_tool_becomes_a_sync_file(tmp_path: Path) -> None:
    (tmp_path / "regsync.yml").write_text(REGSYNC)

    ran = await syncer("import", tmp_path / "regsync.yml", home=tmp_path)

    assert (ran.code, ran.stderr) == (0, "")
    file = parse_sync_file(ran.stdout, Path("sync.yaml"))
    assert [target.registry for target in file.targets] == ["harbor.example.com"]
    credentials = file.document.registries["docker.io"].credentials
    assert credentials is not None
    assert credentials.password_env == "HUB_TOKEN"


@pytest.mark.parametrize("command", [["import"], ["content", "import"]])
async def test_what_cannot_be_carried_over_is_named_by_field(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "regsync.yml").write_text(f"{REGSYNC}    surprise: 1\n")

    ran = await syncer(*command, tmp_path / "regsync.yml", home=tmp_path)

    assert ran.code == 2
    assert f"error: {tmp_path / 'regsync.yml'}:8: sync[0].surprise: " in ran.stderr
    assert "hint: " in ran.stderr
    parse_sync_file(ran.stdout, Path("sync.yaml"))


async def test_a_file_that_nobody_knows_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("kind: Pod\n")

    ran = await syncer("import", tmp_path / "other.yaml", home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert "it is not a file of a tool that syncer knows" in ran.stderr


async def test_the_printed_file_can_be_used_as_it_is(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    app = images.image("app")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", app, "1")
        (tmp_path / "theirs.txt").write_text(f"{source.address}/app:1\n")

        imported = await syncer("import", tmp_path / "theirs.txt", "--registry", f"{target.address}/m", home=tmp_path)
        (tmp_path / "sync.yaml").write_text(imported.stdout)
        synced = await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path)

        assert (imported.code, synced.code) == (0, 0), imported.stderr + synced.stderr
        await client.assert_holds(target, f"m/{source.address.replace(':', '_')}/app", app, "1")


async def test_the_files_that_are_known_are_listed(tmp_path: Path) -> None:
    listed = await syncer("import", "--list", home=tmp_path)
    without = await syncer("import", home=tmp_path)

    assert (listed.code, listed.stderr) == (0, "")
    assert [line.split("  ")[0] for line in listed.stdout.splitlines()] == list(FORMATS)
    assert (without.code, without.stderr.splitlines()[0]) == (2, "error: a FILE is missing")
    assert "syncer import --list" in without.stderr
