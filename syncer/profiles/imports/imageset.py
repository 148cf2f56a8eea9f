"""Importing oc-mirror's ImageSetConfiguration (``mirror.openshift.io/v2alpha1``): additional images and charts.

Releases and operators are refused, because only OpenShift's own services can resolve them.
"""

from __future__ import annotations

import re
from typing import Any

from syncer.formats.yaml import Map
from syncer.oci import Reference
from syncer.profiles.imports.draft import Draft, Fields, image_source, platform_names
from syncer.profiles.syncfile.document import CustomName, check_chart_repository
from syncer.profiles.syncfile.tags import TagPattern

GROUP = "mirror.openshift.io/"

_SERVICES = "only OpenShift's own services can resolve it, and syncer does not use them"


def is_imageset(tree: Any) -> bool:
    """Tell whether ``tree`` looks like such a file."""
    return isinstance(tree, Map) and str(tree.get("apiVersion")).startswith(GROUP)


def import_imageset(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    draft.note("Names: the full source name is kept; oc-mirror leaves the source's registry out.")
    whole = Fields(draft, tree)
    whole.ignore("", "apiVersion", "metadata")
    if (kind := whole.text("kind")) != "ImageSetConfiguration":
        whole.refuse("kind", f"{kind} says what to delete, or is unknown; only ImageSetConfiguration is taken")
        return
    whole.ignore("archiveSize, storageConfig: a sync keeps nothing on disk.", "archiveSize", "storageConfig")
    mirror = whole.inner("mirror")
    mirror.unsupported(_SERVICES, "platform", "ocp", "operators", "samples")
    blocked = _blocked_patterns(mirror)
    for image in mirror.each("additionalImages"):
        _image(draft, image, blocked)
    helm = mirror.inner("helm")
    for name in ("repositories", "repos"):  # v2 and v1
        for place in helm.each(name):
            _charts(draft, place)
    helm.unsupported("a chart on this disk is in no repository", "local")
    helm.finish()
    mirror.finish()
    whole.finish()


def _blocked_patterns(mirror: Fields) -> list[re.Pattern[str]]:
    patterns = []
    for image in mirror.each("blockedImages"):
        text = image.text("name") or ""
        if image.parse("name", TagPattern.regex, text):
            patterns.append(re.compile(text))
        image.finish()
    return patterns


def _image(draft: Draft, image: Fields, blocked: list[re.Pattern[str]]) -> None:
    name = (image.text("name") or "").removeprefix("docker://")
    custom_name = image.text("targetRepo")
    tag = image.text("targetTag")
    platforms = platform_names(image, "platforms")
    image.finish()
    if not name or "://" in name:
        image.refuse("name", "only images in registries are mirrored")
        return
    reference = image.parse("name", Reference.parse, name)
    if reference is None:
        return
    if any(pattern.search(name) for pattern in blocked):
        draft.note(f"{name} was left out: blockedImages names it.")
        return
    called = f"{custom_name or reference.path}:{tag}" if tag else custom_name
    if called and image.parse("targetRepo" if custom_name else "targetTag", CustomName.parse, called) is None:
        return
    draft.sources.append(image_source(reference, **{"as": called}, platforms=platforms))


def _charts(draft: Draft, place: Fields) -> None:
    url = place.parse("url", check_chart_repository)
    place.ignore("", "name")
    for chart in place.each("charts"):
        name, version = chart.text("name"), chart.text("version")
        chart.unsupported("the images in a chart are not searched for", "imagePaths", "imagepaths")
        chart.unsupported("a chart has no platforms", "platforms")
        chart.unsupported("a chart on this disk is in no repository", "path")
        chart.finish()
        if url and name:
            draft.sources.append(
                {"chart": {"repository": url, "name": name, **({"version": version} if version else {})}}
            )
    place.finish()
