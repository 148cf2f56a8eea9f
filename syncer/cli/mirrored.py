"""How a sync's summary begins: what each target has now."""

from __future__ import annotations

from syncer.api.sync import SyncResult
from syncer.profiles.sync_document import Target
from syncer.profiles.sync_file import SyncFile
from syncer.registry import RegistryAddress
from syncer.report import ImageAccount, Status


def mirrored(file: SyncFile, result: SyncResult) -> list[str]:
    """A sentence for each target, and one for a run that was too slow."""
    lines = [_standing(target, result) for target in file.targets]
    if result.timed_out:
        lines.append("the time was up first; run the same command again to go on")
    return lines


def _standing(target: Target, result: SyncResult) -> str:
    address = RegistryAddress.parse(target.registry)
    images = [image for image in result.report.images if image.subject is None and _is_below(image, address)]
    there = sum(image.status in (Status.COPIED, Status.SKIPPED) for image in images)
    return f"{target.registry} has {there:,} of {len(images):,} images"


def _is_below(image: ImageAccount, address: RegistryAddress) -> bool:
    base = f"{address.base}/" if address.base else ""
    return image.target.registry == address.host and image.target.repository.startswith(base)
