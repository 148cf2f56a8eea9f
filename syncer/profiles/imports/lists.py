"""Importing imgpkg's ImagesLock and plain lists of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from syncer.errors import InvalidFile
from syncer.formats.images_list import read_lines
from syncer.formats.yaml import Map
from syncer.oci import Reference
from syncer.profiles.imports.draft import Draft, Fields, image_source

GROUP = "imgpkg.carvel.dev/"


def is_images_lock(tree: Any) -> bool:
    """Tell whether ``tree`` is a document of imgpkg."""
    return isinstance(tree, Map) and str(tree.get("apiVersion")).startswith(GROUP)


def import_images_lock(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``; each image keeps its digest."""
    whole = Fields(draft, tree)
    whole.ignore("", "apiVersion")
    if (kind := whole.text("kind")) != "ImagesLock":
        whole.refuse("kind", f"{kind} names a bundle of imgpkg's own; only ImagesLock is taken")
        return
    for image in whole.each("images"):
        reference = image.parse("image", Reference.parse)
        image.ignore("", "annotations")
        if reference and reference.digest is None:
            image.refuse("image", "an ImagesLock must name each image with its digest")
        elif reference:
            draft.sources.append(image_source(reference))
        elif "image" not in image:
            image.refuse("image", "it is required")
        image.finish()
    whole.finish()


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
