"""What ``syncer sync`` is to mirror: its sync file, or its flags as the sync file that nobody wrote."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from syncer.api.selection import Selection
from syncer.api.supplies import Supplies
from syncer.cli.options import MirrorOptions
from syncer.cli.settings import cache_directory
from syncer.cli.wanted import csv
from syncer.errors import UsageError
from syncer.formats.images_list import read_images_file
from syncer.naming import read_mapping
from syncer.oci import Platform, Reference
from syncer.profiles.syncfile.sync_file import SyncFile, parse_sync_file, read_sync_file
from syncer.registry import RegistryAddress
from syncer.transport import TransportSettings

if TYPE_CHECKING:
    from syncer.api.palette import PaletteConsole


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
    sources: list[dict[str, Any]] = [{"image": str(reference)} for reference in _references(options)]
    sources += [{"images_file": str(path)} for path in options.images_file or ()]
    sources += [{"profile_file": str(path)} for path in options.profile_file or ()]
    if uids := csv(options.profiles):
        sources.append({"profiles": uids} | ({"project_id": options.project_id} if options.project_id else {}))
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
        "referrers": str(options.along).lower(),
        "map": {rule.prefix: rule.replacement for rule in read_mapping(options.map or ()).rules},
    }
    return replace(parse_sync_file(yaml.safe_dump(document), _PLACE), tree=None)


def selection_of_flags(options: MirrorOptions) -> Selection:
    """What a build of the images and profiles that the flags name would hold; raises ``UsageError``."""
    images = [(reference, "--image") for reference in _references(options)]
    for path in options.images_file or ():
        images += [(listed.reference, path.name) for listed in read_images_file(path)]
    selection = Selection(uids=csv(options.profiles), files=options.profile_file or (), images=images)
    if not (selection.names_profiles or images):
        raise UsageError("there is nothing to plan", hint="name images with --image or --images-file, or a sync file")
    return selection


def console_for(
    transport: TransportSettings, *, is_needed: bool, project_id: str | None = None
) -> PaletteConsole | None:
    """Palette, where profiles are to be asked for; raises ``UsageError`` when nobody is logged in."""
    if not is_needed:
        return None
    from syncer.api.palette import PaletteConsole  # noqa: PLC0415  slow to import
    from syncer.cli.palette import palette_access  # noqa: PLC0415

    return PaletteConsole(palette_access(transport, os.environ, project_id=project_id))


def chart_supplies() -> Supplies:
    """Where indexes of chart repositories are kept for the next run."""
    return Supplies(chart_cache=cache_directory() / "charts")


def _references(options: MirrorOptions) -> list[Reference]:
    return [Reference.parse(image.removeprefix("docker://")) for image in options.image or ()]
