"""Importing hauler's manifests (``content.hauler.cattle.io/v1``): documents of images, charts, files and lists.

The fields are those of hauler's ``pkg/apis/hauler.cattle.io/v1``, the annotations those of ``pkg/consts``.  Go's JSON
finds a field by any case, and hauler skips documents of other kinds with a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from syncer.errors import UsageError
from syncer.formats.yaml import Map
from syncer.oci import Platform, Reference
from syncer.profiles.imports.draft import REQUIRED, Draft, Fields, fold_case, host_of, image_source, platform_names
from syncer.profiles.syncfile.document import CustomName, check_chart_repository, check_file_url, parse_registry_host

GROUPS = ("content.hauler.cattle.io/", "collection.hauler.cattle.io/")

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
_LISTS = {"Images": "images", "Charts": "charts", "ThickCharts": "charts", "Files": "files", "ImageTxts": "imageTxts"}
_KNOWN = ", ".join(_LISTS)
_FIELDS = (
    *("apiVersion", "kind", "metadata", "annotations", "spec", "images", "charts", "files", "imageTxts", "name"),
    *("platform", "rewrite", "exclude-extras", "local", "ca-file", "insecure-skip-tls-verify", *_VERIFYING),
    *("repoURL", "version", "valuesFiles", "add-images", "add-dependencies", "verify", "keyring", "usernameEnv"),
    *("passwordEnv", "passCredentialsAll", "certFile", "keyFile", "caFile", "insecureSkipTLSVerify", "plainHTTP"),
    *("path", "ref", "sources", "include", "exclude"),
)
_NOTED = {
    "retries": "retries: syncer decides itself how often it asks again.",
    "store": "store: hauler's stores are places on a disk; all goes to the target here.",
    "rewrite": "hauler.dev/rewrite: hauler never reads this annotation.",
}
_RELOCATED = "hauler.dev/registry is not put before the images of a chart: list them in an images_file"
_IMAGES_OF_CHARTS = (
    "Images of charts (scan): those of the rendered templates. Hauler takes those in a chart's annotations and in its "
    "images.lock too."
)
_OF_HOSTS = frozenset(".:[")


class _Defaults(Struct):
    """The annotations of a document, which hold for each of its entries that does not say otherwise."""

    platform: str | None = None
    unknown_platform: bool = False  # one that was refused, and must not become all platforms
    registry: str | None = None
    authority: str | None = None
    insecure: bool = False
    no_extras: bool = False


def is_hauler(documents: Sequence[Any]) -> bool:
    """Tell whether one of ``documents`` looks like a document of hauler's."""
    return any(_is_content(tree) for tree in documents)


def import_hauler(documents: Sequence[Any], draft: Draft) -> None:
    """Fill ``draft`` from ``documents``."""
    draft.note("Names: the full source name is kept; hauler leaves the source's registry out.")
    for tree in documents:
        if tree is None:
            continue
        if not _is_content(tree):
            kind = tree.get("kind") if isinstance(tree, Map) else None
            draft.note(f"A document of another kind ({kind or 'unknown'}) was left out, as hauler skips it.")
            continue
        document = Fields(draft, fold_case(tree, _FIELDS))
        document.ignore("", "apiVersion")
        kind = document.text("kind")
        if kind not in _LISTS:
            document.refuse("kind", f"hauler has no such kind {kind!r}; known: {_KNOWN}")
            continue
        defaults = _annotations(document)
        content = document.inner("spec")
        for entry in content.each(_LISTS[kind]):
            match kind:
                case "Images":
                    _image(draft, entry, defaults)
                case "Files":
                    _file(draft, entry, defaults)
                case "ImageTxts":
                    _list(draft, entry)
                case _:
                    _chart(draft, entry, defaults, thick=kind == "ThickCharts")
        content.finish(ignored_by="hauler")
        document.finish(ignored_by="hauler")


