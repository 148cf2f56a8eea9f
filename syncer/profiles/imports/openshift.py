"""Importing what OpenShift's oc-mirror reads and writes.

An ImageSetConfiguration (``mirror.openshift.io``) says what to mirror: additional images and charts are taken, and
releases and operators are refused, because only OpenShift's own services can resolve them.  A ``mapping.txt``, the
result of a dry run, names each image with its place.  An ImageDigestMirrorSet, an ImageTagMirrorSet and the older
ImageContentSourcePolicy say where a cluster looks for images: they give the names at the targets, and no sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from syncer.errors import UsageError
from syncer.formats.re2 import whole_match
from syncer.formats.yaml import Map
from syncer.naming import NameMapping
from syncer.oci import Reference
from syncer.profiles.imports.draft import REQUIRED, Draft, Fields, fold_case, image_source, platform_names
from syncer.profiles.syncfile.document import CustomName, check_chart_repository

GROUP = "mirror.openshift.io/"

_FIELDS = (
    *("apiVersion", "kind", "metadata", "mirror", "archiveSize", "storageConfig", "platform", "ocp", "operators"),
    *("additionalImages", "helm", "blockedImages", "samples", "name", "targetRepo", "targetTag", "platforms", "os"),
    *("architecture", "repositories", "repos", "local", "url", "charts", "version", "path", "imagePaths"),
)
_SERVICES = "only OpenShift's own services can resolve it, and syncer does not use them"
_PAIR = re.compile(r"[^=\s:{}]\S*=\S+")
_LOCAL_STORE = "localhost:55000"  # oc-mirror's own, to which a mapping of mirror-to-disk leads
_MIRROR_SETS = {
    "ImageDigestMirrorSet": "imageDigestMirrors",
    "ImageTagMirrorSet": "imageTagMirrors",
    "ImageContentSourcePolicy": "repositoryDigestMirrors",
}
_POLICIES = ("mirrorSourcePolicy",)


def is_imageset(tree: Any) -> bool:
    """Tell whether ``tree`` looks like a document of oc-mirror's own."""
    return isinstance(tree, Map) and any(
        key.lower() == "apiversion" and str(value).startswith(GROUP) for key, value in tree.items()
    )


