"""Reading and writing bundle-definition.yaml, which people may edit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from syncer.errors import AlreadyThere, InvalidFile
from syncer.files import is_stream, saving, write_whole
from syncer.formats.models import (
    Mistake,
    Mistakes,
    Place,
    Reader,
    Schema,
    fields_of,
    list_of,
    not_empty,
    or_nothing,
    parsed,
    read_document,
    required_fields,
    text,
    text_schema,
    wrong,
)
from syncer.formats.text import decode_text, read_text
from syncer.formats.yaml import parse_yaml
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


def parse_definition(content: str | bytes, origin: Path | str) -> Definition:
    """Parse a definition from a bundle or a registry, called ``origin`` in errors; see ``read_definition``."""
    written = decode_text(content, origin) if isinstance(content, bytes) else content
    own = _read_own(written)
    if own is not None:
        return own
    tree = parse_yaml(written, origin)
    if tree is None:
        raise InvalidFile(origin, "it is empty, and a bundle definition is expected")
    definition: Definition = read_document(Reader(_read_definition, _DEFINITION.schema), tree, origin)
    return definition


def _read_own(written: str) -> Definition | None:
    """The definition that ``render_definition`` writes as ``written``; None when there is none.

    A push reads one that nobody edited, and to import PyYAML takes longer than all that a push does to it.  No text is
    misread: another one is not what would be written, and is left to PyYAML.
    """
    try:
        definition = _read_definition(_plain_tree(written), ())
    except (Mistakes, ValueError, IndexError):
        return None
    return definition if render_definition(definition) == written else None


_DEEPEST = 16  # blanks before a line; the packs of profiles have ten


def _plain_tree(written: str) -> dict[str, Any]:
    """The document of ``written``, if it needs no quotes; of other texts something else, or ``ValueError``."""
    lines = [line for line in reversed(written.split("\n")) if line and not line.startswith("#")]

    def mapping(indent: str) -> dict[str, Any]:
        node: dict[str, Any] = {}
        if len(indent) > _DEEPEST:
            raise ValueError("it is nested too deep")
        while lines and lines[-1].startswith(indent) and lines[-1][len(indent)] not in " -":
            key, _, value = lines.pop()[len(indent) :].partition(":")
            if value:
                node[key] = value.removeprefix(" ")
            elif lines[-1].startswith(f"{indent}  - "):
                node[key] = sequence(f"{indent}  ")
            else:
                node[key] = mapping(f"{indent}  ")
        return node

    def sequence(indent: str) -> list[Any]:
        node: list[Any] = []
        while lines and lines[-1].startswith(f"{indent}- "):
            entry = lines.pop()[len(indent) + 2 :]
            if ": " in entry or entry.endswith(":"):
                lines.append(f"{indent}  {entry}")
                node.append(mapping(f"{indent}  "))
            else:
                node.append(entry)
        return node

    return mapping("")


def write_definition(definition: Definition, path: Path, *, force: bool = False) -> None:
    """Write ``definition`` to ``path``, whole or not at all.

    Raises ``AlreadyThere`` when the file has another text, which somebody may have edited, unless ``force`` is set.
    Raises ``TargetError`` when it cannot be written.
    """
    content = render_definition(definition).encode()
    with saving(path):
        if not force and path.exists() and not is_stream(path) and path.read_bytes() != content:
            raise AlreadyThere(
                f"{path} is there already, and has other content",
                hint="it may have been edited; replace it with --force",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def definition_schema() -> Schema:
    """The JSON Schema (2020-12) of a definition, made of the readers that read one."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The definition of a bundle of syncer",
        **_DEFINITION.schema,
    }


def _read_size(node: Any, place: Place) -> int:
    try:
        size = int(node)
    except (TypeError, ValueError):
        raise wrong(place, "it must be a whole number") from None
    if size < 0:
        raise wrong(place, "it must be 0 or more")
    return size


def _read_flag(node: Any, place: Place) -> bool:
    if node not in ("true", "false"):
        raise wrong(place, "it must be true or false")
    return bool(node == "true")


