"""Importing plain lists of images."""

from __future__ import annotations

from pathlib import Path

from syncer.errors import InvalidFile
from syncer.formats.images_list import read_lines
from syncer.profiles.imports.draft import Draft, image_source


def import_images(text: str, origin: Path, draft: Draft) -> None:
    """Fill ``draft`` from a list with one image a line; each line that is wrong is a refusal."""
    for listed in read_lines(text, origin):
        if isinstance(listed, InvalidFile):
            draft.refusals.append(listed)
            continue
        platforms = [str(listed.platform)] if listed.platform else []
        source = image_source(listed.reference, platforms=platforms)
        if source not in draft.sources:
            draft.sources.append(source)
