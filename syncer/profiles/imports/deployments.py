"""Importing the files of two tools that deploy: zarf.yaml, and helmfile.yaml.

Of a package of zarf's the images, charts and files are taken that its components list, in zarf's two versions of the
file (``src/api/v1alpha1``, ``src/api/v1beta1``).  Of a helmfile the charts of its releases are taken
(``pkg/state/state.go``), once its templates are filled in.  All that is about the deployment makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from syncer.errors import UsageError
from syncer.formats.semver import is_exact_version
from syncer.formats.yaml import Map, Seq
from syncer.oci import Reference
from syncer.profiles.imports.draft import REQUIRED, Draft, Fields, host_of, image_source
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
        _chart(draft, chart, arch, is_imported="import" in component)
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
    component.ignore("", "images")
    if not isinstance(listed, Seq):
        if listed is not None:
            component.refuse("images", "it must be a list")
        return
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
        image.refuse("name", REQUIRED)
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


def _chart(draft: Draft, chart: Fields, arch: str | None, *, is_imported: bool) -> None:
    """Add a chart of a component; one of an imported component may change fields of another file's chart only."""
    name, version, url = chart.text("name"), chart.text("version"), chart.text("url")
    repo_name = chart.text("repoName")
    oci, helm = chart.inner("oci"), chart.inner("helmRepository")
    if "oci" in chart:  # v1beta1
        ref = oci.inner("ref")
        url, version = oci.text("url"), ref.text("tag")
        if ref.text("digest") and not version:
            ref.refuse("digest", "a chart is found by its version; list the artifact under images")
            oci.refused.add("ref")
            url = None
        ref.finish()
    if "helmRepository" in chart:
        url, version, repo_name = helm.text("url"), helm.text("version"), helm.text("name")
    place = oci if "oci" in chart else helm if "helmRepository" in chart else chart
    oci.finish()
    helm.finish()
    chart.unsupported(_NOT_ON_DISK, "localPath", "local")
    chart.unsupported(_NOT_IN_GIT, "git")
    chart.ignore("", "gitPath", *_CHART_DEPLOYMENT)
    if not name:
        chart.refuse("name", REQUIRED)
    elif url and url.partition("@")[0].endswith(".git"):
        chart.refuse("url", _NOT_IN_GIT)
    elif url:
        _add_chart(draft, chart, repo_name or name, _filled(url, arch), version)
    elif not (is_imported or chart.refused or place.refused):
        place.refuse("url", REQUIRED)
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
        file.refuse("source", REQUIRED)
    elif not source.startswith(("http://", "https://")):
        file.refuse("source", f"{source} is a file of this machine, and no server has it")
    elif url := file.parse("source", lambda text: check_file_url(_literal(text)), source):
        draft.sources.append({"file": {"url": url}})
    file.finish()


_BUILD = "import what `helmfile build` prints"
_TEMPLATES = f"it is a template: {_BUILD}"
_OF_STATES = (
    *(
        "filepath",
        "renderedvalues",
        "helmBinary",
        "kustomizeBinary",
        "values",
        "environments",
        "kubeContext",
        "namespace",
    ),
    *("commonLabels", "llm", "apiVersions", "kubeVersion", "hooks", "missingFileHandler", "missingFileHandlerConfig"),
)
_OF_RELEASES = (
    *("enableDNS", "wait", "waitRetries", "waitForJobs", "timeout", "recreatePods", "force", "updateStrategy"),
    *("atomic", "rollbackOnFailure", "cleanupOnFail", "forceConflicts", "historyMax", "createNamespace"),
    *("reuseValues", "disableOpenAPIValidation", "disableValidation", "disableValidationOnInstall"),
    *("missingFileHandler", "missingFileHandlerConfig", "needs", "hooks", "unitTests", "description", "namespace"),
    *("labels", "values", "secrets", "set", "setString", "valuesTemplate", "setTemplate", "apiVersions"),
    *("kubeVersion", "env", "valuesPathPrefix", "kubeContext", "waitTemplate", "jsonPatches"),
    *("strategicMergePatches", "transformers", "adopt", "forceNamespace", "skipDeps", "skipRefresh", "postRenderer"),
    *("skipSchemaValidation", "postRendererArgs", "cascade", "suppressOutputLineRegex"),
    *("disableAutoDetectedKubeVersionForDiff", "suppressDiff", "deleteWait", "deleteTimeout", "syncReleaseLabels"),
    *("takeOwnership", "serverSide", "trackMode", "trackTimeout", "trackLogs", "trackFailedLogs", "helmStuckGrace"),
    *("trackKinds", "skipKinds", "trackResources", "kubedogQPS", "kubedogBurst", "trackFailOnError"),
)
_PROVENANCE = "a chart's provenance is not verified"


