"""The importers of ``syncer import``, and the choice of the one that knows a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncer.errors import InvalidFile, UsageError
from syncer.formats.text import read_text
from syncer.formats.yaml import Map, parse_documents
from syncer.profiles.imports.deployments import import_helmfile, import_zarf, is_helmfile, is_template, is_zarf
from syncer.profiles.imports.draft import Draft, Fields, empty_draft_error
from syncer.profiles.imports.dregsy import import_dregsy, is_dregsy
from syncer.profiles.imports.hauler import import_hauler, is_hauler
from syncer.profiles.imports.image_syncer import import_image_syncer, import_logins, is_image_syncer, is_logins
from syncer.profiles.imports.lists import import_images
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
from syncer.profiles.syncfile.sync_file import parse_sync_file

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


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The sync file that was made of a file of another tool.

    ``refusals`` name, with file and line, the fields that could not be imported.  If there are any, ``text`` mirrors
    less than the imported file.
    """

    format: str
    text: str
    refusals: tuple[str, ...]


def import_file(path: Path, *, registry: str | None = None, logins: Path | None = None) -> ImportResult:
    """Turn the file at ``path`` into a sync file; the format is recognised by the content.

    ``registry`` is the target, for formats that do not name one; ``logins`` is image-syncer's second file.
    Raises ``InvalidFile`` for an unknown file and for one without anything that can be mirrored, and ``UsageError``
    when the target is missing.
    """
    draft = Draft(path)
    name = _fill(draft, read_text(path), path)
    if logins is not None:
        _fill_logins(draft, logins)
    if not draft.sources and not draft.is_part:
        raise empty_draft_error(draft)
    if not draft.targets:
        if registry is None:
            raise UsageError(f"{path} does not say where to mirror to", hint="name it: --registry HOST[:PORT][/BASE]")
        draft.target(registry)
    elif registry is not None:
        raise UsageError(f"{path} says itself where to mirror to: {draft.targets[0]['registry']}")
    text = draft.render()
    if not draft.is_part:
        parse_sync_file(draft.render(stand_ins=True), path.with_name("sync.yaml"))
    return ImportResult(name, text, tuple(map(str, draft.refusals)))


def _fill(draft: Draft, text: str, path: Path) -> str:
    if is_mapping(text):
        import_mapping(text, draft)
        return "mapping.txt"
    if _is_list(text):
        import_images(text, path, draft)
        return "list of images"
    try:
        documents = parse_documents(text, path)
    except InvalidFile as error:
        if not is_template(text):
            raise
        problem = "it is a helmfile that is still to be filled in"
        raise InvalidFile(path, problem, line=error.line, hint="import what `helmfile build` prints") from None
    for name, (is_known, import_all) in _SEVERAL.items():
        if is_known(documents):
            import_all(documents, draft)
            return name
    tree = documents[0] if len(documents) == 1 else None
    if isinstance(tree, str):  # a list with a mistake in it
        import_images(text, path, draft)
    for name, (knows, fill) in _SINGLE.items():
        if knows(tree):
            fill(tree, draft)
            return name
    raise _unknown(tree, path)


def _unknown(tree: Any, path: Path) -> InvalidFile:
    if is_logins(tree):
        return InvalidFile(
            path, "it holds logins only", hint="import the file of images, and name this one with --auth"
        )
    if isinstance(tree, Map) and {"sources", "targets"} <= tree.keys():
        return InvalidFile(path, "it is a sync file already", hint="use it with syncer sync -c")
    return InvalidFile(
        path,
        "it is not a file of a tool that syncer knows",
        hint=f"known: {', '.join(FORMATS)}",
    )


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
    """Tell whether each line is one word at most, which is not so in a YAML file of these tools."""
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    words = [word for line in lines for word in line]
    return (
        bool(words) and max(map(len, lines)) == 1 and not any(w[0] in "{[" or w[-1] == ":" or w == "---" for w in words)
    )
