"""From options to what is to be put into a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from syncer.api.selection import Selection
from syncer.cli.options import ContentOptions
from syncer.errors import UsageError
from syncer.formats.images_list import read_images_file
from syncer.oci import Reference
from syncer.profiles.palette.macros import parse_overrides


def selection_of(options: ContentOptions) -> Selection:
    """What the options name; raises ``UsageError`` for options that contradict each other, and ``InvalidFile``."""
    if options.images_only and options.include_packs:
        raise UsageError("--images-only leaves out what --include-packs brings along", hint="give one of them")
    excluded = csv(options.exclude_profiles)
    selection = Selection(
        uids=tuple(csv(options.profiles)),
        files=tuple(options.profile_file or ()),
        packs=tuple(Path(path) for path in csv(options.packs)),
        images=tuple(_images(options)),
        excluded=tuple(each for each in excluded if not Path(each).exists()),
        excluded_files=tuple(Path(each) for each in excluded if Path(each).exists()),
        overrides=parse_overrides(options.set_var or ()),
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


def csv(text: str | None) -> list[str]:
    """The words of ``a,b``, as Palette's flags take them."""
    return [word for word in (part.strip() for part in (text or "").split(",")) if word]


def _images(options: ContentOptions) -> Iterator[tuple[Reference, str]]:
    for text in options.image or ():
        yield Reference.parse(text.removeprefix("docker://")), "--image"
    for file in options.images_file or ():
        for listed in read_images_file(file):
            yield listed.reference, file.name
