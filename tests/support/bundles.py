"""Bundles built from generated images, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from syncer.bundle import Format, open_bundle, open_writer
from syncer.bundle.reader import BundleBlob
from syncer.content import Item
from syncer.oci import Descriptor, Digest, Reference
from syncer.transfer.events import Event
from syncer.transfer.run import Options, transfer
from tests.support import images
from tests.support.memory import MemorySource

FORMATS: tuple[Format, ...] = ("tar.zst", "tar")


def some_images(*, docker: bool = True) -> MemorySource:
    """Three images of three platforms that share a layer of several blocks, and one of one platform.

    skopeo 1.9.3 finds no image of Docker's media types in an OCI image layout.
    """
    source = MemorySource()
    base = images.layer("base", 700_000)
    for number in range(3):
        source.add(f"registry.example:5000/app{number}:v1", images.multi_platform(f"app{number}", base=base))
    source.add("busybox", images.image("busybox", docker=docker))
    return source


def items_of(source: MemorySource) -> list[Item]:
    """Every image of ``source``, under its own name."""
    return [Item(name, name) for name in map(Reference.parse, source.names)]


async def build(
    final: Path, source: MemorySource, form: Format = "tar.zst", *, items: Sequence[Item] | None = None
) -> list[Event]:
    """Write the bundle ``final``, as ``syncer build`` does."""
    events: list[Event] = []
    async with open_writer(final, format=form) as writer:
        await transfer(items or items_of(source), source, writer, options=Options(), emit=events.append)
        await writer.publish(b"version: 1\n")
    return events


@asynccontextmanager
async def bundled_blob(directory: Path, content: bytes) -> AsyncIterator[BundleBlob]:
    """``content`` as a blob that lies in a bundle, of which it is nearly all."""
    source = MemorySource()
    layer = images.layer_of(content, compression="none")
    source.add("app", images.image("app", layers=[layer]))
    await build(final := directory / "bundle.tar.zst", source)
    with open_bundle(final) as bundle:
        yield BundleBlob(bundle, Descriptor(images.OCI_LAYER, Digest.of(content), len(content)))
