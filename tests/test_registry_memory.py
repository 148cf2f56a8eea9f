"""No blob is ever held whole, whichever way it goes."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from msgspec import structs

from syncer.content import PourableBlob
from syncer.oci import Descriptor, Digest
from tests.conftest import OpenRegistry
from tests.support import images
from tests.support.client import push_blob
from tests.support.registry_end import QUICK, LocalBlob, blob_of, name_at, registries_for, target_at, write

MIB = 1024 * 1024
SIZE = 96 * MIB
MOST = 8 * MIB


def sparse_blob(directory: Path) -> LocalBlob:
    """A large blob of zeros, which takes no room on the disk."""
    path = directory / "sparse"
    with path.open("wb") as file:
        file.truncate(SIZE)
    digest = hashlib.sha256()
    for _ in range(SIZE // MIB):
        digest.update(bytes(MIB))
    return LocalBlob(path, Descriptor("application/octet-stream", Digest("sha256", digest.hexdigest()), SIZE))


@contextmanager
def flat_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST


async def test_a_large_blob_goes_in_and_out_in_flat_memory(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    blob = sparse_blob(tmp_path)
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)
        with flat_memory():
            await write(target, "chunks", blob)
        remote = registries.blob(name_at(registry, "chunks"), blob.descriptor)
        with flat_memory():
            async with remote.open() as pieces:
                assert sum([len(piece) async for piece in pieces]) == SIZE
        with flat_memory():
            await write(target, "relayed", remote)


async def test_many_blobs_at_once_are_held_in_smaller_pieces(debian_registry: OpenRegistry) -> None:
    content = images.noise("one of many", MIB)
    together = 128
    held: list[int] = []  # bytes
    limits = structs.replace(QUICK, requests_per_host=together)
    all_hold_one = threading.Barrier(together, lambda: held.append(tracemalloc.get_traced_memory()[0]))

    def sink(_: memoryview) -> None:
        if not held:
            all_hold_one.wait(timeout=60)

    async with debian_registry() as registry, registries_for(registry, limits=limits) as registries:
        await push_blob(registry, "app", content)
        blob = registries.blob(name_at(registry, "app"), blob_of(content).descriptor)
        assert isinstance(blob, PourableBlob)
        tracemalloc.start()
        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(together):
                    tasks.start_soon(blob.pour, sink)
        finally:
            tracemalloc.stop()
    assert 8 * MIB < held[0] < 40 * MIB
