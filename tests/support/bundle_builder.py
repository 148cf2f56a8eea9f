"""``python -m tests.support.bundle_builder FINAL FORM LOG [NAME…]``: a build that a test may kill.

It is of all images, or of those named.  Every piece that is fetched is a line of ``LOG``: digest, offset, length.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from syncer.bundle import Format
from syncer.content import Blob, Item, Pieces
from syncer.oci import Descriptor, Reference
from tests.support import images
from tests.support.bundles import FORMATS, build
from tests.support.memory import MemorySource

PIECE = 50_000  # bytes; not a divisor of anything


@dataclass(slots=True)
class LoggedBlob:
    descriptor: Descriptor
    content: bytes
    log: int

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        async def pieces() -> Pieces:
            for start in range(offset, len(self.content), PIECE):
                piece = self.content[start : start + PIECE]
                os.write(self.log, f"{self.descriptor.digest} {start} {len(piece)}\n".encode())
                yield memoryview(piece)
                await anyio.lowlevel.checkpoint()

        yield pieces()


@dataclass(slots=True)
class LoggedSource(MemorySource):
    log: int = field(kw_only=True)

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        return LoggedBlob(descriptor, self.blobs[str(descriptor.digest)], self.log)


def add_large_images(source: MemorySource) -> None:
    """An image with layers of many batches, and one of three platforms that shares one of them."""
    shared = images.layer("shared", 1_700_000)
    source.add("large", images.image("large", layers=[shared, images.layer("of large", 2_100_000)]))
    source.add("other", images.multi_platform("other", base=shared))


async def main(final: Path, form: Format, log: Path, *names: str) -> None:
    source = LoggedSource(log=os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    add_large_images(source)
    items = [Item(name, name) for name in map(Reference.parse, names)]
    await build(final, source, form, items=items or None)


if __name__ == "__main__":
    form = next(form for form in FORMATS if form == sys.argv[2])
    anyio.run(main, Path(sys.argv[1]), form, Path(sys.argv[3]), *sys.argv[4:])
