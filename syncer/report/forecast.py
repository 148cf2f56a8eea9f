"""The forecast of a run, which ``plan`` and ``--dry-run`` show: bytes to fetch, to send and to mount."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from msgspec import Struct, field, structs

from syncer.content import Item
from syncer.errors import Exit, SyncerError, common_exit
from syncer.oci import Descriptor, Digest, Reference
from syncer.report.figures import PrunedTag, reason
from syncer.report.summary import block, doubt_lines, foreign_layers, human_bytes, printable, prune_lines, quantity
from syncer.transfer.discovery import DiscoveryFailure, DiscoveryResult, ReferrersDoubt, Unchanged
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Tree

_LARGEST = 10
_LOST = "not compared"  # an image, when a server did not let it


class Action(StrEnum):
    """The action of a transfer for an image."""

    COPY = "copy"
    SKIP = "skip"  # the target has it
    FAIL = "fail"  # it could not be found, or not be compared


class ImageForecast(Struct, frozen=True, kw_only=True):
    """The forecast for one image at one target."""

    source: Reference
    target: Reference
    action: Action
    subject: Reference | None = None  # as in ``ImageAccount``
    digest: Digest | None = None
    size: int = 0  # bytes of all its blobs, shared ones included; 0 when the image was not read
    bytes: int = 0  # of the blobs that would be copied for it
    bytes_mounted: int = 0
    error: SyncerError | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "target": str(self.target),
            "digest": str(self.digest) if self.digest else None,
            "subject": str(self.subject) if self.subject else None,
            "action": self.action.value,
            "size": self.size,
            "bytes": self.bytes,
            "bytes_mounted": self.bytes_mounted,
            "reason": reason(self.error) if self.error else None,
            "message": str(self.error) if self.error else None,
        }


class RegistryForecast(Struct, kw_only=True):
    """The forecast of the traffic with one registry, in bytes of blobs."""

    registry: str
    bytes_fetched: int = 0
    bytes_sent: int = 0
    bytes_mounted: int = 0


class ForecastTotals(Struct, frozen=True, kw_only=True):
    """The sums of a forecast; bytes are those of blobs."""

    images: int
    images_to_copy: int
    images_to_skip: int
    images_failed: int
    referrers_to_copy: int
    blobs_to_copy: int
    blobs_to_mount: int
    bytes_to_fetch: int
    bytes_to_send: int
    bytes_to_mount: int
    bytes_deduplicated: int
    bytes_resumed: int = 0  # of the blobs to copy, which an earlier run has brought already
    foreign_layers: int  # that stay where their vendors keep them
    bytes_foreign: int
    blobs_assumed: int = 0  # that a delta leaves out, since its target has them
    bytes_assumed: int = 0
    disk_bytes: int | None  # that a bundle would take; None for a transfer to a registry


class ForecastReport(Struct, frozen=True, kw_only=True):
    """The forecast of one run."""

    totals: ForecastTotals
    images: tuple[ImageForecast, ...]
    registries: tuple[RegistryForecast, ...]
    warnings: tuple[str, ...] = ()  # what could not be told, and does no harm
    pruned: tuple[PrunedTag, ...] | None = None  # as in ``Report``

    @property
    def has_work(self) -> bool:
        return bool(self.pruned) or any(image.action is Action.COPY for image in self.images)

    @property
    def largest(self) -> list[ImageForecast]:
        """The images with the most bytes to copy or to share, each once however many targets it goes to."""
        copied = {image.source: image for image in self.images if image.action is Action.COPY and image.subject is None}
        return sorted(copied.values(), key=lambda image: -image.size)[:_LARGEST]

    def exit(self, *, tell_work: bool) -> Exit:
        """The exit code that the failures share, else 0; with ``tell_work`` it is 10 when there is work to do."""
        failed = common_exit(image.error.exit for image in self.images if image.error)
        return failed or (Exit.WORK_TO_DO if tell_work and self.has_work else Exit.OK)

    def to_json(self) -> dict[str, Any]:
        return {
            "totals": structs.asdict(self.totals),
            "images": [image.to_json() for image in self.images],
            "largest": [{"source": str(image.source), "size": image.size} for image in self.largest],
            "registries": [structs.asdict(registry) for registry in self.registries],
            "warnings": list(self.warnings),
        } | ({} if self.pruned is None else {"pruned": [pruned.to_json() for pruned in self.pruned]})


class Forecast(Struct, kw_only=True):
    """A consumer of discovery that only adds up.

    ``fetches`` and ``sends`` say whether the ends are registries, ``can_mount`` whether the target mounts, ``shares``
    whether a blob is fetched once for all targets.  The target is not asked for single blobs, since that would cost one
    request for each.  ``left_out`` are the blobs that a delta does not bring.
    """

    fetches: bool
    sends: bool
    can_mount: bool
    shares: bool = True
    left_out: Mapping[Digest, Descriptor] = field(default_factory=dict)
    _images: list[ImageForecast] = field(default_factory=list)
    _registries: dict[str, RegistryForecast] = field(default_factory=dict)
    _known: set[tuple[str, Digest]] = field(default_factory=set)  # by space
    _moved: set[tuple[str, Digest]] = field(default_factory=set)  # by the target's registry
    _fetched: dict[Digest, int] = field(default_factory=dict)
    _warnings: dict[str, None] = field(default_factory=dict)
    _blobs: int = 0
    _mounts: int = 0
    _deduplicated: int = 0
    _resumed: int = 0
    _foreign: dict[Digest, int] = field(default_factory=dict)

    def add(
        self,
        found: DiscoveryResult,
        space: str,
        memory: Memory | None = None,
        arrived: Mapping[tuple[str, Digest], int] | None = None,
    ) -> None:
        """Add a result of discovery; ``space`` is the item's at the target, ``memory`` comes from earlier runs.

        ``arrived`` are the bytes of blobs that a run which did not end has brought into spaces.
        """
        match found:
            case Unchanged(item, root):
                self._images.append(_image(item, Action.SKIP, digest=root.digest))
            case DiscoveryFailure(item, error):
                self._images.append(_image(item, Action.FAIL, error=error))
            case ReferrersDoubt(item, error):
                self._warnings[f"what refers to the images of {item.source.name} cannot be told: {error}"] = None
            case Tree():
                self._add_tree(found, space, memory or Memory(), arrived or {})

    def report(self, *, disk_bytes: int | None = None) -> ForecastReport:
        """The report of the results so far; ``disk_bytes`` is the size of the bundle, if one is built."""
        images = [image for image in self._images if image.subject is None]
        actions = [image.action for image in images]
        registries = tuple(self._registries[name] for name in sorted(self._registries))
        totals = ForecastTotals(
            images=len(images),
            images_to_copy=actions.count(Action.COPY),
            images_to_skip=actions.count(Action.SKIP),
            images_failed=actions.count(Action.FAIL),
            referrers_to_copy=sum(image.action is Action.COPY and image.subject is not None for image in self._images),
            blobs_to_copy=self._blobs,
            blobs_to_mount=self._mounts,
            bytes_to_fetch=sum(registry.bytes_fetched for registry in registries),
            bytes_to_send=sum(registry.bytes_sent for registry in registries),
            bytes_to_mount=sum(registry.bytes_mounted for registry in registries),
            bytes_deduplicated=self._deduplicated,
            bytes_resumed=self._resumed,
            foreign_layers=len(self._foreign),
            bytes_foreign=sum(self._foreign.values()),
            blobs_assumed=len(self.left_out),
            bytes_assumed=sum(blob.size for blob in self.left_out.values()),
            disk_bytes=disk_bytes,
        )
        return ForecastReport(
            totals=totals, images=tuple(self._images), registries=registries, warnings=tuple(self._warnings)
        )

    def _add_tree(self, tree: Tree, space: str, memory: Memory, arrived: Mapping[tuple[str, Digest], int]) -> None:
        source, target = tree.item.source.registry, tree.item.target.registry
        own = f"{target}/{space}" if self.sends else space  # two registries may have repositories of one name
        self._foreign |= {layer.digest: layer.size for layer in tree.left_out}
        size = moved = mounted = 0
        for descriptor in tree.content:
            if descriptor.digest in tree.manifests:
                continue
            size += descriptor.size
            if descriptor.digest in self.left_out:
                continue
            if (own, descriptor.digest) in self._known:
                self._deduplicated += descriptor.size
                continue
            self._known.add((own, descriptor.digest))
            is_elsewhere = memory.location(descriptor.digest) not in (None, space)
            if self.can_mount and (is_elsewhere or (target, descriptor.digest) in self._moved):
                mounted += descriptor.size
                self._mounts += 1
                continue
            self._moved.add((target, descriptor.digest))
            there = arrived.get((space, descriptor.digest), 0)
            if there == descriptor.size:
                continue
            left = descriptor.size - there
            self._resumed += there
            moved += left
            self._blobs += 1
            if self.fetches:
                before = self._fetched.get(descriptor.digest, 0) if self.shares else 0
                self._fetched[descriptor.digest] = max(before, left)
                self._registry(source).bytes_fetched += max(0, left - before)
        if self.sends:
            self._registry(target).bytes_sent += moved
            self._registry(target).bytes_mounted += mounted
        self._images.append(
            _image(tree.item, Action.COPY, digest=tree.root.digest, size=size, moved=moved, mounted=mounted)
        )

    def _registry(self, name: str) -> RegistryForecast:
        return self._registries.setdefault(name, RegistryForecast(registry=name))


def plan_summary(report: ForecastReport, outcome: Sequence[str] = ()) -> str:
    """The summary of a forecast for people; ``outcome`` are lines at its top."""
    totals = report.totals
    missing = sum(
        image.subject is None and image.error is not None and image.error.exit is Exit.MISSING
        for image in report.images
    )
    ends = {
        "to copy": totals.images_to_copy,
        "unchanged": totals.images_to_skip,
        "not found": missing,
        _LOST: totals.images_failed - missing,
    }
    said = ", ".join(f"{number} {end}" for end, number in ends.items() if number)
    lines = [*outcome, f"images:  {totals.images} ({said})" if said else "images:  none"]
    if totals.referrers_to_copy:
        lines.append(
            f"with:    {quantity(totals.referrers_to_copy, 'signature or referrer', 'signatures and referrers')}"
        )
    lines += [f"{registry.registry}: {_traffic(registry)}" for registry in report.registries if _traffic(registry)]
    saved = {"shared between images": totals.bytes_deduplicated, "brought by an earlier run": totals.bytes_resumed}
    if any(saved.values()):
        lines.append("saved:   " + ", ".join(f"{human_bytes(size)} {how}" for how, size in saved.items() if size))
    if totals.foreign_layers:
        lines.append(f"foreign: {foreign_layers(totals.foreign_layers, totals.bytes_foreign)}, left out")
    if totals.blobs_assumed:
        pieces = quantity(totals.blobs_assumed, "piece")
        lines.append(f"assumed: {human_bytes(totals.bytes_assumed)} in {pieces} at the target, left out")
    if totals.disk_bytes is not None:
        lines.append(f"disk:    {human_bytes(totals.disk_bytes)}")
    lines += [f"largest: {human_bytes(image.size)}  {image.source}" for image in report.largest]
    lines += doubt_lines(report.images, _LOST)
    lines += [f"warning: {printable(text)}" for text in report.warnings]
    lines += prune_lines(report.pruned)
    return block("Plan Summary", lines)


def _traffic(registry: RegistryForecast) -> str:
    parts = {
        "to fetch": registry.bytes_fetched,
        "to send": registry.bytes_sent,
        "to mount": registry.bytes_mounted,
    }
    return ", ".join(f"{human_bytes(size)} {what}" for what, size in parts.items() if size)


def _image(
    item: Item,
    action: Action,
    *,
    digest: Digest | None = None,
    size: int = 0,
    moved: int = 0,
    mounted: int = 0,
    error: SyncerError | None = None,
) -> ImageForecast:
    return ImageForecast(
        source=item.source,
        target=item.target,
        subject=item.subject,
        action=action,
        digest=digest,
        size=size,
        bytes=moved,
        bytes_mounted=mounted,
        error=error,
    )
