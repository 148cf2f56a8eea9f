"""Importing plain lists of images."""

from __future__ import annotations

from pathlib import Path

from syncer.formats.images_list import parse_images
from syncer.profiles.imports.draft import Draft, image_source


def import_images(text: str, origin: Path, draft: Draft) -> None:
    """Fill ``draft`` from a list with one image a line; raises ``InvalidFile``."""
    for image in dict.fromkeys(listed.reference for listed in parse_images(text, origin)):
        draft.sources.append(image_source(image))
