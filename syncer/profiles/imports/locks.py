"""Importing locks, which name images by digest.

They are imgpkg's ImagesLock and BundleLock (``pkg/imgpkg/lockconfig``), and the ``Images.lock`` of Helm charts that
``dt`` writes (vmware-labs/distribution-tooling-for-helm, ``pkg/imagelock``), whose kind is ImagesLock as well.
"""

from __future__ import annotations

from typing import Any

from syncer.formats.yaml import Map
from syncer.oci import Platform, Reference
from syncer.profiles.imports.draft import REQUIRED, Draft, Fields, image_source

GROUP = "imgpkg.carvel.dev/"


def is_imgpkg(tree: Any) -> bool:
    """Tell whether ``tree`` is a document of imgpkg."""
    return isinstance(tree, Map) and str(tree.get("apiVersion")).startswith(GROUP)


def is_chart_lock(tree: Any) -> bool:
    """Tell whether ``tree`` is the ``Images.lock`` of a chart."""
    return isinstance(tree, Map) and tree.get("kind") == "ImagesLock" and not is_imgpkg(tree)


def import_imgpkg(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the ImagesLock or BundleLock ``tree``.

    Each image keeps its digest.  One that is a bundle of imgpkg's is mirrored with all that it lists.
    """
    whole = Fields(draft, tree)
    whole.ignore("", "apiVersion")
    match whole.text("kind"):
        case "ImagesLock":
            for image in whole.each("images"):
                _add(draft, image)
                image.ignore("", "annotations")
                image.finish()
        case "BundleLock":
            bundle = whole.inner("bundle")
            _add(draft, bundle, tag=bundle.text("tag"))
            bundle.finish()
        case kind:
            whole.refuse("kind", f"imgpkg has no such kind {kind!r}; known: ImagesLock, BundleLock")
            return
    whole.finish()


def _add(draft: Draft, image: Fields, tag: str | None = None) -> None:
    reference = image.parse("image", Reference.parse)
    if "image" not in image:
        image.refuse("image", REQUIRED)
    elif reference and reference.digest is None:
        image.refuse("image", "a lock must name each image with its digest")
    elif reference:
        named = image.parse("tag", Reference.parse, f"{reference.name}:{tag}@{reference.digest}") if tag else reference
        if named:
            draft.sources.append(image_source(named, imgpkg=True))


def import_chart_lock(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the ``Images.lock`` ``tree``."""
    draft.note("Names: the full source name is kept; dt leaves the source's registry out.")
    whole = Fields(draft, tree)
    whole.ignore("", "apiVersion", "kind", "metadata")
    whole.ignore("chart: an Images.lock does not say where the chart itself is, so it is not mirrored.", "chart")
    for image in whole.each("images"):
        _locked_image(draft, image)
    whole.finish(ignored_by="dt")


def _locked_image(draft: Draft, image: Fields) -> None:
    image.ignore("", "name", "chart")
    reference = image.parse("image", Reference.parse)
    if "image" not in image:
        image.refuse("image", REQUIRED)
    digests = [_locked_digest(entry, reference) for entry in image.each("digests")]
    pinned = [found for found in digests if found]
    image.finish(ignored_by="dt")
    if not digests:
        image.refuse("digests", "dt takes the platforms that are listed here, and there is none")
    if reference is None or not digests or len(pinned) < len(digests):
        return
    if len(pinned) == 1:
        draft.sources.append(image_source(pinned[0][0]))
        return
    draft.note("Images of several platforms are taken by their tags; their digests in the lock are not compared.")
    draft.sources.append(image_source(reference, platforms=[platform for _, platform in pinned]))


def _locked_digest(entry: Fields, image: Reference | None) -> tuple[Reference, str] | None:
    """The image with the digest of one platform, and the platform."""
    platform = entry.parse("arch", Platform.parse)
    digest = entry.text("digest")
    for name in ("digest", "arch"):
        if name not in entry:
            entry.refuse(name, REQUIRED)
    entry.finish(ignored_by="dt")
    if image is None or digest is None:
        return None
    name = f"{image.name}:{image.tag}" if image.tag else image.name
    pinned = entry.parse("digest", Reference.parse, f"{name}@{digest}")
    return (pinned, str(platform)) if pinned and platform else None
