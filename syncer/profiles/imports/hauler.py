"""Importing hauler's manifests (``content.hauler.cattle.io/v1``): documents of images, charts and lists of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from syncer.formats.yaml import Map
from syncer.oci import Reference
from syncer.profiles.imports.draft import Draft, Fields, image_source, platform_names
from syncer.profiles.syncfile.document import CustomName, check_chart_repository

GROUP = "content.hauler.cattle.io/"

_VERIFY = "signatures are copied with their images, and are not verified"
_VERIFYING = (
    "key",
    "use-tlog-verify",
    "certificate-identity",
    "certificate-identity-regexp",
    "certificate-oidc-issuer",
    "certificate-oidc-issuer-regexp",
    "certificate-github-workflow-repository",
)
_RENDERING = ("add-images", "addImages", "values", "kube-version", "registry")
_NO_HOST = frozenset(".:[")


def is_hauler(documents: Sequence[Any]) -> bool:
    """Tell whether ``documents`` look like such a file."""
    return any(isinstance(tree, Map) and str(tree.get("apiVersion")).startswith(GROUP) for tree in documents)


def import_hauler(documents: Sequence[Any], draft: Draft) -> None:
    """Fill ``draft`` from ``documents``."""
    draft.note("Names: the full source name is kept; hauler leaves the source's registry out.")
    for tree in documents:
        if tree is None:
            continue
        document = Fields(draft, tree)
        document.ignore("", "apiVersion")
        kind = document.text("kind")
        annotations = _annotations(document)
        content = document.inner("spec")
        match kind:
            case "Images":
                for image in content.each("images"):
                    _image(draft, image, annotations)
            case "Charts" | "ThickCharts":
                for chart in content.each("charts"):
                    _chart(draft, chart)
            case "ImageTxts":
                for listed in content.each("imageTxts"):
                    _list(draft, listed)
            case _:
                document.refuse("kind", f"{kind} are neither images nor charts")
                continue
        content.finish()
        document.finish()


def _annotations(document: Fields) -> dict[str, str]:
    """The ``hauler.dev/…`` annotations that apply to every image of a document."""
    metadata = document.inner("metadata")
    metadata.ignore("", *(name for name in metadata.names() if name != "annotations"))
    annotations = metadata.inner("annotations")
    found: dict[str, str] = {}
    for name in annotations.names():
        match name.partition("hauler.dev/")[2]:
            case "platform" | "registry" as known:
                found[known] = annotations.text(name) or ""
            case "":
                annotations.ignore("", name)
            case _:
                annotations.unsupported(_VERIFY, name)
    return found


def _image(draft: Draft, image: Fields, defaults: dict[str, str]) -> None:
    name = image.text("name") or ""
    host, slash, _ = name.partition("/")
    if defaults.get("registry") and not (slash and (set(host) & _NO_HOST or host == "localhost")):
        name = f"{defaults['registry']}/{name}"
    reference = image.parse("name", Reference.parse, name)
    platforms = platform_names(image, "platform")
    if not platforms and defaults.get("platform"):
        platforms = [defaults["platform"]]
    custom_name = image.text("rewrite")
    if custom_name and image.parse("rewrite", CustomName.parse, custom_name) is None:
        custom_name = None
    image.unsupported(_VERIFY, *_VERIFYING)
    extras = False if image.flag("exclude-extras") else None
    if reference:
        if authority := image.text("ca-file"):
            draft.registry(reference.registry, ca_cert=authority)
        if image.flag("insecure-skip-tls-verify"):
            draft.registry(reference.registry, insecure=True)
        draft.sources.append(image_source(reference, platforms=platforms, referrers=extras, **{"as": custom_name}))
    else:
        image.ignore("", "ca-file", "insecure-skip-tls-verify")
        if not name:
            image.refuse("name", "it is required")
    image.finish()


def _chart(draft: Draft, chart: Fields) -> None:
    name = chart.text("name")
    place = chart.parse("repoURL", check_chart_repository)
    version = chart.text("version")
    chart.unsupported("the images in a chart are not searched for; `syncer build --scan` does that", *_RENDERING)
    chart.unsupported("only the archive of a chart is mirrored, with the dependencies inside it", "add-dependencies")
    chart.unsupported("only the archive of a chart is mirrored, with the dependencies inside it", "addDependencies")
    chart.unsupported("list these images one by one", "extraImages")
    chart.unsupported("a chart keeps its name", "rewrite")
    if name and place:
        draft.sources.append(
            {"chart": {"repository": place, "name": name, **({"version": version} if version else {})}}
        )
    elif "repoURL" not in chart:
        chart.refuse("repoURL", "only charts in repositories are mirrored")
    chart.finish()


def _list(draft: Draft, listed: Fields) -> None:
    place = listed.text("ref") or ""
    filters = listed.inner("sources")
    filters.unsupported("a list is taken as it is", "include", "exclude")
    filters.finish()
    if "://" in place or not place:
        listed.refuse("ref", "the list must be a file: download it, and name it under `images_file`")
    else:
        draft.sources.append({"images_file": place})
    listed.finish()
