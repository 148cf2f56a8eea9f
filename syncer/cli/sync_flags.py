"""What ``syncer sync`` is to mirror: its sync file, or its flags as the sync file that nobody wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from syncer.cli.options import MirrorOptions
from syncer.errors import UsageError
from syncer.oci import Platform, Reference
from syncer.profiles.definition import Definition
from syncer.profiles.gather import gather
from syncer.profiles.images_file import read_images_file
from syncer.profiles.mapping_file import read_mapping
from syncer.profiles.profile_file import read_profile_file
from syncer.profiles.sync_file import SyncFile, parse_sync_file, read_sync_file
from syncer.registry import RegistryAddress

_PLACE = Path("the command line")


def sync_file_of(options: MirrorOptions) -> SyncFile:
    """The file that was named, or what the other flags say; raises ``UsageError``."""
    if options.config is None:
        return _file_of_flags(options)
    if options != MirrorOptions(config=options.config, strict=options.strict):
        raise UsageError(
            "what to mirror is said by --config or by other flags, not by both",
            hint="put it into the file (docs/sync.md)",
        )
    return read_sync_file(options.config)


def _file_of_flags(options: MirrorOptions) -> SyncFile:
    references = (Reference.parse(image.removeprefix("docker://")) for image in options.image or ())
    sources: list[dict[str, Any]] = [{"image": str(reference)} for reference in references]
    sources += [{"images_file": str(path)} for path in options.images_file or ()]
    sources += [{"profile_file": str(path)} for path in options.profile_file or ()]
    if not sources or options.registry is None:
        raise UsageError(
            "there is nothing to mirror" if not sources else "it is not said where to mirror to",
            hint="name a sync file with --config, or images with --image and their target with --registry",
        )
    RegistryAddress.parse(options.registry)
    document = {
        "sources": sources,
        "targets": [{"registry": options.registry}],
        "platforms": [str(Platform.parse(options.arch))] if options.arch else [],
        "referrers": str(options.referrers).lower(),
        "map": {rule.prefix: rule.replacement for rule in read_mapping(options.map or ()).rules},
    }
    return replace(parse_sync_file(yaml.safe_dump(document), _PLACE), tree=None)


def definition_of(options: MirrorOptions, warn: Callable[[str], None]) -> Definition:
    """What a build of the images and profiles that were named would hold; raises ``UsageError``."""
    wanted = [(Reference.parse(image.removeprefix("docker://")), "--image") for image in options.image or ()]
    for path in options.images_file or ():
        wanted += [(listed.reference, path.name) for listed in read_images_file(path)]
    profiles = [read_profile_file(path) for path in options.profile_file or ()]
    gathered = gather("bundle", profiles, images=wanted)
    for warning in (*gathered.warnings, *gathered.unlisted):
        warn(str(warning))
    if not (gathered.definition.images or gathered.definition.charts):
        raise UsageError("there is nothing to plan", hint="name images with --image or --images-file, or a sync file")
    return gathered.definition
