"""What a hostile bundle does to a push and to a registry over it: nothing (registries.md, §4.1)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

import syncer
import syncer.oci
from syncer.cli.serve import open_storage
from syncer.errors import NotFound, SyncerError
from syncer.serve import Storage
from tests.conftest import OpenRegistry
from tests.support import client
from tests.support import hostile_bundles as hostile
from tests.support.cli import syncer as run_syncer

HIDDEN = (
    "something in the padding of a blob",
    "something in a pad",
    "something in a skippable frame",
    "two packed frames in one place",
    "a frame without its checksum",
)
"""What lies where nobody looks but `verify`: it reaches neither a registry nor who pulls from one."""

CORPUS = {threat: make for threat, make in hostile.corpus().items() if not threat.endswith(HIDDEN)}


async def test_a_push_of_a_hostile_bundle_leaves_no_tag_at_the_target(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """§4.1: refused before anything is sent, or, where only a blob's bytes are wrong, by the registry's digest."""
    async with serve_disk() as registry:
        for number, (threat, make) in enumerate(CORPUS.items()):
            path = tmp_path / f"{number}.tar"
            path.write_bytes(make())
            with suppress(SyncerError):
                assert (await syncer.push(path, f"{registry.address}/base")).exit != 0, threat
            assert await client.repositories(registry) == [], threat
            path.unlink()
    assert len(list(tmp_path.iterdir())) == 1  # the directory of the registry


def read_all(storage: Storage) -> None:
    """Ask for everything that the storage lists."""
    for repository in storage.repositories():
        for tag in storage.tags(repository):
            digest = storage.resolve(repository, tag)
            assert digest is not None
            above = [digest]
            while above:
                found = storage.manifest(repository, above.pop())
                if found is None:
                    raise NotFound(f"a manifest of {repository}", 404)
                for child in syncer.oci.parse_manifest(found.content, found.media_type).children():
                    if child.is_manifest:
                        above.append(child.digest)
                    elif blob := storage.blob(repository, child.digest):
                        with blob.open() as read:
                            read(0, blob.size)


async def test_no_registry_is_made_of_a_hostile_bundle(tmp_path: Path) -> None:
    """§4.1: not opened at all, or, where only a blob's bytes are wrong, that blob is not given out."""
    served = []
    for number, (threat, make) in enumerate(CORPUS.items()):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(make())
        with suppress(SyncerError):
            async with open_storage(path, None) as storage:
                read_all(storage)
                served.append(threat)
        path.unlink()
    assert served == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["verify", "push", "serve"])
async def test_the_command_says_one_sentence(tmp_path: Path, command: str) -> None:
    bundle = tmp_path / "bundle.tar"
    bundle.write_bytes(next(iter(CORPUS.values()))())
    target = {"push": ["--registry", "127.0.0.1:9"]}.get(command, [])
    option = "--bundle" if command == "serve" else "--file"

    ran = await run_syncer(command, option, bundle, *target, home=tmp_path)

    assert ran.code == 6
    assert len([line for line in ran.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert ran.stdout == ""
