"""The events of a run, in the past tense; an ``Emit`` is a plain synchronous callable that takes them.

The callable must not block, and since it is not awaited, a display cannot stall a transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from syncer.content import FileProgress, Item, Progress
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Platform, Reference


class Found(Struct, frozen=True):
    """Discovery has found all content of an image; ``blobs`` and ``bytes`` count what no earlier image has."""

    item: Item
    root: Descriptor
    blobs: int
    bytes: int
    deduplicated: int  # bytes of blobs that an earlier image has too
    platforms: tuple[Platform, ...] = ()  # of an index's manifests, in its order
    left_out: tuple[Descriptor, ...] = ()  # foreign layers that do not come along


class Started(Struct, frozen=True):
    """The transfer of a blob has begun; ``progress`` counts until one of the next four events.

    ``image`` is one at the source that has the blob, and ``space`` where it goes.
    """

    progress: Progress
    image: Reference | None = None
    space: str = ""


class Fetched(Struct, frozen=True):
    """A blob was read from its source for several targets."""

    descriptor: Descriptor


class Copied(Struct, frozen=True):
    """A blob was copied to the target, in ``seconds``; an earlier run had brought its first ``resumed`` bytes.

    When it ``is_shared``, its source delivered it for several targets, of which ``Fetched`` tells.
    """

    descriptor: Descriptor
    space: str
    seconds: float
    resumed: int = 0
    is_shared: bool = False


class Skipped(Struct, frozen=True):
    """A blob was not copied, because the target had it already."""

    descriptor: Descriptor
    space: str


class Mounted(Struct, frozen=True):
    """A blob was mounted from the space ``origin`` of the target, without sending bytes."""

    descriptor: Descriptor
    space: str
    origin: str


class Failed(Struct, frozen=True):
    """A blob or a manifest could not be brought to the target."""

    descriptor: Descriptor
    space: str
    error: SyncerError


class Committed(Struct, frozen=True):
    """A manifest was stored at the target."""

    descriptor: Descriptor
    space: str


class ImageCopied(Struct, frozen=True):
    """The image and all its content are at the target, under its name."""

    item: Item
    root: Descriptor


class ImageSkipped(Struct, frozen=True):
    """The name at the target pointed to this content already."""

    item: Item
    root: Descriptor


class ImageFailed(Struct, frozen=True):
    """An image, or a part of it, could not be brought to the target."""

    item: Item
    error: SyncerError


class Postponed(Struct, frozen=True):
    """An image failed for what may pass, and is tried once more when all others are done."""

    item: Item
    error: SyncerError


class ReferrersUnknown(Struct, frozen=True):
    """Not all referrers of an image could be listed; said once for a repository on its way to another."""

    item: Item
    error: SyncerError


class Paused(Struct, frozen=True):
    """A host asks for no requests for so many ``seconds``."""

    host: str
    seconds: float
    reason: str


class Retried(Struct, frozen=True):
    """A request to a host failed, and is sent again after ``seconds``: the retry ``number`` of ``most``."""

    host: str
    number: int
    most: int
    seconds: float
    reason: str


class WentAway(Struct, frozen=True):
    """A host that had answered takes no connections, or does no work; it is waited for."""

    host: str
    reason: str


class CameBack(Struct, frozen=True):
    """A host that was away is there again, or is not waited for any more."""

    host: str


class Stalled(Struct, frozen=True):
    """No byte of a blob has come or gone for so many ``seconds``; said again each time that they have doubled."""

    descriptor: Descriptor
    image: Reference | None
    seconds: float


class Compacting(Struct, frozen=True):
    """The file at ``path``, all of which has arrived, is copied without what is not wanted of it.

    ``progress`` counts the bytes until ``Compacted``.
    """

    path: Path
    progress: FileProgress


class Compacted(Struct, frozen=True):
    """The copy is there and on its disk, after so many ``seconds``."""

    path: Path
    seconds: float


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
    | Postponed
    | ReferrersUnknown
    | Paused
    | Retried
    | WentAway
    | CameBack
    | Stalled
    | Compacting
    | Compacted
)
Emit: TypeAlias = Callable[[Event], None]
