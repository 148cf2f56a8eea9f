"""Reading and writing bundle-definition.yaml, which people may edit.

Every push reads one.  This module does not use pydantic, because the import of pydantic takes longer than reading
the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from msgspec import Struct

from syncer.errors import AlreadyThere, InvalidFile, SyncerError
from syncer.files import saving, write_whole
from syncer.formats.text import decode_text, read_text
from syncer.formats.yaml import Map, Seq, Step, line_of, nearest, parse_yaml, spell_path, unknown_field
from syncer.oci import Digest, Reference
from syncer.profiles.definition.definition import (
    API_VERSION,
    KIND,
    DefinedArchive,
    DefinedChart,
    DefinedFile,
    DefinedImage,
    DefinedPack,
    DefinedProfile,
    Definition,
    Missing,
    Release,
    render_definition,
)


def read_definition(path: Path) -> Definition:
    """Read the definition in the file at ``path``; raises ``InvalidFile`` with all its mistakes, by line and field."""
    return parse_definition(read_text(path), path)


def parse_definition(text: str | bytes, origin: Path | str) -> Definition:
    """Parse a definition from a bundle or a registry, called ``origin`` in errors; see ``read_definition``."""
    tree = parse_yaml(decode_text(text, origin) if isinstance(text, bytes) else text, origin)
    if tree is None:
        raise InvalidFile(origin, "it is empty, and a bundle definition is expected")
    try:
        definition: Definition = _DEFINITION(tree, ())
        _check_digests(definition)
    except _Mistakes as mistakes:
        raise InvalidFile.of(_told(mistake, tree, origin) for mistake in mistakes.found) from None
    return definition


def _told(mistake: _Mistake, tree: Any, origin: Path | str) -> InvalidFile:
    line = line_of(tree, mistake.path)
    return InvalidFile(origin, mistake.problem, line=line, field=spell_path(mistake.path), hint=mistake.hint)


def write_definition(definition: Definition, path: Path, *, force: bool = False) -> None:
    """Write ``definition`` to ``path``, whole or not at all.

    Raises ``AlreadyThere`` when the file has another text, which somebody may have edited, unless ``force`` is set.
    Raises ``TargetError`` when it cannot be written.
    """
    content = render_definition(definition).encode()
    with saving(path):
        if not force and path.exists() and path.read_bytes() != content:
            raise AlreadyThere(
                f"{path} is there already, and has other content",
                hint="it may have been edited; replace it with --force",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


class _Mistake(Struct, frozen=True):
    path: tuple[Step, ...]
    problem: str
    hint: str | None = None


class _Mistakes(Exception):
    def __init__(self, found: Sequence[_Mistake]) -> None:
        super().__init__(found)
        self.found = found


def _wrong(path: tuple[Step, ...], problem: str, hint: str | None = None) -> _Mistakes:
    """Make the exception for one mistake."""
    return _Mistakes([_Mistake(path, problem, hint)])


Schema: TypeAlias = dict[str, Any]


class Read(Struct, frozen=True):
    """A reader of one kind of value.

    ``value`` makes it of a node of the document and its path, and raises ``_Mistakes``; ``schema`` says the same as a
    JSON Schema, for YAML's own types: a text may look like a number there.
    """

    value: Callable[[Any, tuple[Step, ...]], Any]
    schema: Schema

    def __call__(self, node: Any, path: tuple[Step, ...]) -> Any:
        return self.value(node, path)


def definition_schema() -> Schema:
    """The JSON Schema (2020-12) of a definition, made of the readers that read one."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The definition of a bundle of syncer",
        **_DEFINITION.schema,
    }


_TEXT_SCHEMA: Schema = {"type": ["string", "number", "boolean"]}


def _read_text(node: Any, path: tuple[Step, ...]) -> str:
    if not isinstance(node, str):
        raise _wrong(path, "it must be a text")
    return node


def _read_some_text(node: Any, path: tuple[Step, ...]) -> str:
    if not _read_text(node, path):
        raise _wrong(path, "it must not be empty")
    return str(node)


def _read_size(node: Any, path: tuple[Step, ...]) -> int:
    try:
        size = int(node)
    except (TypeError, ValueError):
        raise _wrong(path, "it must be a whole number") from None
    if size < 0:
        raise _wrong(path, "it must be 0 or more")
    return size


