"""What a fleet costs: a site that is out of order costs little, and so does what many sites have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncer.errors import UsageError
from syncer.fleet import FleetOptions
from syncer.fleet.deploy import push_fleet
from syncer.fleet.result import SiteState
from syncer.naming import NameMapping
from syncer.profiles.syncfile.site import Site
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.support.registries import Registry
from tests.support.registry_end import QUICK, settings_for

IMAGES = 20


async def bundle(source: Registry, home: Path, *, images_in_it: int = IMAGES) -> Path:
    names = [f"app-{number}" for number in range(images_in_it)]
    for name in names:
        await client.push(source, name, images.image(name, layers=[images.layer(name, 1000)]), "1")
    listed = home / "images.txt"
    listed.write_text("".join(f"{source.address}/{name}:1\n" for name in names))
    built = await syncer("build", "--images-file", listed, "--name", "edge", "--output", home, home=home)
    assert built.code == 0, built.stderr
    return home / "edge.tar.zst"


def sites(*registries: str, mapping: NameMapping | None = None) -> list[Site]:
    mapping = mapping or NameMapping()
    return [Site(name=registry, registry=registry, place="here", mapping=mapping) for registry in registries]


async def test_a_site_that_is_out_of_order_costs_the_attempts_of_one_request(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Nobody else asks until it is known; and in the second visit it is asked once."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        async with fault_proxy(target) as proxy:
            proxy.on(None, "", Reply(503), times=None)

            pushed = await push_fleet(file, sites(proxy.registry.address), settings=settings_for(limits=QUICK))

            (site,) = pushed.sites
            assert site.state is SiteState.DOWN
            assert site.images_failed == IMAGES
            asked = [exchange.target for exchange in proxy.exchanges.log]
            pings = asked.count("/v2/")  # which tell that it is not the trouble of one image
            assert (len(asked) - pings, pings) == (QUICK.attempts + 1, 2)


async def test_the_trouble_of_the_first_image_is_not_the_sites(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        async with fault_proxy(target) as proxy:
            proxy.on(None, "/app-0/", Reply(503), times=None)

            pushed = await push_fleet(file, sites(proxy.registry.address), settings=settings_for(limits=QUICK))

            (site,) = pushed.sites
            assert (site.state, site.images_failed) == (SiteState.PARTIAL, 1)


async def test_sites_with_one_mapping_have_the_names_that_each_would_have_alone(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """And one that is named by its own mapping keeps its path."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path, images_in_it=1)
        mapped = NameMapping.parse([f"{source.address}=there"])
        full = NameMapping.parse([f"{source.address}={target.address}/full/there"])
        same = sites(f"{target.address}/a", f"localhost:{target.address.rpartition(':')[2]}/a/b", mapping=mapped)

        pushed = await push_fleet(file, [*same, *sites(f"{target.address}/full", mapping=full)])

        assert pushed.exit == 0, pushed.causes
        found = {name for name in await client.repositories(target) if not name.endswith("bundle-definition")}
        assert found == {"a/there/app-0", "a/b/there/app-0", "full/there/app-0"}


async def test_a_site_that_its_mapping_names_must_be_named_with_its_path(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source:
        file = await bundle(source, tmp_path, images_in_it=1)
        mapping = NameMapping.parse([f"{source.address}=registry.invalid/elsewhere"])

        with pytest.raises(UsageError, match=r"which is not under registry\.invalid/base"):
            await push_fleet(file, sites("other.invalid/base", "registry.invalid/base", mapping=mapping))


async def test_names_that_collide_at_one_site_are_told_before_anything_is_sent(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path, images_in_it=2)
        good = sites(f"{target.address}/good")
        rules = [f"{source.address}/app-{number}=same" for number in (0, 1)]
        bad = sites(f"{target.address}/bad", mapping=NameMapping.parse(rules))

        with pytest.raises(UsageError, match=rf"mapped to {target.address}/bad/same"):
            await push_fleet(file, [*good, *bad], options=FleetOptions())

        assert await client.repositories(target) == []
