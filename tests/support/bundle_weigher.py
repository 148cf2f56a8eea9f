"""``python -m tests.support.bundle_weigher FINAL COUNT SIZE``: what a build and a verification weigh.

Prints the process's peak in megabytes before and after COUNT blobs of SIZE MiB went into a bundle at once.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from syncer.bundle import open_bundle, open_writer, verify_bundle
from syncer.content import Pieces, Progress
from syncer.oci import Descriptor, Digest, Reference, parse_manifest
from tests.support.bundle_inspector import peak
from tests.support.hostile_bundles import OCI_LAYER, encoded, manifest_of

PIECE = 256 * 1024


@dataclass(slots=True)
class MadeUpBlob:
    """Pieces that are made when they are asked for."""

    number: int
    descriptor: Descriptor

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        assert offset == 0

        async def pieces() -> Pieces:
            for _ in range(self.descriptor.size // PIECE):
                yield bytes([self.number]) * PIECE
                await anyio.lowlevel.checkpoint()

        yield pieces()


def made_up(number: int, size: int) -> MadeUpBlob:
    hasher = hashlib.sha256()
    for _ in range(size // PIECE):
        hasher.update(bytes([number]) * PIECE)
    return MadeUpBlob(number, Descriptor(OCI_LAYER, Digest("sha256", hasher.hexdigest()), size))


async def main(final: Path, count: int, size: int) -> None:
    blobs = [made_up(number, size) for number in range(count)]
    config, *layers = [blob.descriptor.to_json() for blob in blobs]
    manifest = parse_manifest(encoded(manifest_of(config, layers)))
    print(peak())  # noqa: T201 -- what the test reads
    async with open_writer(final) as writer:
        await writer.reserve("", manifest.descriptor, manifest)
        for blob in blobs:
            await writer.reserve("", blob.descriptor, None)
        async with anyio.create_task_group() as tasks:
            for blob in blobs:
                tasks.start_soon(writer.write, "", blob, Progress(blob.descriptor))
        await writer.commit("", manifest, [Reference.parse("weighed")])
        await writer.publish(b"")
    with open_bundle(final) as bundle:
        await verify_bundle(bundle)
    print(peak())  # noqa: T201 -- likewise


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) * 2**20)
