"""Importing zarf.yaml: the images and charts of a package's components, in zarf's two versions of the file.

The fields are those of zarf's ``src/api/v1alpha1`` and ``src/api/v1beta1``.  Zarf takes what a package lists at its
creation; all that is about the deployment makes no difference.
"""

from __future__ import annotations

import re
from typing import Any

from syncer.errors import UsageError
from syncer.formats.yaml import Map, Seq
from syncer.oci import Reference
from syncer.profiles.imports.draft import Draft, Fields, image_source
from syncer.profiles.syncfile.document import check_chart_repository, check_file_url

_KINDS = ("ZarfPackageConfig", "ZarfInitConfig")
_DEPLOYMENT = ("description", "default", "required", "optional", "group", "actions", "scripts", "healthChecks")
_MORE_DEPLOYMENT = ("stateAccess", "service", "name", "target")
_CHART_DEPLOYMENT = (
    *("namespace", "releaseName", "noWait", "skipWait", "valuesFiles", "templatedValuesFiles", "variables", "values"),
    *("schemaValidation", "skipSchemaValidation", "serverSideApply"),
)
_IMPORTED = "what another zarf.yaml or package lists is not read: import that file too"
_NOT_ON_DISK = "a chart on this disk is in no repository"
_NOT_IN_GIT = "a chart in a Git repository is in no chart repository"
_ARCH = "###ZARF_PKG_ARCH###"
_TEMPLATE = re.compile(r"###ZARF_PKG_(?:TMPL|VAR)_(\w+)###")


def is_zarf(tree: Any) -> bool:
    """Tell whether ``tree`` looks like such a file."""
    return isinstance(tree, Map) and (
        tree.get("kind") in (*_KINDS, "ZarfComponentConfig") or str(tree.get("apiVersion")).startswith("zarf.dev/")
    )


