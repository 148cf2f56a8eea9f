"""What profiles want, and what a user must be told about it."""

from __future__ import annotations

from collections.abc import Callable

from syncer.api.profiles import PaletteConsole, define
from syncer.api.selection import Selection
from syncer.profiles.definition import Definition
from syncer.profiles.gather import Gathered


async def gathered(
    selection: Selection, console: PaletteConsole | None, warn: Callable[[str], None]
) -> tuple[Definition, list[str]]:
    """What ``selection`` wants, and what the summary must say of it; raises as ``define`` does."""
    found = await define("bundle", selection, console)
    return found.definition, warn_of(found, warn, scan=selection.scan)


def warn_of(gathered: Gathered, warn: Callable[[str], None], *, scan: bool) -> list[str]:
    """Warn of what was odd, and of images that packs name and do not list; what the summary must repeat."""
    for warning in gathered.warnings:
        warn(warning)
    silent = [unlisted for unlisted in gathered.unlisted if unlisted.lists_nothing]
    for unlisted in gathered.unlisted:
        if scan or not unlisted.lists_nothing:
            done = "which --scan has added" if scan else "which are NOT in the bundle; --scan adds them"
            warn(f"pack {unlisted.pack} names {len(unlisted.images)} images that it does not list, {done}")
        else:
            warn(f"{unlisted}; they are NOT in the bundle, and --scan adds them")
    if silent and not scan:
        count = len({image.reference for unlisted in silent for image in unlisted.images})
        packs = ", ".join(unlisted.pack for unlisted in silent)
        return [f"NOT INCLUDED: {count} images that are named in {packs}, which list none; --scan adds them"]
    return []
