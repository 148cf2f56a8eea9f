"""Reading profiles and packs from files: exports, values, and packs as directories or archives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from syncer.errors import InvalidFile
from syncer.files import reading
from syncer.formats.archive import read_archive
from syncer.formats.text import decode_text, parse_json, read_text
from syncer.formats.yaml import parse_documents
from syncer.profiles.palette.profile import Pack, PackFile, Profile, is_profile, parse_profile
from syncer.profiles.palette.scan import scan_pack
from syncer.profiles.workloads.compose import compose_files, is_compose, read_compose
from syncer.profiles.workloads.manifests import (
    TEMPLATE_HINT,
    TEMPLATE_PROBLEM,
    Mistakes,
    Workloads,
    is_manifests,
    read_manifests,
)

_NOTHING: Mapping[str, str] = MappingProxyType({})
_NO_WORK = Workloads()
_DATA = (".yaml", ".yml", ".json")
_NAME_AND_VERSION = re.compile(r"(?P<name>.+?)-(?P<version>v?[0-9].*)")
_OWN_MACRO = re.compile(r"\{\{-?\s*\.spectro\.pack\.(?P<name>[^.\s|{}]+)\.")
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_MANIFESTS = (".yaml", ".yml")
_CHARTS = (".tgz", ".tar.gz")
_MAX_FILE = 32 * 1024 * 1024  # bytes of one file of a pack's directory
_MAX_FILES = 1000


def is_pack_archive(path: Path) -> bool:
    """Tell whether ``path`` has the name of an archive, such as ``.tgz``."""
    return path.name.endswith(_ARCHIVES)


def read_pack(path: Path) -> Pack:
    """Read the pack in the directory or archive at ``path``; raises ``InvalidFile``.

    Name, version and layer come from pack.json; without one, name and version come from the file's name.
    """
    files = dict(_files_of_directory(path) if path.is_dir() else _files_of_archive(path))
    roots = [PurePosixPath(name).parent for name in files if PurePosixPath(name).name in ("pack.json", "values.yaml")]
    if not roots:
        raise InvalidFile(path, "it is not a pack: it holds neither pack.json nor values.yaml")
    root = min(roots, key=lambda each: (len(each.parts), each))
    inside = {
        str(PurePosixPath(name).relative_to(root)): content
        for name, content in files.items()
        if PurePosixPath(name).is_relative_to(root)
    }
    if "Chart.yaml" in inside and "pack.json" not in inside:
        raise InvalidFile(path, "it is a Helm chart, and no pack", hint=TEMPLATE_HINT)
    described = _pack_json(inside.get("pack.json"), path)
    name, version = split_name(path.resolve().name)
    named = _named_files(described, "kubeManifests", path)
    expected = (*named, *_named_files(described, "charts", path))
    manifests = {each for each in inside if _is_in(each, "manifests", _MANIFESTS)}
    for each in named:
        manifests |= {file for file in inside if file == each or (file.startswith(f"{each}/") and _is_manifest(file))}
    return Pack(
        name=_text(described, "name") or name,
        version=_text(described, "version") or version,
        layer=_text(described, "layer"),
        values=decode_text(inside.get("values.yaml", b""), f"{path}/values.yaml"),
        origin=f"{path}/values.yaml",
        manifests=tuple(PackFile(each, inside[each]) for each in sorted(manifests)),
        charts=tuple(PackFile(each, inside[each]) for each in sorted(inside) if _is_in(each, "charts", _CHARTS)),
        absent=tuple(
            each for each in expected if not any(file == each or file.startswith(f"{each}/") for file in inside)
        ),
        path=path,
    )


def pack_of_values(text: str, path: Path) -> Pack:
    """Make a pack of ``text``, the values.yaml at ``path``.

    The name of the pack comes from a pack.json beside the file.  Without one, it is the only pack that the macros in
    the values refer to, as usual for the operating systems of edge hosts; else it comes from the file's name.
    """
    beside = path.parent / "pack.json"
    described = _pack_json(beside.read_bytes(), beside) if beside.is_file() else {}
    stem = path.parent.resolve().name if path.stem == "values" else path.name.removesuffix(path.suffix)
    name, version = split_name(stem)
    named = set(_OWN_MACRO.findall(text))
    own = named.pop() if len(named) == 1 else name
    return Pack(
        name=_text(described, "name") or own,
        version=_text(described, "version") or version,
        layer=_text(described, "layer"),
        values=text,
        origin=str(path),
        path=path,
    )


def split_name(name: str) -> tuple[str, str]:
    """Split ``hello-universe-1.3.1`` or ``hello-universe-1.3.1.tar.gz`` into name and version."""
    for suffix in _ARCHIVES:
        name = name.removesuffix(suffix)
    match = _NAME_AND_VERSION.fullmatch(name)
    return (match["name"], match["version"]) if match else (name, "")


def _is_manifest(name: str) -> bool:
    return name.endswith(_MANIFESTS)


def _is_in(name: str, folder: str, suffixes: tuple[str, ...]) -> bool:
    return name.startswith(f"{folder}/") and name.count("/") == 1 and name.endswith(suffixes)


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    if path.name in ("pack.json", "values.yaml") or _is_manifest(name):
        return True
    return path.parent.name == "charts" and name.endswith(_CHARTS)


def _files_of_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    with reading(path), path.open("rb") as file:
        yield from read_archive(file, path, _wanted)


def _files_of_directory(path: Path) -> Iterator[tuple[str, bytes]]:
    described = path / "pack.json"
    candidates = [described, path / "values.yaml", path / "Chart.yaml", *sorted((path / "charts").glob("*"))]
    known = _pack_json(described.read_bytes(), described) if described.is_file() else {}
    for named in _named_files(known, "kubeManifests", path):
        place = path / named
        if place.is_dir():
            candidates += sorted(file for file in place.rglob("*") if _is_manifest(file.name))
        else:
            candidates.append(place)
    candidates += sorted((path / "manifests").glob("*"))
    if len(candidates) > _MAX_FILES:
        raise InvalidFile(path, f"it is not a pack: it holds more than {_MAX_FILES} charts and manifests")
    for file in dict.fromkeys(candidates):
        if not file.is_file():
            continue
        if file.stat().st_size > _MAX_FILE:
            raise InvalidFile(file, f"it is larger than {_MAX_FILE} bytes")
        yield file.relative_to(path).as_posix(), file.read_bytes()


def _named_files(described: dict[str, Any], key: str, path: Path) -> list[str]:
    """The paths in the list ``key`` of a pack.json, which may lie in subfolders; raises ``InvalidFile``."""
    named = described.get(key)
    if named is not None and not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise InvalidFile(path, f"{key} of its pack.json must be a list of paths")
    paths = [PurePosixPath(each) for each in named or [] if each.strip()]
    for each in paths:
        if each.is_absolute() or ".." in each.parts:
            raise InvalidFile(path, f"{key} of its pack.json leads out of the pack: {str(each)[:160]!r}")
    return list(dict.fromkeys(map(str, paths)))


def _pack_json(content: bytes | None, path: Path) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        document = json.loads(decode_text(content, path))
    except ValueError as error:
        raise InvalidFile(path, f"its pack.json is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidFile(path, "its pack.json is not an object")
    return document


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    return value.strip() if isinstance(value, str) else ""


def read_profile_file(path: Path, environment: Mapping[str, str] = _NOTHING) -> Profile:
    """Read the profile in the file or directory at ``path``; raises ``InvalidFile`` with all that is wrong in it.

    The file may be a profile that Palette exported (JSON or YAML), the values.yaml of one pack, a pack as a
    directory or archive, Kubernetes manifests, a compose file, or a directory of these two.  ``environment`` has the
    values of variables in manifests and compose files.
    """
    if is_pack_archive(path) or (path.is_dir() and _is_pack(path)):
        return _profile_of(read_pack(path))
    if path.is_dir():
        return _read_directory(path, environment)
    text = read_text(path)
    documents = _documents(text, path)
    if documents and (is_manifests(documents) or is_compose(documents, path)):
        return _profile_of_workloads(path, lambda found: _workloads(documents, path, environment, found) or _NO_WORK)
    return _profile_of_text(text, documents, path)


def _profile_of_text(text: str, documents: list[Any] | None, path: Path) -> Profile:
    """The profile of an export, or of the values of one pack."""
    if documents is None and all(f"\n{key}: " in f"\n{text}" for key in ("apiVersion", "kind")):
        line = text[: text.index("{{")].count("\n") + 1
        raise InvalidFile(path, TEMPLATE_PROBLEM, line=line, hint=TEMPLATE_HINT)
    if text.lstrip().startswith("{"):
        return parse_profile(parse_json(text, path), str(path))
    document = documents[0] if documents else None
    if is_profile(document):
        return parse_profile(document, str(path))
    if isinstance(document, list):
        raise InvalidFile(
            path,
            "it is a list, neither a profile nor a pack's values",
            hint="a plain list of images, one a line, goes to --images-file",
        )
    if isinstance(document, dict) and "images" in document and "profiles" in document:
        raise InvalidFile(path, "it is a bundle definition", hint="give it with --metadata-file")
    pack = pack_of_values(text, path)
    if documents is not None and not (path.parent / "pack.json").is_file():
        _check_values(pack, documents, path)
    return _profile_of(pack)


def _check_values(pack: Pack, documents: list[Any], path: Path) -> None:
    """Raise ``InvalidFile`` for a file that is no pack's values: it has no ``pack``, and nothing in it looks like one.

    Values without content are taken where a scan finds images in them.
    """
    document = documents[0] if documents else None
    if document is None:
        raise InvalidFile(path, "it is empty, and a profile, a pack's values, manifests or a compose file are expected")
    if isinstance(document, dict) and not {"pack", "content"}.isdisjoint(document):
        return
    if isinstance(document, dict) and {"sources", "targets"} <= document.keys():
        raise InvalidFile(path, "it is a sync file", hint="use it with syncer sync -c")
    kind = document.get("kind") if isinstance(document, dict) else None
    if isinstance(kind, str) or not scan_pack(pack, documents)[0]:
        named = f"its kind is {kind[:80]!r}" if isinstance(kind, str) else "it is no file that a build knows"
        raise InvalidFile(
            path,
            f"{named}: neither a profile, nor a pack's values (these have pack.content), nor manifests or compose's",
            hint="a file of another tool is for syncer import, and a list of images, one a line, for --images-file",
        )


def _is_pack(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("pack.json", "values.yaml"))


def _read_directory(directory: Path, environment: Mapping[str, str]) -> Profile:
    """Read the manifests and compose files in ``directory`` and below it; others are named in one warning.

    Of compose files, the one that compose itself takes is read with its override.
    """
    files = list(_data_files(directory))
    composed: dict[Path, list[Path]] = {}  # each file that compose takes, to all that it reads together
    for folder in dict.fromkeys(file.parent for file in files):
        chosen = compose_files(folder)
        composed |= dict.fromkeys(chosen, chosen)

    def read(found: Mistakes) -> Workloads:
        whole = Workloads()
        for chosen in {each[0]: each for each in composed.values()}.values():
            whole += read_compose(chosen, environment, found)
        left = [file for file in files if file not in composed and file.resolve() not in whole.files]
        parts = {file: _read_file(file, environment, found) for file in left}
        others = [str(file.relative_to(directory)) for file, part in parts.items() if part is None]
        if len(others) == len(files):
            problem = "it is not a pack: it holds neither pack.json nor values.yaml; and it holds no manifests"
            raise InvalidFile(directory, problem)
        warning = f"{directory}: neither manifests nor compose files, so not read: {', '.join(others)}"
        whole += Workloads(warnings=(warning,) if others else ())
        for part in parts.values():
            whole += part or _NO_WORK
        return whole

    return _profile_of_workloads(directory, read)


def _read_file(path: Path, environment: Mapping[str, str], found: Mistakes) -> Workloads | None:
    """The images of one file of a directory; None for a file of another kind."""
    try:
        documents = _documents(read_text(path), path)
    except InvalidFile as error:
        found.found.append(error)
        return _NO_WORK
    return _NO_WORK if documents == [] else _workloads(documents or [], path, environment, found)


def _workloads(documents: list[Any], path: Path, environment: Mapping[str, str], found: Mistakes) -> Workloads | None:
    if is_manifests(documents):
        return read_manifests(documents, path, environment, found)
    return read_compose([path], environment, found) if is_compose(documents, path) else None


def _data_files(directory: Path) -> Iterator[Path]:
    """The YAML and JSON files in ``directory`` and below it, without hidden ones; raises ``InvalidFile``."""
    count = 0
    for file in sorted(directory.rglob("*")):
        inside = file.relative_to(directory)
        if file.suffix not in _DATA or any(part.startswith(".") for part in inside.parts) or not file.is_file():
            continue
        count += 1
        if count > _MAX_FILES:
            raise InvalidFile(directory, f"it holds more than {_MAX_FILES} files of YAML or JSON")
        yield file


def _profile_of_workloads(path: Path, read: Callable[[Mistakes], Workloads]) -> Profile:
    """The profile of what ``read`` reads; raises ``InvalidFile`` for its mistakes, and when no image is named."""
    found = Mistakes()
    workloads = read(found)
    found.tell()
    if not (workloads.images or workloads.guesses):
        said = f"; {'; '.join(workloads.warnings)}" if workloads.warnings else ""
        raise InvalidFile(path, f"it names no image: it holds {', '.join(workloads.kinds)}{said}")
    name = path.resolve().name
    return Profile(name=name, images=workloads.images, guesses=workloads.guesses, warnings=workloads.warnings)


def read_packs(paths: Sequence[Path], name: str = "packs") -> Profile:
    """Read local packs, directories or archives, into one profile, so that their macros may refer to each other."""
    return Profile(name=name, packs=tuple(read_pack(path) for path in paths))


def _profile_of(pack: Pack) -> Profile:
    return Profile(name=pack.name, version=pack.version, packs=(pack,))


def _documents(text: str, path: Path) -> list[Any] | None:
    """The YAML documents, to recognise the kind of the file; None when macros keep it from parsing."""
    try:
        return parse_documents(text, path)
    except InvalidFile:
        if "{{" in text:
            return None
        if text.lstrip().startswith("{"):
            parse_json(text, path)  # which tells the mistake in the words of JSON
        raise
