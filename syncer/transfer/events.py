"""What happened, past tense.  An ``Emit`` is a plain synchronous callable: a display can never stall a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from syncer.content import Item, Progress
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Platform


@dataclass(frozen=True, slots=True)
class Found:
    """Discovery knows all of an image: what of it was new, counted once over the run."""

    item: Item
    root: Descriptor
    blobs: int
    bytes: int
    deduplicated: int  # bytes of blobs that an earlier image brings along
    platforms: tuple[Platform, ...] = ()  # of an index's manifests, in its order


@dataclass(frozen=True, slots=True)
class Started:
    """A blob is on its way; ``progress`` counts until one of the next four events."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Copied:
    descriptor: Descriptor
    space: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """The target had it already."""

    descriptor: Descriptor
    space: str


@dataclass(frozen=True, slots=True)
class Mounted:
    descriptor: Descriptor
    space: str
    origin: str


@dataclass(frozen=True, slots=True)
class Failed:
    descriptor: Descriptor
    space: str
    error: SyncerError


@dataclass(frozen=True, slots=True)
class Committed:
    """A manifest is stored."""

    descriptor: Descriptor
    space: str


@dataclass(frozen=True, slots=True)
class ImageCopied:
    """The image and all its content are at the target, under its name."""

    item: Item
    root: Descriptor


@dataclass(frozen=True, slots=True)
class ImageSkipped:
    """The target's name pointed to this very content already."""

    item: Item
    root: Descriptor


@dataclass(frozen=True, slots=True)
class ImageFailed:
    item: Item
    error: SyncerError


@dataclass(frozen=True, slots=True)
class ReferrersUnknown:
    """What refers to an image cannot be told, or not all of it; said once for a repository on its way to another."""

    item: Item
    error: SyncerError


Event: TypeAlias = (
    Found
    | Started
    | Copied
    | Skipped
    | Mounted
    | Failed
    | Committed
    | ImageCopied
    | ImageSkipped
    | ImageFailed
    | ReferrersUnknown
)
Emit: TypeAlias = Callable[[Event], None]