def import_imageset(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the ImageSetConfiguration ``tree``."""
    draft.note("Names: the full source name is kept; oc-mirror leaves the source's registry out.")
    whole = Fields(draft, fold_case(tree, _FIELDS))
    whole.ignore("", "apiVersion", "metadata")
    if (kind := whole.text("kind")) != "ImageSetConfiguration":
        whole.refuse("kind", f"{kind} says what to delete, or is unknown; only ImageSetConfiguration is taken")
        return
    whole.ignore("archiveSize, storageConfig: a sync keeps nothing on disk.", "archiveSize", "storageConfig")
    mirror = whole.inner("mirror")
    mirror.unsupported(_SERVICES, "platform", "ocp", "operators")
    mirror.unsupported("oc-mirror does not mirror samples either", "samples")
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


def _blocked_patterns(mirror: Fields) -> list[re.Pattern[str]] | None:
    """The patterns of images to leave out; None when one of them is refused, and so no image can be judged."""
    patterns = []
    wrong = False
    for image in mirror.each("blockedImages"):
        text = image.text("name")
        if text is None:
            image.refuse("name", REQUIRED)
            wrong = True
        elif pattern := image.parse("name", whole_match, text):
            patterns.append(re.compile(pattern, re.ASCII))
        else:
            wrong = True
        image.finish()
    return None if wrong else patterns


def _image(draft: Draft, image: Fields, blocked: list[re.Pattern[str]] | None) -> None:
    name = (image.text("name") or "").removeprefix("docker://")
    custom_name = image.text("targetRepo")
    tag = image.text("targetTag")
    platforms = platform_names(image, "platforms")
    image.finish()
    if not name or "://" in name:
        image.refuse("name", "only images in registries are mirrored")
        return
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        image.refuse("name", "oc-mirror takes no image without a tag or a digest")
        return
    reference = image.parse("name", Reference.parse, name)
    if reference is None or "platforms" in image.refused:
        return
    if blocked is None:
        image.refuse("name", "it may be one of blockedImages, of which not all can be read")
        return
    place = f"/{custom_name or reference.repository}:{tag or reference.tag}"  # oc-mirror looks at both ends
    if any(pattern.fullmatch(name) or pattern.fullmatch(place) for pattern in blocked):
        draft.note(f"{name} was left out: blockedImages names it.")
        return
    called = f"{custom_name or reference.path}:{tag}" if tag else custom_name
    if called and image.parse("targetRepo" if custom_name else "targetTag", CustomName.parse, called) is None:
        return
    draft.sources.append(image_source(reference, **{"as": called}, platforms=platforms))


def _charts(draft: Draft, place: Fields) -> None:
    url = place.parse("url", check_chart_repository)
    place.ignore("", "name")
    if "charts" not in place:
        place.refuse(
            "charts",
            "without it oc-mirror takes every chart of the repository, in each version, and the images in them; "
            "name the charts",
        )
    for chart in place.each("charts"):
        name, version = chart.text("name"), chart.text("version")
        platforms = platform_names(chart, "platforms")  # of the images in the chart
        chart.unsupported("a scan finds what stands under `image:`, and no other path", "imagePaths", "imagepaths")
        chart.unsupported("a chart on this disk is in no repository", "path")
        chart.finish()
        if not name:
            chart.refuse("name", REQUIRED)
        elif url:
            draft.note(
                "Images of charts (scan): each `image:` in the rendered templates; oc-mirror takes those of pods."
            )
            wanted = {"repository": url, "name": name, **({"version": version} if version else {}), "scan": True}
            draft.sources.append({"chart": wanted, **({"platforms": platforms} if platforms else {})})
    if not url and "url" not in place:
        place.refuse("url", REQUIRED)
    place.finish()


def is_mapping(text: str) -> bool:
    """Tell whether ``text`` is a ``mapping.txt``: an equals sign in most lines, which no name of an image has."""
    lines = [line for _, line in _lines(text)]
    return bool(lines) and sum(bool(_PAIR.fullmatch(line)) for line in lines) * 2 >= len(lines)


def import_mapping(text: str, draft: Draft) -> None:
    """Fill ``draft`` from the ``mapping.txt`` ``text``, whose lines are ``SOURCE=TARGET``."""
    for number, line in _lines(text):
        if not _PAIR.fullmatch(line):
            draft.refuse((), number, "a line is SOURCE=TARGET")
            continue
        source, _, target = line.partition("=")
        try:
            reference, place = (_mapped(name) for name in (source, target))
        except UsageError as error:
            draft.refuse((), number, str(error))
            continue
        if place.registry == _LOCAL_STORE:
            draft.note(f"{_LOCAL_STORE} is oc-mirror's own store; the images go to the registry that you name.")
            registries: list[str] = []
        else:
            draft.target(place.registry)
            registries = [place.registry]
        name = place.repository
        if place.tag and place.tag != reference.tag and not place.digest:
            name = f"{name}:{place.tag}"
        entry = image_source(reference, targets=registries, **{"as": name})
        if entry not in draft.sources:
            draft.sources.append(entry)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if (words := line.strip()) and not words.startswith("#"):
            yield number, words


def _mapped(text: str) -> Reference:
    name = text.removeprefix("docker://")
    if "://" in name or name.startswith(("oci:", "dir:")):
        raise UsageError(f"{text}: only images in registries are mirrored")
    return Reference.parse(name)


def is_mirror_set(documents: Sequence[Any]) -> bool:
    """Tell whether one of ``documents`` says where a cluster looks for images."""
    return any(isinstance(tree, Map) and str(tree.get("kind")) in _MIRROR_SETS for tree in documents)


def import_mirror_sets(documents: Sequence[Any], draft: Draft) -> None:
    """Fill ``draft`` from ``documents``: each mirror becomes a target with rules for names, without any source."""
    rules: dict[tuple[str, int], dict[str, str]] = {}
    for tree in documents:
        if tree is None:
            continue
        document = Fields(draft, tree)
        kind = document.text("kind")
        if kind not in _MIRROR_SETS:
            draft.note(f"A document of another kind ({kind}) was left out.")
            continue
        document.ignore("", "apiVersion", "metadata", "status")
        content = document.inner("spec")
        for entry in content.each(_MIRROR_SETS[kind]):
            _mirrors(entry, rules)
        content.finish()
        document.finish()
    for number, ((registry, _), names) in enumerate(rules.items(), start=1):
        several = sum(host == registry for host, _ in rules) > 1
        draft.targets.append({**({"name": f"mirror-{number}"} if several else {}), "registry": registry, "map": names})
    if rules:
        draft.is_part = True
        draft.refuse((), None, "it says where images are found, and not which: add `sources` to the new file")


def _mirrors(entry: Fields, rules: dict[tuple[str, int], dict[str, str]]) -> None:
    source = entry.text("source") or ""
    entry.ignore("mirrorSourcePolicy: it is the cluster's to ask the source when the mirror fails.", *_POLICIES)
    mirrors = entry.texts("mirrors")
    entry.finish()
    if not source:
        entry.refuse("source", REQUIRED)
        return
    if source.startswith("*"):
        entry.refuse("source", "a rule for names begins with a whole host, not with *")
        return
    for mirror in mirrors:
        if entry.parse("mirrors", lambda text: NameMapping.from_document({source: text}), mirror) is None:
            continue
        place = 0
        while rules.setdefault((mirror.partition("/")[0], place), {}).setdefault(source, mirror) != mirror:
            place += 1
