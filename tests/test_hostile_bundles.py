"""A hostile bundle is refused with one sentence, in flat memory, with nothing written (registries.md, §4.1)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from syncer.bundle import check_structure, open_bundle, verify_bundle
from syncer.errors import InvalidBundle
from tests.support import hostile_bundles as hostile

CORPUS = hostile.corpus()


async def inspect(path: Path) -> None:
    with open_bundle(path) as bundle:
        check_structure(bundle)
        await verify_bundle(bundle)


@pytest.mark.parametrize("form", [hostile.plain, hostile.zstandard])
@pytest.mark.parametrize(
    "members",
    [
        hostile.SOUND,
        hostile.with_root(b'{"schemaVersion":2,"manifests":[]}', hostile.OCI_INDEX),
        hostile.with_manifest(layers=[]),
        hostile.with_entry(size=len(hostile.MANIFEST)),
        hostile.nested(8),
        hostile.wide(20),
    ],
)
async def test_what_the_hostile_ones_are_made_from_is_sound(
    tmp_path: Path, form: Callable[[list[bytes]], bytes], members: list[bytes]
) -> None:
    """So that each is refused for the one thing that is wrong with it."""
    (path := tmp_path / "bundle").write_bytes(form(members))

    await inspect(path)


@pytest.mark.parametrize("threat", CORPUS)
async def test_a_hostile_bundle_is_refused_with_one_sentence(tmp_path: Path, threat: str) -> None:
    """Every row of §4.1 that a file can be; the test's id names it."""
    (path := tmp_path / "bundle").write_bytes(CORPUS[threat]())

    with pytest.raises(InvalidBundle) as refused:
        await inspect(path)

    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600
    assert list(tmp_path.iterdir()) == [path]


def test_an_image_of_ten_thousand_manifests_is_refused(tmp_path: Path) -> None:
    """§4.1, index cycles and a million manifests: a cap on what one image may have."""
    (path := tmp_path / "bundle").write_bytes(hostile.plain(hostile.wide(10_000)))

    with open_bundle(path) as bundle, pytest.raises(InvalidBundle, match="more than 10000 manifests"):
        check_structure(bundle)


@pytest.mark.parametrize("threat", hostile.bombs())
def test_a_bomb_is_refused_in_flat_memory(tmp_path: Path, threat: str) -> None:
    """§4.1, huge documents, bombs, endless entries: in a process of its own, whose peak is measured."""
    (path := tmp_path / "bundle").write_bytes(hostile.bombs()[threat]())

    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.bundle_inspector", str(path)], capture_output=True, text=True, check=True
    )
    said, peak = ended.stdout.splitlines()

    assert said.startswith(f"{path} is no")
    assert int(peak) < 150, said  # megabytes, of which the interpreter takes some 40
