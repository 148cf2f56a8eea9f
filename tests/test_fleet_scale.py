"""What a fleet costs: a site that is out of order costs little, and so does what many sites have in common."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from msgspec import structs

import syncer as library
from benchmarks.fleet import black_hole
from benchmarks.sites import loopback
from syncer.bundle import open_bundle
from syncer.errors import UsageError
from syncer.fleet import FleetOptions, Unwatched
from syncer.fleet.deploy import push_fleet
from syncer.fleet.queue import Convoy
from syncer.fleet.result import FleetResult, SiteState
from syncer.naming import NameMapping
from syncer.profiles.syncfile.site import Site
from syncer.transfer.events import Copied, Emit, Event
from tests.conftest import OpenRegistry, OpenTokenServer
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.disks import file_size_limit
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply, Stall
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import QUICK, settings_for

IMAGES = 8
IN_TURN = structs.replace(QUICK, idle=60.0, stall=60.0, commit=60.0, requests_per_host=1)


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


async def test_a_site_that_swallows_connections_costs_one_at_each_visit(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """And the site beside it gets everything."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        with black_hole(loopback(0)) as address:
            settings = settings_for(limits=structs.replace(QUICK, connect=0.5))

            pushed = await push_fleet(file, sites(address, target.address), settings=settings)

    swallowed, good = pushed.sites
    assert (swallowed.state, swallowed.images_failed, swallowed.requests) == (SiteState.DOWN, IMAGES, 2)
    assert swallowed.exit == 5
    assert [cause.text for cause in pushed.causes] == ["does not answer: the connection timed out"]
    assert good.state is SiteState.DONE


@pytest.mark.parametrize("command", ["push", "sync"])
async def test_a_target_that_swallows_connections_costs_one_connect_timeout_at_each_pass(
    debian_registry: OpenRegistry, tmp_path: Path, command: str
) -> None:
    """However many images wait for it."""
    async with debian_registry("source") as source:
        file = await bundle(source, tmp_path, images_in_it=40)
        with black_hole(loopback(0)) as address:
            settings = settings_for(limits=structs.replace(QUICK, connect=0.5, requests_per_host=4))
            began = time.monotonic()
            ended: library.PushResult | library.SyncResult
            if command == "push":
                ended = await library.push(file, address, settings=settings)
            else:
                mirrored = tmp_path / "sync.yaml"
                mirrored.write_text(
                    f"version: 1\nsources: [{{images_file: images.txt}}]\ntargets: [{{registry: '{address}'}}]\n"
                )
                ended = await library.sync(mirrored, settings=settings)
            seconds = time.monotonic() - began

    assert (ended.exit, len(ended.report.failures)) == (5, 40)
    assert seconds < 4  # ten times the timeout, where each image waits for its own


async def test_a_site_whose_disk_is_full_is_partial_and_goes_on_when_there_is_room(
    debian_registry: OpenRegistry, serve_process: OpenRegistry, tmp_path: Path
) -> None:
    """The registry there cannot write a file as large as one layer."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        for name, size in (("small", 100), ("large", 300_000)):
            await client.push(source, name, images.image(name, layers=[images.layer(name, size)]), "1")
        named = [word for name in ("small", "large") for word in ("--image", f"{source.address}/{name}:1")]
        built = await syncer("build", *named, "--name", "edge", "--output", tmp_path, home=tmp_path)
        assert built.code == 0, built.stderr
        file = tmp_path / "edge.tar.zst"
        async with AsyncExitStack() as running:
            with file_size_limit(200_000):
                full = await running.enter_async_context(serve_process("full"))
            pushed = await push_fleet(file, sites(full.address, target.address), settings=settings_for(limits=QUICK))

        assert [site.state for site in pushed.sites] == [SiteState.PARTIAL, SiteState.DONE]
        assert pushed.sites[0].images_failed == 1
        assert [cause.text.partition(" ")[0] for cause in pushed.causes] == ["507"]

        async with serve_process("full") as mended:
            again = await push_fleet(file, sites(mended.address, target.address), settings=settings_for(limits=QUICK))

        assert [site.state for site in again.sites] == [SiteState.DONE, SiteState.UNCHANGED]


async def test_a_site_whose_tokens_have_expired_is_refused_until_they_are_good(
    debian_registry: OpenRegistry, token_server: OpenTokenServer, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        source, target = [await stack.enter_async_context(debian_registry(name)) for name in ("source", "target")]
        tokens = await stack.enter_async_context(token_server(login=LOGIN))
        shut = await stack.enter_async_context(debian_registry("shut", tokens=tokens))
        file = await bundle(source, tmp_path, images_in_it=2)
        tokens.lifetime = -3600
        named = sites(shut.address, target.address)

        pushed = await push_fleet(file, named, settings=settings_for(shut))

        assert [site.state for site in pushed.sites] == [SiteState.REFUSED, SiteState.DONE]
        assert pushed.exit == 1

        tokens.lifetime = 300
        again = await push_fleet(file, named, settings=settings_for(shut))

        assert [site.state for site in again.sites] == [SiteState.DONE, SiteState.UNCHANGED]


LAYERS = 10
LAYER = 3_000_000
WINDOW = 4_000_000


async def large_bundle(source: Registry, home: Path) -> Path:
    layers = [images.layer(f"large {number}", LAYER + 20_000 * (number * 7 % LAYERS)) for number in range(LAYERS)]
    await client.push(source, "large", images.image("large", layers=layers), "1")
    built = await syncer(
        "build", "--image", f"{source.address}/large:1", "--name", "large", "--output", home, home=home
    )
    assert built.code == 0, built.stderr
    return home / "large.tar.zst"


async def sent_while_the_other_stands_still(
    open_registry: OpenRegistry, home: Path, window: int
) -> tuple[int, int, FleetResult]:
    """The number of large blobs that one site got while another one took nothing of its first, and in the end.

    Neither gets any before both are under way: a site that begins later would begin where the first one is.  And one
    request at a time goes to each, so that the blobs begin one after the other.
    """
    async with AsyncExitStack() as stack:
        source, target = [await stack.enter_async_context(open_registry(name)) for name in ("source", "target")]
        file = await large_bundle(source, home)
        fast, slow = [await stack.enter_async_context(fault_proxy(target)) for _ in range(2)]
        stands_still, go_on = anyio.Event(), anyio.Event()
        fast.on("PUT", "/blobs/uploads/", Stall("request", at=LAYER // 3, until=stands_still), times=None)
        slow.on(
            "PUT", "/blobs/uploads/", Stall("request", at=LAYER // 3, until=go_on, reached=stands_still), times=None
        )
        named = sites(f"{fast.registry.address}/fast", f"{slow.registry.address}/slow")
        arrivals = Arrivals(named[0])
        found: list[FleetResult] = []

        async def push() -> None:
            options = FleetOptions(read_window=window, watcher=arrivals)
            found.append(await push_fleet(file, named, settings=settings_for(limits=IN_TURN), options=options))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push)
            await arrivals.is_one.wait()
            with anyio.move_on_after(1 if window else 30):  # to show that it waits; and that it does not
                await arrivals.are_all.wait()
            meanwhile = arrivals.count
            go_on.set()
        return meanwhile, arrivals.count, found[0]


class Arrivals(Unwatched):
    """Counts the large blobs that arrive at one site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.count = 0
        self.is_one, self.are_all = anyio.Event(), anyio.Event()

    def begin(self, site: Site) -> Emit | None:
        return self.hear if site == self.site else None

    def hear(self, event: Event) -> None:
        if isinstance(event, Copied) and event.descriptor.size >= LAYER:
            self.count += 1
            self.is_one.set()
            if self.count == LAYERS:
                self.are_all.set()


