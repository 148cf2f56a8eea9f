"""The protocols ``Source`` and ``Target``, and the values that go between them.

A registry and a bundle are each a source and a target; the engine (``syncer.transfer``) knows nothing else.
Protocols whose name ends in ``-ing`` are abilities that some ends have and others lack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct, field

if TYPE_CHECKING:
    from yarl import URL

    from syncer.errors import NotFound, SyncerError, VerificationError
    from syncer.files import InPlace
    from syncer.oci import Descriptor, Digest, Platform, Reference
    from syncer.oci.manifest import AnyManifest


Pieces: TypeAlias = AsyncIterator[bytes | memoryview]
"""The bytes of a blob, piece by piece; a piece is valid until the next one is taken."""


class Progress(Struct):
    """The progress of one blob: the end that moves the blob writes it, the display reads it on its own clock."""

    descriptor: Descriptor
    done: int = 0  # bytes
    resumed: int = 0  # bytes of these that an earlier run had brought
    is_shared: bool = False  # its bytes were read from the source for several targets
    writing: float = 0.0  # seconds that its bytes took to be written to a disk
    hashing: float = 0.0  # seconds that they took to be hashed


class FileProgress(Struct):
    """The progress of a file that is written again, which its writer counts as ``Progress`` is counted."""

    size: int  # bytes
    done: int = 0


class Blob(Protocol):
    """One blob at a source; it can be read from any byte, any number of times."""

    @property
    def descriptor(self) -> Descriptor: ...

    def open(self, offset: int = 0) -> AbstractAsyncContextManager[Pieces]:
        """The bytes from ``offset`` to the end: exactly as many as the descriptor says, or an error.

        The bytes are not verified: a caller that needs to be sure of them hashes them.
        """
        ...


async def read_whole(blob: Blob) -> bytes:
    """All bytes of a small blob, as its source gives them; a caller that needs to be sure of them hashes them."""
    while isinstance(blob, SharedBlob):
        with suppress(Withdrawn):
            async with blob.share() as shared:
                return await read_whole(shared)
    async with blob.open() as pieces:
        return b"".join([bytes(piece) async for piece in pieces])


class FileBlob(ABC):
    """A blob in a local file: the other end may read the file itself, in a thread.

    This is a base class and no protocol, as ``PourableBlob`` is: there are many blobs, and ``isinstance`` is slow with
    a protocol.
    """

    __slots__ = ()

    is_there: ClassVar[bool] = True
    """The file has all bytes; else reading waits for them, and must be done in a thread."""

    @abstractmethod
    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from byte ``offset`` on; returns the number of bytes, which is smaller only at the end."""
        ...

    def in_place(self, offset: int, length: int) -> InPlace | None:  # noqa: ARG002 -- for those that can tell
        """The file ranges that hold ``length`` bytes from ``offset`` on, so that the kernel can send them.

        None when the file does not hold these bytes as they are, and they must be read.
        """
        return None

    async def turn(self, offset: int) -> None:  # noqa: B027 -- for those that share a file with other readers
        """Wait until the bytes from ``offset`` on should be read; those before it are read."""

    def over(self) -> None:  # noqa: B027 -- likewise
        """Note that no more bytes are read now."""


class WaitingBlob(FileBlob):
    """A blob of which not all bytes are there yet: reading waits for them, in a thread."""

    __slots__ = ()

    is_there = False

    @abstractmethod
    async def run(self) -> None:
        """Let what is read come, until this is cancelled; then nobody waits any more."""
        ...

    @abstractmethod
    def close(self) -> None:
        """Let nobody wait any more."""
        ...


class SharedBlob(ABC):
    """A blob that several targets read at the same time, while its source delivers it once."""

    __slots__ = ()

    @abstractmethod
    def share(self) -> AbstractAsyncContextManager[Blob]:
        """The blob to read in the block: a ``FileBlob``, or the one of the source.

        Waits for all that the source has to be waited for, so a caller must hold nothing that others may wait for.
        Reading may raise ``Withdrawn``: then this is called again, and the blob is read from its beginning.
        """
        ...


class Withdrawn(Exception):
    """A shared blob can no longer be read; ``is_spoilt`` when its bytes were wrong."""

    def __init__(self, *, is_spoilt: bool = False) -> None:
        super().__init__("the blob was withdrawn")
        self.is_spoilt = is_spoilt


class PourableBlob(ABC):
    """A blob that a worker thread can deliver, past the event loop."""

    __slots__ = ()

    @property
    def server(self) -> URL | None:
        """The server that delivers it, whose limit of requests holds for that; None where no request is made."""
        return None

    @abstractmethod
    def permit(self) -> AbstractAsyncContextManager[None]:
        """A block in which ``open`` and ``pour`` wait for the source alone, and not for their turn."""
        ...

    @abstractmethod
    async def pour(self, sink: Callable[[memoryview], None], offset: int = 0) -> None:
        """Call ``sink`` in a thread with the bytes from ``offset`` to the end, piece by piece.

        A piece is valid until ``sink`` returns.  Raises the errors of ``open``, and those of ``sink``.
        """
        ...


class Source(Protocol):
    """The end that content comes from."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """The descriptor of the manifest that ``reference`` names now, with as few requests as possible.

        Raises ``NotFound``.
        """
        ...

    async def manifest(self, reference: Reference) -> AnyManifest:
        """The manifest that ``reference`` names, verified against its digest if it has one."""
        ...

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        """The blob that ``descriptor`` names, in the repository of ``reference``; nothing is read yet."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A source that can say more about a name that it does not have."""

    async def explain(self, reference: Reference, error: NotFound) -> NotFound:
        """The error for ``reference``, which is not there as ``error`` says, in words that help.  Raises nothing."""
        ...