def _is_content(tree: Any) -> bool:
    if not isinstance(tree, Map):
        return False
    version = next((value for key, value in tree.items() if key.lower() == "apiversion"), None)
    return isinstance(version, str) and version.startswith(GROUPS)


def _annotations(document: Fields) -> _Defaults:
    """The ``hauler.dev/…`` annotations of a document."""
    metadata = document.inner("metadata")
    metadata.ignore("", *(name for name in metadata.names() if name != "annotations"))
    annotations = metadata.inner("annotations")
    defaults = _Defaults()
    for name in annotations.names():
        group, _, key = name.rpartition("/")
        if group != "hauler.dev":
            annotations.ignore("", name)
        elif key in _VERIFYING:
            annotations.unsupported(_VERIFY, name)
        elif key in _NOTED:
            annotations.ignore(_NOTED[key], name)
        else:
            _default(defaults, annotations, name, key)
    return defaults


def _default(defaults: _Defaults, annotations: Fields, name: str, key: str) -> None:
    match key:
        case "platform":
            platform = annotations.parse(name, Platform.parse)
            defaults.platform = str(platform) if platform else None
            defaults.unknown_platform = name in annotations.refused
        case "registry":
            defaults.registry = annotations.parse(name, parse_registry_host)
        case "ca-file":
            defaults.authority = annotations.text(name)
        case "insecure-skip-tls-verify":
            defaults.insecure = annotations.text(name) == "true"
        case "exclude-extras":
            defaults.no_extras = annotations.text(name) == "true"
        case _:
            annotations.ignore(f"{name} was left out: hauler does not know it either.", name)


def _image(draft: Draft, image: Fields, defaults: _Defaults) -> None:
    name = image.text("name") or ""
    local = image.flag("local")
    reference = image.parse("name", lambda text: _relocated(text, defaults.registry), name)
    platforms = platform_names(image, "platform")
    if not platforms and defaults.platform:
        platforms = [defaults.platform]
    custom_name = image.parse("rewrite", lambda text: _rewritten(text, reference))
    wrong_name = "rewrite" in image and custom_name is None
    unknown_platform = "platform" in image.refused or (defaults.unknown_platform and not platforms)
    image.unsupported(_VERIFY, *_VERIFYING)
    extras = False if image.flag("exclude-extras") or defaults.no_extras else None
    authority = image.text("ca-file") or defaults.authority
    insecure = image.flag("insecure-skip-tls-verify") or defaults.insecure
    image.finish(ignored_by="hauler")
    if local:
        image.refuse("local", "an image of this machine's Docker is in no registry; push it to one first")
    elif not name:
        image.refuse("name", REQUIRED)
    elif reference and not wrong_name and not unknown_platform:
        _tls(draft, reference.registry, authority, insecure=insecure)
        draft.sources.append(image_source(reference, platforms=platforms, referrers=extras, **{"as": custom_name}))


def _relocated(name: str, registry: str | None) -> Reference:
    """The image ``name``, at ``registry`` if it names none itself (hauler's ``Relocate``)."""
    reference = Reference.parse(name)
    return replace(reference, registry=registry) if registry and not _has_host(name) else reference


def _has_host(name: str) -> bool:
    host, slash, _ = name.partition("/")
    return bool(slash) and (bool(set(host) & _OF_HOSTS) or host == "localhost")


def _rewritten(text: str, reference: Reference | None) -> str:
    """The name below the target's base that ``rewrite`` gives an image; its registry is left out, as by a copy."""
    raw = text.removeprefix("/")
    if _has_host(raw):
        named = Reference.parse(raw)
        raw = named.repository + (f":{named.tag}" if raw.endswith(f":{named.tag}") else "")
    if reference and reference.digest and CustomName.parse(raw).tag is None:
        raise UsageError("an image with a digest needs a tag in its new name")
    CustomName.parse(raw)
    return raw


def _tls(draft: Draft, host: str, authority: str | None, *, insecure: bool) -> None:
    if authority:
        draft.registry(host, ca_cert=authority)
    if insecure:
        draft.registry(host, insecure=True)


