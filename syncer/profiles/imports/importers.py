"""The importers of ``syncer import``, and the choice of the one that knows a file."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from syncer.errors import InvalidFile, UsageError
from syncer.formats.text import ListedImage, read_lines, read_text
from syncer.formats.yaml import Map, Seq, parse_documents
from syncer.naming import MappingRule, Naming
from syncer.oci import Reference
from syncer.profiles.imports.deployments import import_helmfile, import_zarf, is_helmfile, is_template, is_zarf
from syncer.profiles.imports.draft import (
    VARIABLE,
    Draft,
    Fields,
    agree_on_referrers,
    empty_draft_error,
    image_source,
    spelled,
)
from syncer.profiles.imports.dregsy import import_dregsy, is_dregsy
from syncer.profiles.imports.hauler import import_hauler, is_hauler
from syncer.profiles.imports.image_syncer import import_image_syncer, import_logins, is_image_syncer, is_logins
from syncer.profiles.imports.locks import import_chart_lock, import_imgpkg, is_chart_lock, is_imgpkg
from syncer.profiles.imports.ocync import import_ocync, is_ocync
from syncer.profiles.imports.openshift import (
    import_imageset,
    import_mapping,
    import_mirror_sets,
    is_imageset,
    is_mapping,
    is_mirror_set,
)
from syncer.profiles.imports.regsync import import_regsync, is_regsync
from syncer.profiles.imports.skopeo import import_skopeo, is_skopeo
from syncer.profiles.syncfile.sync_file import check_sync_file

_SINGLE = {
    "regsync": (is_regsync, import_regsync),
    "ImageSetConfiguration": (is_imageset, import_imageset),
    "imgpkg": (is_imgpkg, import_imgpkg),
    "Images.lock": (is_chart_lock, import_chart_lock),
    "zarf": (is_zarf, import_zarf),
    "ocync": (is_ocync, import_ocync),
    "dregsy": (is_dregsy, import_dregsy),
    "image-syncer": (is_image_syncer, import_image_syncer),
    "skopeo sync": (is_skopeo, import_skopeo),
}
"""The formats of one document, each with a function that recognises it and one that imports it."""

_SEVERAL = {
    "hauler": (is_hauler, import_hauler),
    "mirror sets": (is_mirror_set, import_mirror_sets),
    "helmfile": (is_helmfile, import_helmfile),
}
"""The formats of several documents, likewise."""

_LAST_KEY = frozenset({"regsync", "hauler", "image-syncer", "dregsy"})
"""The tools that take the last of two equal keys in a mapping; others refuse them."""

_FIRST_DOCUMENT = frozenset({"regsync", "skopeo sync", "image-syncer"})
"""The tools that read the first document of a file, and nothing after it."""

_MARKS = {
    "regsync": ("a list `sync`", ("sync", "creds", "defaults", "schedule", "interval", "ratelimit")),
    "skopeo sync": (
        "registries as keys, with `images` (lists of tags), `images-by-tag-regex` or `images-by-semver`",
        ("images", "images-by-tag-regex", "images-by-semver", "tls-verify", "cert-dir"),
    ),
    "hauler": ("`apiVersion: content.hauler.cattle.io/…`", ("content.hauler.cattle.io", "imageTxts")),
    "ImageSetConfiguration": (
        "`apiVersion: mirror.openshift.io/…`",
        ("mirror.openshift.io", "mirror", "storageConfig"),
    ),
    "imgpkg": ("`apiVersion: imgpkg.carvel.dev/…`", ("imgpkg.carvel.dev",)),
    "zarf": ("`kind: ZarfPackageConfig`", ("ZarfPackageConfig", "zarf.dev", "components")),
    "helmfile": ("`releases`, a list with a `name` in each", ("releases", "repositories", "helmDefaults", "helmfiles")),
    "ocync": ("a list `mappings`", ("mappings", "target_groups", "registries")),
    "dregsy": ("a list `tasks`, with `mappings` in each", ("tasks", "relay", "lister")),
    "image-syncer": ("sources as keys and targets as values, or `images` and `auth`", ("images", "auth")),
}
"""What the files of a tool have, for people, and the words by which a file like them is told."""

_HOST = re.compile(r"[\w-]+(\.[\w-]+)+(:[0-9]+)?|[\w.-]+:[0-9]+")

FORMATS = {
    "regsync": "regsync.yml of regclient's regsync",
    "skopeo sync": "the YAML of skopeo sync --src yaml",
    "image-syncer": "images.yaml or images.json, with --auth auth.yaml; the older config.json",
    "hauler": "manifests of content.hauler.cattle.io: images, charts, files",
    "ImageSetConfiguration": "oc-mirror's: additional images and charts",
    "mapping.txt": "oc-mirror's list of images and their places",
    "mirror sets": "ImageDigestMirrorSet, ImageTagMirrorSet, ImageContentSourcePolicy: names at the targets",
    "imgpkg": "ImagesLock and BundleLock of imgpkg",
    "Images.lock": "the lock of a Helm chart, written by dt",
    "zarf": "zarf.yaml: the images, charts and files of its components",
    "helmfile": "helmfile.yaml: the charts of its releases",
    "ocync": "ocync.yaml: mappings between registries",
    "dregsy": "the tasks of dregsy",
    "list of images": "a plain list, one image a line",
}
"""What each format is, for people."""


class ImportResult(Struct, frozen=True):
    """The sync file that was made of a file of another tool.

    ``refusals`` name, with file and line, the fields that could not be imported.  If there are any, ``text`` mirrors
    less than the imported file.
    """

    format: str
    text: str
    refusals: tuple[str, ...]


def import_file(
    path: Path, *, registry: str | None = None, logins: Path | None = None, names_like: Naming | None = None
) -> ImportResult:
    """Turn the file at ``path`` into a sync file; the format is recognised by the content.

    ``registry`` is the target, for formats that do not name one; ``logins`` is image-syncer's second file.
    ``names_like`` writes rules for the names at the target, so that they are as another tool has them.
    Raises ``InvalidFile`` for an unknown file and for one without anything that can be mirrored, and ``UsageError``
    when the target is missing.
    """
    draft = Draft(path)
    name = _fill(draft, read_text(path), path)
    if logins is not None:
        _fill_logins(draft, logins)
    agree_on_referrers(draft)
    if not draft.sources and not draft.is_part:
        raise empty_draft_error(draft)
    if not draft.targets:
        if registry is None:
            raise UsageError(f"{path} does not say where to mirror to", hint="name it: --registry HOST[:PORT][/BASE]")
        draft.target(registry)
    elif registry is not None:
        raise UsageError(f"{path} says itself where to mirror to: {spelled(draft.targets[0]['registry'])}")
    if names_like is not None:
        _name_like(draft, names_like)
    text = draft.render()
    if not draft.is_part:
        _check(text, path)
    return ImportResult(name, text, tuple(map(str, draft.refusals)))


def _check(text: str, path: Path) -> None:
    """Raise ``InvalidFile`` when ``text`` would be no sync file: a refusal was forgotten, and is made good here."""
    try:
        check_sync_file(text, path)
    except InvalidFile as error:
        problems = [str(each).removeprefix(f"{path}:{each.line}: ") for each in (error, *error.more)]
        raise InvalidFile(path, f"no sync file can say what it says: {'; '.join(problems)}") from None


def _fill(draft: Draft, text: str, path: Path) -> str:
    """Fill ``draft`` with the importer that knows ``text``; gives the name of the format."""
    if is_mapping(text):
        import_mapping(text, draft)
        return "mapping.txt"
    repeated: list[InvalidFile] = []
    try:
        documents = parse_documents(text, path, repeated=repeated)
    except InvalidFile as error:
        if is_template(text):
            problem = "it is a helmfile that is still to be filled in"
            raise InvalidFile(path, problem, line=error.line, hint="import what `helmfile build` prints") from None
        if not _is_list(text):
            raise
        documents = [text]
    if not any(document is not None for document in documents):
        raise InvalidFile(path, "it is empty", hint=f"known: {', '.join(FORMATS)}")
    if isinstance(documents[0], str):
        _import_images(text, path, draft)
        return "list of images"
    name = _fill_from_documents(draft, documents, path)
    for each in repeated:
        if name in _LAST_KEY:
            draft.note(f"{str(each).removeprefix(f'{path}:')}; {name} takes the last one.")
        else:
            draft.refusals.append(each)
    return name


def _fill_from_documents(draft: Draft, documents: list[Any], path: Path) -> str:
    for name, (is_known, import_all) in _SEVERAL.items():
        if is_known(documents):
            import_all(documents, draft)
            return name
    tree = documents[0]
    for name, (knows, fill) in _SINGLE.items():
        if not knows(tree):
            continue
        fill(tree, draft)
        if len(documents) > 1 and name in _FIRST_DOCUMENT:
            draft.note(f"Only the first document of the file counts, as for {name}.")
        elif len(documents) > 1:
            draft.refuse((), None, f"it holds {len(documents)} documents, and {name} has one")
        return name
    raise _unknown(tree, path)


def _unknown(tree: Any, path: Path) -> InvalidFile:
    if isinstance(tree, Seq):
        return InvalidFile(
            path,
            "it is a list in YAML, which no known tool has",
            hint="a list of images is a text with one image a line",
        )
    if is_logins(tree):
        return InvalidFile(
            path, "it holds logins only", hint="import the file of images, and name this one with --auth"
        )
    if isinstance(tree, Map) and {"sources", "targets"} <= tree.keys():
        return InvalidFile(path, "it is a sync file already", hint="use it with syncer sync -c")
    problem = "it is not a file of a tool that syncer knows"
    if isinstance(tree, Map) and isinstance(tree.get("kind"), str) and "apiVersion" in tree:
        problem += f", but a {tree['kind']} of {tree['apiVersion']}"
    if near := _nearest(tree):
        problem += f"; the nearest is {near}, whose files have {_MARKS[near][0]}"
    return InvalidFile(path, problem, hint=f"known: {', '.join(FORMATS)}")


def _nearest(tree: Any) -> str | None:
    """The tool whose words are most like those at the top of ``tree``; None when none are."""
    words = [*tree] if isinstance(tree, Map) else []
    words += [key for value in [*tree.values()] if isinstance(value, Map) for key in value] if words else []
    words += [str(tree.get("apiVersion")).partition("/")[0]] if words else []

    def likeness(name: str) -> int:
        return sum(bool(difflib.get_close_matches(mark, words, n=1, cutoff=0.75)) for mark in _MARKS[name][1])

    best = max(_MARKS, key=likeness)
    if likeness(best):
        return best
    return "skopeo sync" if isinstance(tree, Map) and any(map(_HOST.fullmatch, tree)) else None


def _fill_logins(draft: Draft, path: Path) -> None:
    documents = parse_documents(read_text(path), path)
    if len(documents) != 1 or not is_logins(documents[0]):
        raise InvalidFile(path, "it is not a file of logins", hint="such a file maps registries to logins")
    second = Draft(path)
    import_logins(Fields(second, documents[0]))
    for host, settings in second.registries.items():
        draft.registry(host, **settings)
    for note in second.notes:
        draft.note(note)
    draft.refusals += second.refusals


def _is_list(text: str) -> bool:
    """Tell whether ``text`` is a list of images: more than half of its lines are images."""
    lines = list(read_lines(text, ""))
    return sum(isinstance(line, ListedImage) for line in lines) * 2 > len(lines)


def _name_like(draft: Draft, tool: Naming) -> None:
    """Give the images of ``draft`` the names that ``tool`` gives them at its target; what no rule can say is refused.

    skopeo keeps the last part of a name (``destSuffix`` of its ``sync.go``, without ``--scoped``); hauler leaves the
    registry out and has charts below ``hauler/`` (``RewriteRefToRegistry``, ``consts.DefaultNamespace``); oc-mirror
    leaves the registry out, and a digest becomes a tag (``buildMirrorToDiskPaths``).  regsync's files name each target
    themselves.
    """
    if tool is Naming.REGSYNC:
        if not all("as" in source for source in draft.sources):
            raise UsageError(
                "regsync has no rule for names: its files name each target themselves",
                hint="write rules of your own into `map`, or `as` for single images (docs/sync.md)",
            )
        return
    draft.notes = [note for note in draft.notes if not note.startswith("Names: ")]
    draft.note(f"Names: as {tool} has them at its target.")
    for index, source in enumerate(draft.sources):
        named = source.get("image") or source.get("repository")
        if named and "as" not in source and not VARIABLE.search(named):
            _name_image_like(draft, tool, source, Reference.parse(named))
        elif chart := source.get("chart"):
            place = f"{chart['repository'].partition('://')[2].strip('/')}/{chart['name']}"
            if tool is Naming.HAULER:
                _map(draft, place, f"hauler/{chart['name']}")
            else:
                draft.note(f"The chart {chart['name']} keeps its full name: {tool} brings no charts to a registry.")
            if chart.get("scan"):
                why = f"the names of the images in it are not known here, so no map can be {tool}'s"
                draft.refuse(("sources", index, "chart"), None, why)
        elif named is None or "as" not in source:
            kind = next(iter(source))
            draft.refuse(("sources", index, kind), None, f"its names are not known here, so no map can be {tool}'s")


def _map(draft: Draft, prefix: str, replacement: str) -> None:
    try:
        rule = MappingRule.of(prefix, replacement)
    except UsageError as error:
        draft.refuse((), None, str(error))
    else:
        draft.map[rule.prefix] = rule.replacement


def _name_image_like(draft: Draft, tool: Naming, source: dict[str, Any], reference: Reference) -> None:
    place = f"{reference.registry}/{reference.repository}"
    if tool is not Naming.SKOPEO:
        _map(draft, reference.registry, "")
        if tool is Naming.OC_MIRROR and reference.digest and not reference.tag:
            source["as"] = f"{reference.repository}:{reference.digest.algorithm}-{reference.digest.hex}"
        return
    last = reference.repository.rpartition("/")[2]
    other = next((prefix for prefix, name in draft.map.items() if name == last and prefix != place), None)
    if other:
        draft.refuse((), None, f"skopeo puts {other} and {place} into one repository {last}, which no map can")
    else:
        _map(draft, place, last)


def _import_images(text: str, origin: Path, draft: Draft) -> None:
    """Fill ``draft`` from a list with one image a line; each line that is wrong is a refusal."""
    for listed in read_lines(text, origin):
        if isinstance(listed, InvalidFile):
            draft.refusals.append(listed)
            continue
        platforms = [str(listed.platform)] if listed.platform else []
        source = image_source(listed.reference, platforms=platforms)
        if source not in draft.sources:
            draft.sources.append(source)
