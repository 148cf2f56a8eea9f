"""``import syncer`` offers to a program what the command line offers to a person."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import syncer
from syncer.errors import UsageError
from tests.conftest import OpenRegistry
from tests.support import client, images


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(syncer, name) for name in syncer.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        importlib.import_module("syncer").nonsense  # noqa: B018


async def test_a_program_builds_pushes_and_verifies(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    image = images.multi_platform("a")
    events: list[object] = []
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "team/app", image, "1")

        built = await syncer.build([f"{source.address}/team/app:1"], name="edge", output=tmp_path, emit=events.append)
        assert built.path is not None
        pushed = await syncer.push(built.path, f"{target.address}/mirror")
        verified = await syncer.verify(built.path, f"{target.address}/mirror")

        repository = f"mirror/{source.address.replace(':', '_')}/team/app"
        await client.assert_holds(target, repository, image, "1")
    assert (built.exit, pushed.exit, verified.exit) == (0, 0, 0)
    assert built.report.totals.images_copied == 1
    assert events


async def test_a_verification_lists_what_a_registry_lacks(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", images.image("a"), "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        assert built.path is not None

        verified = await syncer.verify(built.path, target.address)

    assert verified.exit == 6
    assert next(lacking.name.tag for lacking in verified.lacking) == "1"
    assert len(verified.lacking) == verified.checked


async def test_a_wrong_call_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image"):
        await syncer.build([], output=tmp_path)
    with pytest.raises(UsageError, match="not a platform"):
        await syncer.build(["busybox"], output=tmp_path, platform="a/b/c/d")
