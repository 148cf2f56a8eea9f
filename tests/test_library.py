"""``import syncer`` offers to a program what the command line offers to a person."""

from __future__ import annotations

import importlib
from pathlib import Path

import anyio
import pytest

import syncer
from syncer.api.plan import plan_push_to
from syncer.api.push import Delivery, push_to
from syncer.api.result import PushResult
from syncer.api.verify import verify_at
from syncer.bundle import open_bundle, verify_bundle
from syncer.errors import UsageError
from syncer.registry import RegistryAddress, RegistrySettings, open_registries
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


async def test_an_open_bundle_goes_to_several_registries_each_with_an_account_of_its_own(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    image = images.image("a")
    results: dict[str, PushResult] = {}
    async with debian_registry("source") as source, debian_registry("full") as full, debian_registry("empty") as empty:
        await client.push(source, "app", image, "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        assert built.path is not None
        await syncer.push(built.path, full.address)

        with open_bundle(built.path) as bundle:
            check = await verify_bundle(bundle)
            async with open_registries(RegistrySettings()) as registries, anyio.create_task_group() as tasks:

                async def push(address: str) -> None:
                    delivery = Delivery(address=RegistryAddress.parse(address))
                    results[address] = await push_to(registries, delivery, bundle)

                for address in (full.address, empty.address, "127.0.0.1:1"):
                    tasks.start_soon(push, address)
            async with open_registries(RegistrySettings()) as registries:
                delivery = Delivery(address=RegistryAddress.parse(empty.address))
                verified = await verify_at(registries, delivery, bundle, check)
                planned = await plan_push_to(registries, delivery, bundle)
        await client.assert_holds(empty, f"{source.address.replace(':', '_')}/app", image, "1")

    ends = {
        address: (result.exit, result.report.totals.images_copied, result.report.totals.images_skipped)
        for address, result in results.items()
    }
    assert ends == {full.address: (0, 0, 1), empty.address: (0, 1, 0), "127.0.0.1:1": (1, 0, 0)}
    assert len({result.report.run_id for result in results.values()}) == 3
    assert (verified.exit, verified.lacking) == (0, ())
    assert not planned.has_work