def _file(draft: Draft, file: Fields, defaults: _Defaults) -> None:
    path = file.text("path") or ""
    name = file.text("name")
    authority = file.text("ca-file") or defaults.authority
    insecure = file.flag("insecure-skip-tls-verify") or defaults.insecure
    file.finish(ignored_by="hauler")
    if not path:
        file.refuse("path", REQUIRED)
    elif not path.startswith(("http://", "https://")):
        file.refuse("path", f"{path} is a file of this machine, and no server has it")
    elif url := file.parse("path", check_file_url, path):
        _tls(draft, host_of(url), authority, insecure=insecure)
        draft.sources.append({"file": {"url": url, **({"name": name} if name else {})}})


def _chart(draft: Draft, chart: Fields, defaults: _Defaults, *, thick: bool) -> None:
    name = chart.text("name")
    place = chart.parse("repoURL", check_chart_repository)
    version = chart.text("version")
    with_images = chart.flag("add-images") or thick
    scan: dict[str, Any] = {}
    platforms = platform_names(chart, "platform") or ([defaults.platform] if defaults.platform else [])
    values = chart.texts("valuesFiles")
    no_extras = bool(chart.flag("exclude-extras")) or defaults.no_extras
    if with_images and defaults.registry:
        chart.refuse("add-images" if "add-images" in chart else "name", _RELOCATED)
    elif with_images:
        draft.note(_IMAGES_OF_CHARTS)
        scan = {"scan": True, **({"values_files": values} if values else {})}
    settings: dict[str, Any] = {"platforms": platforms} if scan and platforms else {}
    if scan and no_extras:
        settings["referrers"] = False
    if chart.flag("add-dependencies"):
        chart.refuse("add-dependencies", "only the archive of a chart is mirrored, with the dependencies inside it")
    chart.unsupported("list these images one by one", "extraImages")
    chart.unsupported("a chart keeps its name", "rewrite")
    chart.unsupported("a chart's provenance is not verified", "verify")
    chart.ignore("", "keyring")
    if name and place:
        _chart_registry(draft, chart, host_of(place), defaults)
        wanted = {"repository": place, "name": name, **({"version": version} if version else {}), **scan}
        draft.sources.append({"chart": wanted, **settings})
    elif "repoURL" not in chart:
        chart.refuse("repoURL", "only charts in repositories are mirrored")
    elif not name:
        chart.refuse("name", REQUIRED)
    chart.finish(ignored_by="hauler")


def _chart_registry(draft: Draft, chart: Fields, host: str, defaults: _Defaults) -> None:
    user, password = chart.text("usernameEnv"), chart.text("passwordEnv")
    if user and password:
        draft.registry(host, credentials={"username_env": user, "password_env": password})
    elif user or password:
        chart.refuse("usernameEnv" if user else "passwordEnv", "usernameEnv and passwordEnv go together")
    chart.unsupported("a login goes to the repository's own host only", "passCredentialsAll")
    _tls(
        draft,
        host,
        chart.text("caFile") or defaults.authority,
        insecure=bool(chart.flag("insecureSkipTLSVerify") or defaults.insecure),
    )
    certificate, key = chart.text("certFile"), chart.text("keyFile")
    if certificate and key:
        draft.registry(host, client_cert=certificate, client_key=key)
    if chart.flag("plainHTTP"):
        draft.registry(host, plain_http=True)


def _list(draft: Draft, listed: Fields) -> None:
    place = listed.text("ref") or ""
    filters = listed.inner("sources")
    filtered = [name for name in ("include", "exclude") if filters.texts(name)]
    for name in filtered:
        filters.refuse(name, "a list is taken as a whole, so this one is left out")
    filters.finish(ignored_by="hauler")
    listed.finish(ignored_by="hauler")
    if "://" in place or not place:
        listed.refuse("ref", "the list must be a file: download it, and name it under `images_file`")
    elif not filtered:
        draft.sources.append({"images_file": place})