_size = Reader(
    _read_size, {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\s*\+?[0-9_]+\s*$"}]}
)
_flag = Reader(_read_flag, {"anyOf": [{"type": "boolean"}, {"enum": ["true", "false"]}]})
__some_text = not_empty(text)


def _only(word: str) -> Reader:
    def read(node: Any, place: Place) -> str:
        if node != word:
            raise wrong(place, f"it must be {word!r}")
        return word

    return Reader(read, {"const": word})


def _mapping(
    kind: type[Struct], reads: Mapping[str, Reader], said: Mapping[str, Reader] = MappingProxyType({})
) -> Reader:
    """Make a reader of mappings that makes values of ``kind``; fields in ``said`` are checked and not kept."""
    known, required = {**said, **reads}, required_fields(kind)

    def read(node: Any, place: Place) -> Any:
        values = fields_of(node, place, known, required)
        return kind(**{name: value for name, value in values.items() if name not in said})

    schema = {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": {name: inner.schema for name, inner in known.items()},
    }
    return Reader(read, schema)


_REFERENCE = parsed(
    Reference.parse,
    text_schema()
    | {"pattern": r"^[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]*(/[a-z0-9._-]+)*(:[\w.-]+)?(@[a-z0-9]+:[0-9a-f]+)?$"},
)
_DIGEST = parsed(Digest.parse, text_schema() | {"pattern": r"^[a-z0-9]+:[0-9a-f]{32,}$"})
_MAYBE_REFERENCE = or_nothing(_REFERENCE)
_RESOLVED: Mapping[str, Reader] = {
    "digest": or_nothing(_DIGEST),
    "size": or_nothing(_size),
    "stored": _MAYBE_REFERENCE,
}
_TEXTS = list_of(text)
_PACK = _mapping(DefinedPack, {"name": text, "version": text})
_PROFILE = _mapping(DefinedProfile, {"name": text, "version": text, "uid": text, "type": text, "packs": list_of(_PACK)})
_IMAGE = _mapping(
    DefinedImage, {"image": _REFERENCE, "packs": _TEXTS, "platforms": _TEXTS, "guessed": _flag, **_RESOLVED}
)
_CHART = _mapping(
    DefinedChart,
    {
        "repo": __some_text,
        "name": text,
        "version": or_nothing(text),
        "packs": _TEXTS,
        "artifact": _MAYBE_REFERENCE,
        **_RESOLVED,
    },
)
_PATH = or_nothing(parsed(Path))
_ARCHIVE = _mapping(DefinedArchive, {"name": __some_text, "version": __some_text, "path": _PATH, **_RESOLVED})
_FILE = _mapping(DefinedFile, {"artifact": _REFERENCE, "path": _PATH, **_RESOLVED})
_RELEASE = _mapping(Release, {"name": text, "version": text, "notes": text})
_MISSING = _mapping(Missing, {"name": text, "reason": text})
_DEFINITION = _mapping(
    Definition,
    {
        "name": __some_text,
        "release": or_nothing(_RELEASE),
        "profiles": list_of(_PROFILE),
        "images": list_of(_IMAGE),
        "charts": list_of(_CHART),
        "archives": list_of(_ARCHIVE),
        "files": list_of(_FILE),
        "missing": list_of(_MISSING),
    },
    said={"apiVersion": _only(API_VERSION), "kind": _only(KIND)},
)


def _read_definition(node: Any, place: Place) -> Definition:
    """The definition, in which no digest contradicts a name or another one."""
    definition: Definition = _DEFINITION(node, place)
    mistakes: list[Mistake] = []
    digests: dict[str, Digest | None] = {}
    for index, entry in enumerate(definition.images):
        path = ("images", index)
        if entry.digest and entry.image.digest and entry.digest != entry.image.digest:
            mistakes.append(Mistake(path, f"its digest {entry.digest.short} is not the one in the image's name"))
        name = str(entry.image)
        if digests.setdefault(name, entry.digest) != entry.digest:
            mistakes.append(Mistake(path, f"{name} is in images twice, with different digests"))
    if mistakes:
        raise Mistakes(mistakes)
    return definition