_text = Read(_read_text, _TEXT_SCHEMA)
_some_text = Read(_read_some_text, _TEXT_SCHEMA | {"minLength": 1})
_size = Read(
    _read_size, {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\s*\+?[0-9_]+\s*$"}]}
)


def _read_flag(node: Any, path: tuple[Step, ...]) -> bool:
    if node not in ("true", "false"):
        raise _wrong(path, "it must be true or false")
    return bool(node == "true")


_flag = Read(_read_flag, {"anyOf": [{"type": "boolean"}, {"enum": ["true", "false"]}]})


def _parsed(parse: Callable[[str], Any], pattern: str) -> Read:
    def read(node: Any, path: tuple[Step, ...]) -> Any:
        try:
            return parse(_read_text(node, path))
        except SyncerError as error:
            raise _wrong(path, str(error), error.hint) from None

    return Read(read, _TEXT_SCHEMA | {"pattern": pattern})


def _only(word: str) -> Read:
    def read(node: Any, path: tuple[Step, ...]) -> str:
        if node != word:
            raise _wrong(path, f"it must be {word!r}")
        return word

    return Read(read, {"const": word})


def _or_nothing(inner: Read) -> Read:
    schema = {"anyOf": [inner.schema, {"type": "null"}]}
    return Read(lambda node, path: None if node is None else inner(node, path), schema)


def _list(inner: Read) -> Read:
    def read(node: Any, path: tuple[Step, ...]) -> tuple[Any, ...]:
        if not isinstance(node, Seq):
            raise _wrong(path, "it must be a list")
        values, mistakes = [], list[_Mistake]()
        for index, each in enumerate(node):
            try:
                values.append(inner(each, (*path, index)))
            except _Mistakes as wrong:
                mistakes += wrong.found
        if mistakes:
            raise _Mistakes(mistakes)
        return tuple(values)

    return Read(read, {"type": "array", "items": inner.schema})


def _mapping(kind: type[Any], reads: Mapping[str, Read], said: Mapping[str, Read] = MappingProxyType({})) -> Read:
    """Make a reader of mappings that makes values of ``kind``; fields in ``said`` are checked and not kept."""
    known = {**said, **reads}
    required = [each.name for each in fields(kind) if each.default is MISSING]

    def read(node: Any, path: tuple[Step, ...]) -> Any:
        if not isinstance(node, Map):
            raise _wrong(path, "it must be a mapping")
        values = {}
        mistakes: list[_Mistake] = []
        unknown = [name for name in node if name not in known]
        for name, inner in node.items():
            try:
                if name in unknown:
                    raise _wrong((*path, name), unknown_field(name, list(known)))
                values[name] = known[name](inner, (*path, name))
            except _Mistakes as wrong:
                mistakes += wrong.found
        for name in required:
            if name not in node and not any(nearest(other, [name]) for other in unknown):
                mistakes.append(_Mistake((*path, name), "it is required"))
        if mistakes:
            raise _Mistakes(mistakes)
        return kind(**{name: value for name, value in values.items() if name not in said})

    schema = {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": {name: inner.schema for name, inner in known.items()},
    }
    return Read(read, schema)


_REFERENCE = _parsed(
    Reference.parse, r"^[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]*(/[a-z0-9._-]+)*(:[\w.-]+)?(@[a-z0-9]+:[0-9a-f]+)?$"
)
_MAYBE_REFERENCE = _or_nothing(_REFERENCE)
_RESOLVED: Mapping[str, Read] = {
    "digest": _or_nothing(_parsed(Digest.parse, r"^[a-z0-9]+:[0-9a-f]{32,}$")),
    "size": _or_nothing(_size),
    "stored": _MAYBE_REFERENCE,
}
_TEXTS = _list(_text)
_PACK = _mapping(DefinedPack, {"name": _text, "version": _text})
_PROFILE = _mapping(
    DefinedProfile, {"name": _text, "version": _text, "uid": _text, "type": _text, "packs": _list(_PACK)}
)
_IMAGE = _mapping(
    DefinedImage, {"image": _REFERENCE, "packs": _TEXTS, "platforms": _TEXTS, "guessed": _flag, **_RESOLVED}
)
_CHART = _mapping(
    DefinedChart,
    {
        "repo": _some_text,
        "name": _text,
        "version": _or_nothing(_text),
        "packs": _TEXTS,
        "artifact": _MAYBE_REFERENCE,
        **_RESOLVED,
    },
)
_PATH = _or_nothing(Read(lambda node, path: Path(_read_text(node, path)), _TEXT_SCHEMA))
_ARCHIVE = _mapping(DefinedArchive, {"name": _some_text, "version": _some_text, "path": _PATH, **_RESOLVED})
_FILE = _mapping(DefinedFile, {"artifact": _REFERENCE, "path": _PATH, **_RESOLVED})
_RELEASE = _mapping(Release, {"name": _text, "version": _text, "notes": _text})
_MISSING = _mapping(Missing, {"name": _text, "reason": _text})
_DEFINITION = _mapping(
    Definition,
    {
        "name": _some_text,
        "release": _or_nothing(_RELEASE),
        "profiles": _list(_PROFILE),
        "images": _list(_IMAGE),
        "charts": _list(_CHART),
        "archives": _list(_ARCHIVE),
        "files": _list(_FILE),
        "missing": _list(_MISSING),
    },
    said={"apiVersion": _only(API_VERSION), "kind": _only(KIND)},
)


def _check_digests(definition: Definition) -> None:
    """Raise ``_Mistakes`` for digests that contradict a name or each other."""
    mistakes: list[_Mistake] = []
    digests: dict[str, Digest | None] = {}
    for index, entry in enumerate(definition.images):
        path = ("images", index)
        if entry.digest and entry.image.digest and entry.digest != entry.image.digest:
            mistakes.append(_Mistake(path, f"its digest {entry.digest.short} is not the one in the image's name"))
        name = str(entry.image)
        if digests.setdefault(name, entry.digest) != entry.digest:
            mistakes.append(_Mistake(path, f"{name} is in images twice, with different digests"))
    if mistakes:
        raise _Mistakes(mistakes)
