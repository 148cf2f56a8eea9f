"""The account, which counts the events of a run while they happen."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from msgspec import Struct, structs

from syncer.content import Item
from syncer.oci import Descriptor, Digest
from syncer.report.figures import ImageAccount, RegistryAccount, Report, Status, Totals, UnknownReferrers, count_images
from syncer.transfer.events import (
    Copied,
    Event,
    Failed,
    Fetched,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    ReferrersUnknown,
    Skipped,
)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class _Count(Struct):
    """The number of blobs with one result, and their bytes."""

    blobs: int = 0
    bytes: int = 0

    def add(self, descriptor: Descriptor) -> None:
        self.blobs += 1
        self.bytes += descriptor.size


@dataclasses.dataclass(slots=True, kw_only=True)
class Account:
    """An ``Emit`` that counts events; ``report`` may be called at any time.

    ``fetches`` and ``sends`` say whether the source and the target are registries.  An image that fails
    and is tried again counts once, with its last result.
    """

    run_id: str
    fetches: bool
    sends: bool
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _utc_now
    _started: datetime = dataclasses.field(init=False)
    _began: float = dataclasses.field(init=False)
    _copied: _Count = dataclasses.field(default_factory=_Count)
    _mounted: _Count = dataclasses.field(default_factory=_Count)
    _skipped: _Count = dataclasses.field(default_factory=_Count)
    _failed: _Count = dataclasses.field(default_factory=_Count)
    _resumed: int = 0
    _fetched: int = 0
    _deduplicated: int = 0
    _foreign: dict[Digest, int] = dataclasses.field(default_factory=dict)  # layers left out, and their bytes
    _images: dict[Item, ImageAccount] = dataclasses.field(default_factory=dict)
    _found_at: dict[Item, float] = dataclasses.field(default_factory=dict)
    _unknown: dict[str, UnknownReferrers] = dataclasses.field(default_factory=dict)  # by repository

    def __post_init__(self) -> None:
        self._started, self._began = self.now(), self.clock()

    def __call__(self, event: Event) -> None:
        match event:
            case Copied() | Fetched():
                self._move(event)
            case Mounted(descriptor):
                self._mounted.add(descriptor)
            case Skipped(descriptor):
                self._skipped.add(descriptor)
            case Failed(descriptor):
                self._failed.add(descriptor)
            case Found():
                self._find(event)
            case ImageCopied(item, root):
                self._end(item, Status.COPIED, root)
            case ImageSkipped(item, root):
                self._end(item, Status.SKIPPED, root)
            case ImageFailed(item, error):
                self._end(item, Status.FAILED)
                self._images[item] = structs.replace(self._images[item], error=error)
            case ReferrersUnknown(item, error):
                known = self._unknown.get(item.source.name)
                self._unknown[item.source.name] = UnknownReferrers(
                    repository=item.source.name,
                    error=known.error if known else error,
                    is_required=item.requires_referrers or (known is not None and known.is_required),
                )
            case _:
                pass  # only the display needs the others

    def expect(self, items: Iterable[Item]) -> None:
        """Announce the items of the run: those that it does not reach are in the report as unfinished."""
        for item in items:
            self._images.setdefault(
                item,
                ImageAccount(source=item.source, target=item.target, subject=item.subject, status=Status.UNFINISHED),
            )

    def report(self, registries: Iterable[RegistryAccount] = (), *, warnings: Iterable[str] = ()) -> Report:
        """The report of all events so far; ``registries`` are the counts of the transport, ``warnings`` its doubts."""
        accounts = tuple(sorted(registries, key=lambda account: account.registry))
        images = tuple(self._images.values())
        return Report(
            run_id=self.run_id,
            started=self._started,
            ended=self.now(),
            totals=self._totals(images, accounts),
            images=images,
            registries=accounts,
            referrers_unknown=tuple(self._unknown.values()),
            warnings=tuple(warnings),
        )

    def _move(self, event: Copied | Fetched) -> None:
        if isinstance(event, Copied):
            self._copied.add(event.descriptor)
            self._resumed += event.resumed
        if isinstance(event, Fetched):
            self._fetched += event.descriptor.size
        elif not event.is_shared:
            self._fetched += event.descriptor.size - event.resumed

    def _find(self, found: Found) -> None:
        self._deduplicated += found.deduplicated
        self._foreign |= {layer.digest: layer.size for layer in found.left_out}
        self._found_at[found.item] = self.clock()
        self._images[found.item] = ImageAccount(
            source=found.item.source,
            target=found.item.target,
            subject=found.item.subject,
            status=Status.UNFINISHED,
            digest=found.root.digest,
            platforms=found.platforms,
            bytes=found.bytes,
        )

    def _end(self, item: Item, status: Status, root: Descriptor | None = None) -> None:
        now = self.clock()
        known = self._images.get(item) or ImageAccount(
            source=item.source, target=item.target, subject=item.subject, status=status
        )
        self._images[item] = structs.replace(
            known,
            status=status,
            error=None,
            digest=root.digest if root else known.digest,
            seconds=now - self._found_at.get(item, now),
        )

    def _totals(self, images: tuple[ImageAccount, ...], registries: tuple[RegistryAccount, ...]) -> Totals:
        return Totals(
            **count_images(images),
            blobs_copied=self._copied.blobs,
            blobs_mounted=self._mounted.blobs,
            blobs_skipped=self._skipped.blobs,
            blobs_failed=self._failed.blobs,
            bytes_fetched=self._fetched if self.fetches else 0,
            bytes_sent=self._copied.bytes - self._resumed if self.sends else 0,
            bytes_resumed=self._resumed,
            bytes_mounted=self._mounted.bytes,
            bytes_skipped=self._skipped.bytes,
            bytes_deduplicated=self._deduplicated,
            foreign_layers=len(self._foreign),
            bytes_foreign=sum(self._foreign.values()),
            requests=sum(registry.requests for registry in registries),
            retries=sum(registry.retries for registry in registries),
            too_many_requests=sum(registry.too_many_requests for registry in registries),
            seconds=self.clock() - self._began,
        )