@runtime_checkable
class Vouching(Protocol):
    """A source that keeps content itself, and can say where it is wrong."""

    def damaged(self, descriptor: Descriptor) -> VerificationError:
        """The error for content that was read whole, and is not what its digest names."""
        ...


@runtime_checkable
class Pausing(Protocol):
    """A source that knows when one of its registries asks for a pause."""

    def pause(self, reference: Reference) -> float:
        """Seconds until the registry of ``reference`` should get the next request.

        0 when it may get one now, or when the pause is so long that a failed request is better.
        """
        ...


@runtime_checkable
class Limiting(Protocol):
    """A source that limits how many blobs it delivers at once."""

    def capacity(self, reference: Reference) -> float:
        """The number of blobs that the registry of ``reference`` may deliver at once; infinite without a limit."""
        ...


@runtime_checkable
class Taking(Protocol):
    """A target that limits how many pieces of content it takes at once."""

    @property
    def lanes(self) -> int:
        """The number of them that it takes now."""
        ...


@runtime_checkable
class Ranking(Protocol):
    """A source that wants large blobs to be read in an order of its own."""

    def rank(self, descriptor: Descriptor) -> int:
        """The place of a blob in that order: the lowest comes first."""
        ...


class Referral(Struct, frozen=True):
    """A manifest that refers to another one, by tag or digest.

    ``subject`` is the manifest that lists it as its referrer; None for what only has a tag of cosign's.
    """

    reference: Reference
    subject: Digest | None = None


class Referrals(Struct, frozen=True):
    """The manifests that were found to refer to some others; ``doubt`` is why there may be more of them."""

    found: tuple[Referral, ...] = ()
    doubt: SyncerError | None = None


@runtime_checkable
class Referring(Protocol):
    """A source that can list the referrers of an image: its signatures, attestations and SBOMs."""

    async def referrers(self, reference: Reference, subjects: Sequence[Digest]) -> Referrals:
        """The manifests in the repository of ``reference`` that refer to one of ``subjects``, in an order that stays.

        ``doubt`` says why there may be more of them: none found without a doubt means that there are none.
        """
        ...


@runtime_checkable
class Bringing(Protocol):
    """A source that can bring foreign layers along, which stay where their vendor keeps them otherwise."""

    def brings(self, layer: Descriptor) -> bool:
        """Return whether ``layer``, a foreign one, comes along with its image: the source has it, or may fetch it."""
        ...


class TargetNames(Protocol):
    """The names at a target, which can be looked up before anything is sent.

    A *space* is the area within which content is deduplicated: a repository of a registry, or the whole of a
    bundle.
    """

    def space(self, name: Reference) -> str:
        """The space that ``name`` belongs to."""
        ...

    async def current(self, name: Reference) -> Digest | None:
        """The digest that ``name`` has at the target; None when it has none, or when the target does not know."""
        ...


class Target(TargetNames, Protocol):
    """The end that content goes to.

    Calls for the same digest in the same space come one after the other, children before parents.
    """

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        """Make a place for content; called once for each piece of content, in the order of the profile.

        ``manifest`` is the document itself when the content is a manifest.
        """
        ...

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:
        """Write ``blob`` into ``space``; returns False when the target had it already.

        With ``force`` the blob is sent without looking whether it is there.
        """
        ...

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        """Store ``manifest`` under ``names``, or under its digest only when there are none; its children are there."""
        ...


@runtime_checkable
class Listing(Protocol):
    """A target at which a referrer is stored in two steps: itself, and in the list of its subject's referrers."""

    async def lists(self, name: Reference, subject: Digest, referrer: Digest) -> bool:
        """Tell whether ``subject``, in the repository of ``name``, lists ``referrer``; True where nobody may know."""
        ...


@runtime_checkable
class Mounting(Protocol):
    """A target that can copy a blob from another of its spaces, so that no bytes are sent."""

    async def mount(self, space: str, descriptor: Descriptor, origin: str) -> bool:
        """Copy a blob from the space ``origin`` into ``space``; returns False when it must be written instead."""
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A target that can be asked for the truth about what it has, and not only for a hint."""

    async def holds(self, space: str, descriptor: Descriptor) -> bool:
        """Tell whether ``space`` has the content in its right size.  Raises when the target does not tell."""
        ...


@runtime_checkable
class Roomy(Protocol):
    """A target that knows how much room it has."""

    def is_roomy(self, times: float) -> bool:
        """Tell whether there would be room for ``times`` as much as has been reserved."""
        ...


Along: TypeAlias = Literal["require"] | bool
"""Whether referrers come along with images; ``require``: that they cannot be told is a failure."""


class Item(Struct, frozen=True):
    """One image to transfer: its name at the source, and its name at the target.

    With one platform, an index is replaced by its manifest for that platform; with several, the index keeps only the
    manifests for these; without any, the image stays as it is.
    """

    source: Reference
    target: Reference
    wanted_by: tuple[str, ...] = field(default=())
    platforms: tuple[Platform, ...] = ()
    referrers: bool = True  # signatures and other referrers are transferred too, if the source can list them
    requires_referrers: bool = False  # and it is a failure when the source cannot list them
    subject: Reference | None = None  # for a referrer: the image that it is about, directly or not
    refers_to: Digest | None = None  # for a referrer: the manifest that must list it