def import_zarf(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    draft.note("Names: the full source name is kept; zarf leaves the source's registry out and marks its tags.")
    whole = Fields(draft, tree)
    whole.ignore("", "apiVersion", "build", "constants", "variables", "values", "documentation", "publishData")
    kind = whole.text("kind") or _KINDS[0]
    metadata = whole.inner("metadata")
    architecture = metadata.text("architecture")
    if architecture is None:
        draft.note("Platforms: all are taken; zarf takes this machine's only, unless metadata.architecture names one.")
    if kind == "ZarfComponentConfig":
        _component(draft, whole.inner("component"), architecture)
    elif kind not in _KINDS:
        whole.refuse("kind", f"zarf has no such kind {kind!r}; known: {', '.join(_KINDS)}")
        return
    for component in whole.each("components"):
        _component(draft, component, architecture)
    _finish(whole)


def _component(draft: Draft, component: Fields, architecture: str | None) -> None:
    chosen = _is_chosen(draft, component, architecture)
    imported = component.inner("import")
    imported.unsupported(_IMPORTED, "path", "url", "local", "remote")
    imported.ignore("", "name")
    imported.finish()
    if chosen is None:
        component.ignore("", *component.names())
        return
    arch, platforms = chosen
    _images(draft, component, arch, platforms)
    for chart in component.each("charts"):
        _chart(draft, chart, arch)
    for file in component.each("files"):
        _file(draft, file, arch)
    component.unsupported("manifests are no images; list the images in them under images", "manifests")
    component.unsupported("Git repositories are no images", "repos", "repositories")
    component.unsupported("what is copied into a pod is no image", "dataInjections")
    component.unsupported("images in an archive of this disk are in no registry: push it", "imageArchives")
    component.ignore("", *_DEPLOYMENT, *_MORE_DEPLOYMENT)
    _finish(component)


def _finish(fields: Fields) -> None:
    """Refuse what was not taken; names that begin with ``x-`` are for anchors."""
    fields.ignore("", *(name for name in fields.names() if name.startswith("x-")))
    fields.finish()


def _is_chosen(draft: Draft, component: Fields, architecture: str | None) -> tuple[str | None, list[str]] | None:
    """The architecture and the platforms of a component; None when zarf leaves it out at the creation."""
    name = component.text("name") or "a component"
    only = component.inner("only")
    cluster = only.inner("cluster")
    selector = component.inner("selector")
    wanted = cluster.text("architecture") or selector.text("architecture")
    cluster.ignore("", "distros")
    only.ignore("", "localOS")
    flavor_of = only if "flavor" in only else selector
    flavor = flavor_of.text("flavor")
    for fields in (cluster, only, selector):
        fields.finish()
    if flavor:
        flavor_of.refuse("flavor", f"{name} is of the flavor {flavor}, which `zarf package create` takes only if told")
        return None
    if wanted and architecture and wanted != architecture:
        draft.note(f"{name} was left out: it is for {wanted}, and the package is for {architecture}.")
        return None
    arch = architecture or wanted
    return arch, [f"linux/{arch}"] if arch else []


def _images(draft: Draft, component: Fields, arch: str | None, platforms: list[str]) -> None:
    """Add the images of a component: a list of names, or in the second version one of mappings."""
    listed = component.tree.get("images")
    if not isinstance(listed, Seq):
        component.texts("images")
        return
    component.ignore("", "images")
    for index, (entry, line) in enumerate(zip(listed, listed.lines, strict=True)):
        path = (*component.path, "images", index)
        name = _image_name(Fields(draft, entry, path, line)) if isinstance(entry, Map) else entry
        if not isinstance(name, str):
            if not isinstance(entry, Map):
                draft.refuse(path, line, "it must be the name of an image")
            continue
        try:
            reference = Reference.parse(_literal(_filled(name, arch)).removeprefix("oci://"))
        except UsageError as error:
            draft.refuse(path, line, str(error))
            continue
        # zarf keeps an index that is named by its digest whole
        draft.sources.append(image_source(reference, platforms=[] if reference.digest else platforms))


def _image_name(image: Fields) -> str | None:
    name = image.text("name")
    if image.text("source") not in (None, "registry"):
        image.refuse("source", "an image of this machine's Docker is in no registry; push it to one first")
        name = None
    elif name is None:
        image.refuse("name", "it is required")
    image.finish()
    return name


def _filled(text: str, arch: str | None) -> str:
    return text.replace(_ARCH, arch) if arch else text


def _literal(text: str) -> str:
    """``text``, unless it has a variable of zarf's; raises ``UsageError``."""
    if match := _TEMPLATE.search(text):
        raise UsageError(f"zarf asks for the value of {match[1]} at the creation: write it here")
    if _ARCH in text:
        raise UsageError("the architecture is not known: name it under metadata.architecture")
    return text


def _chart(draft: Draft, chart: Fields, arch: str | None) -> None:
    name, version, url = chart.text("name"), chart.text("version"), chart.text("url")
    repo_name = chart.text("repoName")
    oci, helm = chart.inner("oci"), chart.inner("helmRepository")
    if "oci" in chart:  # v1beta1
        ref = oci.inner("ref")
        url, version = oci.text("url"), ref.text("tag")
        if ref.text("digest") and not version:
            ref.refuse("digest", "a chart is found by its version; list the artifact under images")
            url = None
        ref.finish()
    if "helmRepository" in chart:
        url, version, repo_name = helm.text("url"), helm.text("version"), helm.text("name")
    oci.finish()
    helm.finish()
    chart.unsupported(_NOT_ON_DISK, "localPath", "local")
    chart.unsupported(_NOT_IN_GIT, "git")
    chart.ignore("", "gitPath", *_CHART_DEPLOYMENT)
    if not name:
        chart.refuse("name", "it is required")
    elif url and url.partition("@")[0].endswith(".git"):
        chart.refuse("url", _NOT_IN_GIT)
    elif url:
        _add_chart(draft, chart, repo_name or name, _filled(url, arch), version)
    _finish(chart)


def _add_chart(draft: Draft, chart: Fields, name: str, url: str, version: str | None) -> None:
    place = chart.parse("url", lambda text: check_chart_repository(_literal(text)), url)
    tag = chart.parse("version", _literal, version) if version else None
    if place is None or (version and tag is None):
        return
    if place.startswith("oci://"):  # the address of the chart itself
        place, _, name = place.rstrip("/").rpartition("/")
    draft.sources.append({"chart": {"repository": place, "name": name, **({"version": tag} if tag else {})}})


def _file(draft: Draft, file: Fields, arch: str | None) -> None:
    source = _filled(file.text("source") or "", arch)
    file.ignore("", "target", "destination", "executable", "symlinks", "extractPath", "template", "enableTemplating")
    if "shasum" in file or "checksum" in file:
        draft.note("files: zarf compares their checksums, and syncer does not.")
    file.ignore("", "shasum", "checksum")
    if not source:
        file.refuse("source", "it is required")
    elif not source.startswith(("http://", "https://")):
        file.refuse("source", f"{source} is a file of this machine, and no server has it")
    elif url := file.parse("source", lambda text: check_file_url(_literal(text)), source):
        draft.sources.append({"file": {"url": url}})
    file.finish()