async def test_sites_stay_near_each_other_in_the_file(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    meanwhile, in_the_end, result = await sent_while_the_other_stands_still(debian_registry, tmp_path, WINDOW)

    assert result.exit == 0, result.causes
    assert 1 <= meanwhile <= WINDOW // LAYER + 1
    assert in_the_end == LAYERS


async def test_without_a_window_no_site_waits_for_another(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    meanwhile, _, result = await sent_while_the_other_stands_still(debian_registry, tmp_path, 0)

    assert (meanwhile, result.exit) == (LAYERS, 0)


async def test_large_blobs_go_in_the_order_of_the_file(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Also for the one site that runs at a time: the next one begins where this one is."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await large_bundle(source, tmp_path)
        async with fault_proxy(target) as proxy:
            named = sites(f"{proxy.registry.address}/site", f"{target.address}/other")
            options = FleetOptions(read_window=WINDOW, concurrency=1)

            pushed = await push_fleet(file, named, options=options)

            assert pushed.exit == 0
            large = [each for each in proxy.exchanges.of("PUT upload") if each.sent >= LAYER]
            sent = [each.query["digest"][0] for each in large]
            with open_bundle(file) as opened:
                in_file = [str(digest) for digest in opened.digests if opened.size(digest) >= LAYER]
            turned = in_file.index(sent[0])
            assert sent == [*in_file[turned:], *in_file[:turned]]


async def test_a_site_that_makes_others_wait_for_too_long_is_left_behind() -> None:
    convoy = Convoy(100, 10, patience=0.02)
    with convoy.join() as slow, convoy.join() as fast, convoy.join() as other:
        await slow.turn("a", 0, 0)
        await other.turn("a", 0, 5)
        with anyio.fail_after(5):
            await fast.turn("a", 0, 11)
            assert slow.is_behind
            await slow.turn("a", 0, 3)  # near again

        assert not slow.is_behind
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fast.turn, "a", 0, 15)
            await anyio.wait_all_tasks_blocked()
            slow.over("a")
            await other.turn("a", 0, 6)


async def test_a_site_that_begins_later_begins_where_the_others_are() -> None:
    convoy = Convoy(100, 10)
    with convoy.join() as first:
        await first.turn("a", 60, 0)
        with convoy.join() as second:
            assert sorted((20, 60, 90), key=second.rank) == [60, 90, 20]
            await second.turn("b", 60, 5)
            first.over("a")
            with anyio.fail_after(5):
                await second.turn("b", 20, 0)


@pytest.mark.parametrize("words", ["--read-window -1", "--read-window much"])
async def test_a_window_is_a_number_of_bytes(words: str, tmp_path: Path) -> None:
    ran = await syncer("push", "--file", tmp_path / "absent.tar", "-r", "a.io", *words.split(), home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert "is not a number of bytes" in ran.stderr
