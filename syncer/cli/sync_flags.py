"""The flags of ``syncer sync`` as the sync file that nobody wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from syncer.errors import UsageError
from syncer.oci import Platform, Reference
from syncer.profiles.mapping_file import read_mapping
from syncer.profiles.sync_file import SyncFile, parse_sync_file
from syncer.registry import RegistryAddress

_PLACE = Path("the command line")


def file_of_flags(
    images: Sequence[str],
    images_files: Sequence[Path],
    profile_files: Sequence[Path],
    *,
    registry: str,
    maps: Sequence[str],
    arch: str | None,
    referrers: bool,
) -> SyncFile:
    """What the flags say, as a sync file; raises ``UsageError``."""
    RegistryAddress.parse(registry)
    references = (Reference.parse(image.removeprefix("docker://")) for image in images)
    sources: list[dict[str, Any]] = [{"image": str(reference)} for reference in references]
    sources += [{"images_file": str(path)} for path in images_files]
    sources += [{"profile_file": str(path)} for path in profile_files]
    if not sources:
        raise UsageError(
            "there is nothing to mirror", hint="name images with --image or --images-file, or a sync file with --config"
        )
    document = {
        "sources": sources,
        "targets": [{"registry": registry}],
        "platforms": [str(Platform.parse(arch))] if arch else [],
        "referrers": str(referrers).lower(),
        "map": {rule.prefix: rule.replacement for rule in read_mapping(maps).rules},
    }
    return replace(parse_sync_file(yaml.safe_dump(document), _PLACE), tree=None)