def is_helmfile(documents: Sequence[Any]) -> bool:
    """Tell whether one of ``documents`` looks like a part of a helmfile."""
    return any(isinstance(tree, Map) and _has_releases(tree) for tree in documents)


def _has_releases(tree: Map) -> bool:
    releases = tree.get("releases")
    named = isinstance(releases, Seq) and any(isinstance(each, Map) and "name" in each for each in releases)
    return named or isinstance(tree.get("helmfiles"), Seq)


def is_template(text: str) -> bool:
    """Tell whether ``text``, which is no YAML, looks like a helmfile that is still to be filled in."""
    return "{{" in text and re.search(r"^(?:releases|helmfiles|repositories):", text, re.MULTILINE) is not None


def import_helmfile(documents: Sequence[Any], draft: Draft) -> None:
    """Fill ``draft`` from ``documents``, the parts of one helmfile."""
    draft.note("Images: a helmfile names charts only; `helmfile template` prints the images in them.")
    parts = [Fields(draft, tree) for tree in documents if tree is not None]
    places: dict[str, str | None] = {}
    templates: dict[str, Any] = {}
    for part in parts:
        for repository in part.each("repositories"):
            places |= _repository(draft, repository)
        named = part.inner("templates")
        templates |= {name: named.tree[name] for name in named.names()}
    for part in parts:
        part.unsupported(f"what it adds is not read: {_BUILD}", "bases", "helmfiles")
        part.unsupported("name the chart of each release", "chart")
        part.ignore("lockFilePath: a helmfile.lock is not read; what it pins goes by its range here.", "lockFilePath")
        part.ignore("", *_OF_STATES)
        usual = _usual(part.inner("helmDefaults"))
        inherited = part.texts("defaultInherit")
        for release in part.each("releases"):
            release.tree = _with_inherited(release, release.tree, templates, inherited)
            _release(draft, release, places, usual)
        part.finish()


def _repository(draft: Draft, repository: Fields) -> dict[str, str | None]:
    """The address of a repository by its name; None for one that is refused."""
    name, url = repository.text("name") or "", repository.text("url")
    in_registry = repository.flag("oci")
    repository.unsupported("name the registry's address as its url, with oci: true", "managed")
    repository.unsupported("a login goes to the repository's own host only", "passCredentials")
    repository.unsupported(_PROVENANCE, "verify")
    repository.ignore("", "keyring", "registryConfig")
    address = f"oci://{url.removeprefix('oci://')}" if in_registry and url else url
    place = repository.parse("url", _place, address) if address else None
    if not url and "managed" not in repository:
        repository.refuse("url", REQUIRED)
    user, password = repository.text("username"), repository.text("password")
    settings = {"ca_cert": "caFile", "client_cert": "certFile", "client_key": "keyFile"}
    files = {ours: path for ours, theirs in settings.items() if (path := repository.text(theirs))}
    insecure, plain = repository.flag("skipTLSVerify"), repository.flag("plainHttp")
    if place:
        host = host_of(place)
        draft.login(host, user, password)
        draft.registry(host, **files)
        if insecure:
            draft.registry(host, insecure=True)
        if plain:
            draft.registry(host, plain_http=True)
    repository.finish()
    return {name: place}


def _place(text: str) -> str:
    return check_chart_repository(_no_template(text))


def _no_template(text: str) -> str:
    if "{{" in text:
        raise UsageError(_TEMPLATES)
    return text


def _usual(defaults: Fields) -> dict[str, bool]:
    """The settings in ``helmDefaults`` that hold for charts; all others are about the deployment."""
    usual = {name: bool(defaults.flag(name)) for name in ("devel", "insecureSkipTLSVerify", "plainHttp")}
    defaults.unsupported(_PROVENANCE, "verify")
    return usual


