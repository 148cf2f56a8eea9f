"""A registry that is killed, and started again on the same directory."""

from __future__ import annotations

import asyncio
import os
import signal

import anyio
import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.registries import Registry

IMAGE = images.index(images.image("a", layers=[images.layer("base", 2_500_000)]), images.image("b"))


async def push_and_kill(registry: Registry, proxy: FaultProxy, after: int) -> None:
    """Push, and kill the registry the moment that request number ``after`` begins."""
    pushing = asyncio.ensure_future(client.push(proxy.registry, "app", IMAGE, "v1"))
    while len(proxy.exchanges.log) < after and not pushing.done():  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0)
    assert registry.pid
    os.kill(registry.pid, signal.SIGKILL)
    await asyncio.gather(pushing, return_exceptions=True)


async def assert_whole(registry: Registry) -> None:
    """Whatever the registry names is there, byte for byte."""
    blobs = IMAGE.all_blobs()
    for digest, content in blobs.items():
        answer = await client.blob(registry, "app", digest)
        assert answer.status == 404 or answer.content == content
    for manifest in IMAGE.manifests():
        answer = await client.manifest(registry, "app", manifest.digest)
        assert answer.status in (200, 404)
        if answer:
            await client.assert_holds(registry, "app", manifest)
    if await client.tags(registry, "app"):
        await client.assert_holds(registry, "app", IMAGE, "v1")


# of the 16 requests of a push
@pytest.mark.parametrize("after", [2, 8, 13, 15])
async def test_a_killed_registry_holds_nothing_half_and_takes_the_push_again(
    serve_process: OpenRegistry, after: int
) -> None:
    async with serve_process() as registry, fault_proxy(registry) as proxy:
        await push_and_kill(registry, proxy, after)

    async with serve_process() as registry:
        await assert_whole(registry)
        await client.push(registry, "app", IMAGE, "v1")
        await client.assert_holds(registry, "app", IMAGE, "v1")


async def test_a_killed_registry_keeps_its_upload_sessions(serve_process: OpenRegistry) -> None:
    content = images.noise("blob", 5_000_000)
    digest = images.digest_of(content)

    async with serve_process() as registry:
        location = (await client.ask(registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        await client.ask(registry, "PATCH", location, data=content[:3_000_000])
        assert registry.pid
        os.kill(registry.pid, signal.SIGKILL)

    async with serve_process() as registry:
        status = await client.ask(registry, "GET", location)
        assert status.headers["Range"] == "0-2999999"
        await client.ask(registry, "PATCH", location, data=content[3_000_000:])
        assert (await client.ask(registry, "PUT", f"{location}?digest={digest}")).status == 201
        assert (await client.blob(registry, "app", digest)).content == content


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_a_stopped_registry_ends_at_once(serve_process: OpenRegistry, stop: signal.Signals) -> None:
    async with serve_process() as registry:
        await client.push(registry, "app", IMAGE, "v1")
        assert registry.pid
        async with client.open_session(registry) as idle:  # a connection that is kept alive holds nothing up
            await client.ask(registry, "GET", "/v2/", session=idle)
            os.kill(registry.pid, stop)
            with anyio.fail_after(10):  # a connection is kept for a minute
                while runs(registry.pid):  # noqa: ASYNC110  # no event tells
                    await anyio.sleep(0.01)
        assert registry.log
        assert "Traceback" not in registry.log.read_text()

    async with serve_process() as registry:
        await client.assert_holds(registry, "app", IMAGE, "v1")


def runs(process: int) -> bool:
    """Whether our child of that number has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
