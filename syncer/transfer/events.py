"""The events of a run, in the past tense; an ``Emit`` is a plain synchronous callable that takes them.

The callable must not block, and since it is not awaited, a display cannot stall a transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from syncer.content import Item, Progress
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Platform


@dataclass(frozen=True, slots=True)
class Found:
    """Discovery has found all content of an image; ``blobs`` and ``bytes`` count what no earlier image has."""

    item: Item
    root: Descriptor
    blobs: int
    bytes: int
    deduplicated: int  # bytes of blobs that an earlier image has too
    platforms: tuple[Platform, ...] = ()  # of an index's manifests, in its order
    left_out: tuple[Descriptor, ...] = ()  # foreign layers that do not come along


@dataclass(frozen=True, slots=True)
class Started:
    """The transfer of a blob has begun; ``progress`` counts until one of the next four events."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Fetched:
    """A blob was read from its source for several targets."""

    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Copied:
    """A blob was copied to the target, in ``seconds``; an earlier run had brought its first ``resumed`` bytes.

    When it ``is_shared``, its source delivered it for several targets, of which ``Fetched`` tells.
    """

    descriptor: Descriptor
    space: str
    seconds: float
    resumed: int = 0
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A blob was not copied, because the target had it already."""

    descriptor: Descriptor
    space: str


@dataclass(frozen=True, slots=True)
class Mounted:
    """A blob was mounted from the space ``origin`` of the target, without sending bytes."""

    descriptor: Descriptor
    space: str
    origin: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A blob or a manifest could not be brought to the target."""

    descriptor: Descriptor
    space: str
    error: SyncerError


@dataclass(frozen=True, slots=True)
class Committed:
    """A manifest was stored at the target."""

    descriptor: Descriptor
    space: str


@dataclass(frozen=True, slots=True)
class ImageCopied:
    """The image and all its content are at the target, under its name."""

    item: Item
    root: Descriptor


@dataclass(frozen=True, slots=True)
class ImageSkipped:
    """The name at the target pointed to this content already."""

    item: Item
    root: Descriptor


@dataclass(frozen=True, slots=True)
class ImageFailed:
    """An image, or a part of it, could not be brought to the target."""

    item: Item
    error: SyncerError


@dataclass(frozen=True, slots=True)
class ReferrersUnknown:
    """Not all referrers of an image could be listed; said once for a repository on its way to another."""

    item: Item
    error: SyncerError


Event: TypeAlias = (
    Found
    | Started
    | Fetched
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