def _with_inherited(
    release: Fields, tree: Map, templates: dict[str, Any], usual: Sequence[str] = (), depth: int = 0
) -> Map:
    """``tree`` with the fields of the templates that it inherits; its own hold."""
    inherits = tree.get("inherit")
    listed = [(each.get("template"), each.get("except") or []) for each in inherits or () if isinstance(each, Map)]
    merged = Map()
    for name, without in [*((name, ()) for name in usual), *listed]:
        template = templates.get(str(name))
        if not isinstance(template, Map) or depth > _MOST_TEMPLATES:
            release.refuse("inherit", f"no template is called {name!r}")
            continue
        for key, value in _with_inherited(release, template, templates, depth=depth + 1).items():
            if key not in without:
                merged[key], merged.lines[key] = value, template.lines.get(key, release.line or 1)
    for key, value in tree.items():
        merged[key], merged.lines[key] = value, tree.lines[key]
    return merged


_MOST_TEMPLATES = 20


def _release(draft: Draft, release: Fields, places: dict[str, str | None], usual: dict[str, bool]) -> None:
    name = release.text("name")
    chart = release.text("chart") or release.text("directory")
    version = release.text("version")
    installed = release.flag("installed")
    own = {key: release.flag(key) for key in usual}
    settings = {key: usual[key] if value is None else value for key, value in own.items()}
    unknown = "whether it is installed depends on values: " + _BUILD
    for key in ("condition", "installedTemplate", "conditionTemplate"):
        if key in release:
            release.refuse(key, unknown)
    for index, entry in enumerate(release.each("dependencies")):
        entry.ignore("", *entry.names())
        if not index:
            release.refuse("dependencies", "charts that are put into another chart are not read: list their releases")
    release.unsupported(_PROVENANCE, "verify", "verifyTemplate")
    release.ignore("", "chartPath", "keyring", "forceGoGetter", "directory", "inherit", *_OF_RELEASES)
    release.finish()
    chosen = not release.refused & {"installed", "condition", "installedTemplate", "conditionTemplate", "inherit"}
    if installed is False:
        draft.note(f"{name or 'A release'} was left out: it is not to be installed.")
    elif chosen and chart is None:
        release.refuse("chart", REQUIRED)
    elif chosen and chart:
        _add(draft, release, chart, version, places, settings=settings)


def _add(
    draft: Draft,
    release: Fields,
    chart: str,
    version: str | None,
    places: dict[str, str | None],
    *,
    settings: dict[str, bool],
) -> None:
    found = release.parse("chart", lambda text: _located(_no_template(text), places), chart)
    wanted = release.parse("version", _no_template, version) if version else None
    if found is None or "version" in release.refused:
        return
    place, name, given, digest = found
    number, _, pinned = (wanted or "").partition("@")
    digest = digest or pinned
    is_archive = place.endswith((".tgz", ".tar.gz"))
    number = number or given or (">0.0.0-0" if settings["devel"] and not is_archive else "")
    host = host_of(place)
    if settings["insecureSkipTLSVerify"]:
        draft.registry(host, insecure=True)
    if settings["plainHttp"]:
        draft.registry(host, plain_http=True)
    if digest and place.startswith("oci://"):
        tag = f":{number.replace('+', '_')}" if is_exact_version(number) else ""  # as in Helm
        image = release.parse("chart", Reference.parse, f"{place.removeprefix('oci://')}/{name}{tag}@{digest}")
        if image:
            draft.sources.append(image_source(image))
    elif number == "latest" and place.startswith("oci://"):
        release.refuse("version", "helmfile takes no latest in a registry either: name the version")
    else:
        draft.sources.append({"chart": {"repository": place, "name": name, **({"version": number} if number else {})}})


def _located(chart: str, places: dict[str, str | None]) -> tuple[str, str, str, str]:
    """The address of a chart's repository, its name, and the version and the digest in its address, if any.

    Raises ``UsageError``, without a word for what was refused before.
    """
    if chart.startswith("oci://"):
        base, _, digest = chart.partition("@")
        place, _, name = base.rpartition("/")
        name, _, version = name.partition(":")
        return check_chart_repository(place), name, version, digest
    if re.match(r"https?://[^?]+\.(?:tgz|tar\.gz)$", chart):
        return check_chart_repository(chart), chart.rpartition("/")[2], "", ""
    if "://" in chart or "::" in chart:
        raise UsageError("only charts in repositories are mirrored")
    repository, slash, name = chart.partition("/")
    if repository not in places:
        is_path = not slash or repository in (".", "..", "")
        raise UsageError(_NOT_ON_DISK if is_path else f"no repository is called {repository!r}: {_NOT_ON_DISK}")
    address = places[repository]
    if address is None:
        raise UsageError(f"the address of {repository} was not understood")
    return address, name, "", ""
