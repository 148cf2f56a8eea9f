"""How large a bundle will be, before anything of it is written."""

from __future__ import annotations

from syncer.bundle import layout, tar
from syncer.bundle.framing import Format, Framing, PlainFraming, ZstdFraming
from syncer.bundle.slots import Slot
from syncer.bundle.zstd import Frame
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest


class BundleSize:
    """Adds up the places that content takes in a bundle, each digest once; implements ``content.Naming``."""

    def __init__(self, format: Format, compression_level: int) -> None:  # noqa: A002  the word of the command line
        self._framing: Framing = ZstdFraming(compression_level) if format == "tar.zst" else PlainFraming()
        self._frames: list[Frame] = []
        self._seen: set[Digest] = set()
        self._roots: list[tuple[Reference, Descriptor]] = []

    def space(self, name: Reference) -> str:  # noqa: ARG002  everything in a bundle is one space
        return ""

    async def current(self, name: Reference) -> Digest | None:  # noqa: ARG002  nothing is there before
        return None

    def add(self, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        """Count one piece of content; ``manifest`` is the document where the content is one."""
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        slot = Slot(0, descriptor.digest, descriptor.size, 0)
        if manifest is not None:
            slot.packed = len(self._framing.pack(slot.member(manifest.content)) or b"") or None
        self._frames += slot.frames(self._framing)

    def name(self, name: Reference, root: Descriptor) -> None:
        """Count an image's entry in ``index.json``."""
        self._roots.append((name, root))

    def total(self, definition: bytes) -> int:
        """Bytes of a file that holds all that was added; ``definition`` is what it will say of itself."""
        frames = list(self._frames)
        for name, content in (
            (layout.OCI_LAYOUT, layout.LAYOUT_CONTENT),
            (layout.DEFINITION, definition),
            (layout.INDEX, layout.write_index(self._roots)),
        ):
            frames += self._framed(tar.header(name, len(content)) + content + bytes(tar.padding(len(content))))
        frames += self._framed(tar.END)
        return sum(length for length, _ in frames) + len(self._framing.trailer(frames))

    def _framed(self, member: bytes) -> list[Frame]:
        if packed := self._framing.pack(member):
            return [(len(packed), len(member))]
        return list(self._framing.frames(len(member)))
