"""Source and Target: the two protocols that everything else is about.

A registry and a bundle are each both; the engine (``syncer.transfer``) knows nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from syncer.errors import SyncerError
    from syncer.files import InPlace
    from syncer.oci import Descriptor, Digest, Platform, Reference
    from syncer.oci.manifest import AnyManifest


Pieces: TypeAlias = AsyncIterator[bytes | memoryview]
"""The bytes of a blob on their way; each piece is valid until the next one is asked for."""


@dataclass(slots=True)
class Progress:
    """How far one blob is: written by the end that moves it, read by the display on its own clock."""

    descriptor: Descriptor
    done: int = 0  # bytes


class Blob(Protocol):
    """One blob at a source, readable from any byte, any number of times."""

    @property
    def descriptor(self) -> Descriptor: ...

    def open(self, offset: int = 0) -> AbstractAsyncContextManager[Pieces]:
        """The bytes from ``offset`` to the end: exactly as many as the descriptor says, or an error.

        Whoever needs to know that they are the right bytes hashes them.
        """
        ...


class FileBlob(ABC):
    """A blob that lies in a local file: an end may read it in place, in a thread.

    A base to inherit from, as ``PourableBlob`` is: blobs are many, and to look for a protocol's methods takes long.
    """

    __slots__ = ()

    @abstractmethod
    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from byte ``offset`` on; returns the number of bytes, short only at the end."""
        ...

    def in_place(self, offset: int, length: int) -> InPlace | None:  # noqa: ARG002 -- for those that can tell
        """Where ``length`` bytes from ``offset`` on lie, for the kernel to send them; None where they must be read."""
        return None


class PourableBlob(ABC):
    """A blob whose bytes can be had in a worker thread, past the event loop."""

    __slots__ = ()

    @abstractmethod
    async def pour(self, sink: Callable[[memoryview], None], offset: int = 0) -> None:
        """Give the bytes from ``offset`` to the end to ``sink``, in a thread; a piece is done with when it returns.

        Raises what ``open`` raises, and what ``sink`` raises.
        """
        ...


class Source(Protocol):
    """Where content comes from."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """What ``reference`` names now, as cheaply as the source can tell.  Raises ``NotFound``."""
        ...

    async def manifest(self, reference: Reference) -> AnyManifest:
        """The manifest that ``reference`` names, verified against its digest if it has one."""
        ...

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        """A blob of the repository that ``reference`` is in."""
        ...


@runtime_checkable
class Pausing(Protocol):
    """An end that is sometimes asked to wait."""

    def pause(self, reference: Reference) -> float:
        """Seconds for which nothing should be asked of where ``reference`` is.

        0 when it may be asked, or when the pause is so long that asking, and failing, is better.
        """
        ...


@runtime_checkable
class Narrow(Protocol):
    """An end that is to be asked for little at a time, at some places."""

    def lanes(self, reference: Reference) -> float:
        """How many pieces of content may be on their way from where ``reference`` is; infinite for any number."""
        ...


@dataclass(frozen=True, slots=True)
class Referral:
    """A manifest that refers to another one, by tag or digest.

    ``subject`` is the manifest that lists it as its referrer; None for what only has a tag of cosign's.
    """

    reference: Reference
    subject: Digest | None = None


@dataclass(frozen=True, slots=True)
class Referrals:
    """What was found to refer to some manifests; ``doubt`` is why there may be more of it."""

    found: tuple[Referral, ...] = ()
    doubt: SyncerError | None = None


@runtime_checkable
class Referring(Protocol):
    """A source that can tell what speaks about an image: its signatures, attestations and SBOMs."""

    async def referrers(self, reference: Reference, subjects: Sequence[Digest]) -> Referrals:
        """Every manifest of ``reference``'s repository that refers to one of ``subjects``, in an order that stays.

        What cannot be told is in ``doubt``: none found without a doubt means that there is none.
        """
        ...


class Naming(Protocol):
    """What a target can tell before anything is sent.

    A *space* is what content is deduplicated within: a repository of a registry, or the one space of a
    bundle.
    """

    def space(self, name: Reference) -> str:
        """The space in which ``name`` lies."""
        ...

    async def current(self, name: Reference) -> Digest | None:
        """What ``name`` points to at the target; None when nothing, or when the target cannot tell."""
        ...


class Target(Naming, Protocol):
    """Where content goes.

    Calls for one (space, digest) come one after the other, children before parents.
    """

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        """Make a place for content, called once for each, in the order of the profile.

        ``manifest`` is the document itself where the content is one.
        """
        ...

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:
        """Bring ``blob`` into ``space``; False when it was there already (never asked with ``force``)."""
        ...

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        """Store ``manifest``, whose children are there, under ``names`` (none: under its digest only)."""
        ...


@runtime_checkable
class Listing(Protocol):
    """A target at which a referrer is stored in two steps: itself, and in the list of its subject's referrers."""

    async def lists(self, name: Reference, subject: Digest, referrer: Digest) -> bool:
        """Whether ``subject``, in the repository of ``name``, lists ``referrer``; True where nobody may know."""
        ...


@runtime_checkable
class Mounting(Protocol):
    """A target that can take a blob over from another of its spaces without any byte being sent."""

    async def mount(self, space: str, descriptor: Descriptor, origin: str) -> bool:
        """Whether ``space`` now has the blob that ``origin`` has; False means that it must be written."""
        ...


Along: TypeAlias = Literal["require"] | bool
"""Whether referrers come along with images; ``require``: that they cannot be told is a failure."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to transfer: where it is, and what it will be called at the target.

    With one platform an index is resolved to its manifest for it; with several it keeps what it has for
    them; with none images keep their form.
    """

    source: Reference
    target: Reference
    wanted_by: tuple[str, ...] = field(default=())
    platforms: tuple[Platform, ...] = ()
    referrers: bool = True  # signatures and the like come along, where the source can tell them
    requires_referrers: bool = False  # and that the source cannot tell them is a failure
    subject: Reference | None = None  # the image that this one speaks about, directly or not, and comes along with
    refers_to: Digest | None = None  # the manifest that must list it as its referrer
