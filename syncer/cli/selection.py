"""The selection that options make: what a bundle is to hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from syncer.api.selection import Selection
from syncer.cli.build_options import ContentOptions
from syncer.cli.options import MirrorOptions, SourceOptions
from syncer.errors import UsageError
from syncer.formats.images_list import read_images_file
from syncer.oci import Reference


def select_content(options: ContentOptions) -> Selection:
    """The selection of a build; raises ``UsageError`` for options that contradict each other, and ``InvalidFile``."""
    if options.images_only and options.include_packs:
        raise UsageError("--images-only leaves out what --include-packs brings along", hint="give one of them")
    excluded_files = tuple(Path(each) for each in options.exclude_profiles if Path(each).exists())
    selection = Selection(
        uids=options.profiles,
        files=options.profile_file,
        packs=options.packs,
        images=tuple(_images(options)),
        excluded=tuple(each for each in options.exclude_profiles if Path(each) not in excluded_files),
        excluded_files=excluded_files,
        overrides=options.set_var,
        environment=os.environ,
        scan=options.scan,
        images_only=options.images_only,
        include_packs=options.include_packs,
    )
    if options.metadata_file is not None and selection != Selection():
        raise UsageError(
            "--metadata-file says what the bundle is to hold, and so do other flags",
            hint="make one definition of all with --metadata-only, or add to the file by hand",
        )
    return selection


def select_mirror(options: MirrorOptions) -> Selection:
    """The selection of a build of the same images and profiles; raises ``UsageError`` where there are none."""
    images = tuple(_images(options))
    selection = Selection(uids=options.profiles, files=options.profile_file, images=images, environment=os.environ)
    if not (selection.names_profiles or images):
        raise UsageError("there is nothing to plan", hint="name images with --image or --images-file, or a sync file")
    return selection


def _images(options: SourceOptions) -> Iterator[tuple[Reference, str]]:
    """Each image with what names it."""
    for reference in options.image:
        yield reference, "--image"
    for file in options.images_file:
        for listed in read_images_file(file):
            yield listed.reference, file.name
