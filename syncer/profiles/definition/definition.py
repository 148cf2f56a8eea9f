"""The values of bundle-definition.yaml: the content that a bundle is to hold, and the digests that it got.

The file is written before a build (``--metadata-only``), a build can start from it (``--metadata-file``), and it
travels in the bundle.  Digests in it are binding.  ``definition_file`` reads it.

The text is YAML in the form that people would type.  Most values are names and numbers, which need no quotes: they
are written here, twenty times as fast as by PyYAML.  PyYAML writes the rest, and the result is the text that PyYAML
would write for the whole document.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from msgspec import Struct, structs
from msgspec.structs import replace

from syncer.oci import Digest, Reference
from syncer.profiles.definition.artifacts import pack_reference

FILE_NAME = "bundle-definition.yaml"
API_VERSION = "syncer/v1"
KIND = "BundleDefinition"

_HEADER = """\
# What the bundle holds. This file may be edited: `syncer build --metadata-file` builds what it says, and a digest
# in it is binding. `packs` only tell who wants a thing.
"""

# letters first; or a digit, as an image at an address has it, with a slash somewhere, which no number or time has
_PLAIN = re.compile(r"(?:[A-Za-z]|[0-9](?=[^/]*/))[A-Za-z0-9._/@+-]*(?::[A-Za-z0-9._/@+-]+)*", re.ASCII)
_OTHERS = frozenset({"true", "false", "yes", "no", "on", "off", "null"})  # what YAML 1.1 takes for something else


class ChartRequest(Struct, frozen=True, order=True):
    """A chart that a pack requests; without a version, the newest one is meant.

    A name may be written as Helm's commands take it, ``ALIAS/NAME``, with this user's alias of the repository: the
    repository itself knows the name alone.  At an OCI registry the name is a part of a path.
    """

    repo: str
    name: str
    version: str | None = None

    def __post_init__(self) -> None:
        if "/" in self.name and not self.repo.strip().startswith("oci://"):
            structs.force_setattr(self, "name", self.name.rpartition("/")[2])

    def __str__(self) -> str:
        return f"{self.name} {self.version or '(newest)'} from {self.repo}"


class DefinedPack(Struct, frozen=True, kw_only=True):
    """A pack of a profile."""

    name: str
    version: str = ""


class DefinedProfile(Struct, frozen=True, kw_only=True):
    """A profile at the time when the definition was made."""

    name: str
    version: str = ""
    uid: str = ""
    type: str = ""
    packs: tuple[DefinedPack, ...] = ()


class DefinedImage(Struct, frozen=True, kw_only=True):
    """An image, the packs that want it, and, once it is resolved, its digest and size.

    ``size`` counts the bytes of all content below the digest.  ``stored`` is the name that a push gave the image.
    ``guessed`` is an image that a scan supposes: a build goes on without it if its registry has none of that name.
    """

    image: Reference
    packs: tuple[str, ...] = ()
    digest: Digest | None = None
    platforms: tuple[str, ...] = ()
    size: int | None = None
    stored: Reference | None = None
    guessed: bool = False

    @property
    def reference(self) -> Reference:
        """The reference to fetch: the name, with the digest if there is one."""
        return replace(self.image, digest=self.digest or self.image.digest)


class DefinedChart(Struct, frozen=True, kw_only=True):
    """A chart, the packs that want it, and, once it is resolved, its name and digest as an artifact."""

    repo: str
    name: str = ""
    version: str | None = None
    packs: tuple[str, ...] = ()
    artifact: Reference | None = None
    digest: Digest | None = None
    size: int | None = None
    stored: Reference | None = None

    @property
    def request(self) -> ChartRequest:
        return ChartRequest(self.repo, self.name, self.version)


class DefinedArchive(Struct, frozen=True, kw_only=True):
    """The archive of a pack itself, which a primary registry serves; ``path`` is the file on this machine."""

    name: str
    version: str
    path: Path | None = None
    digest: Digest | None = None
    size: int | None = None
    stored: Reference | None = None


class DefinedFile(Struct, frozen=True, kw_only=True):
    """A file that is put into a bundle as it is, such as a cluster definition; ``path`` is the file on this machine."""

    artifact: Reference
    path: Path | None = None
    digest: Digest | None = None
    size: int | None = None
    stored: Reference | None = None


Entry: TypeAlias = DefinedImage | DefinedChart | DefinedArchive | DefinedFile
AnEntry = TypeVar("AnEntry", DefinedImage, DefinedChart, DefinedArchive, DefinedFile)


class Change(Protocol):
    """A function that turns an entry into another one of the same kind, or into None to leave it out."""

    def __call__(self, entry: AnEntry, /) -> AnEntry | None: ...


class Missing(Struct, frozen=True, kw_only=True):
    """An entry that a partial bundle lacks, and the reason."""

    name: str
    reason: str


class Release(Struct, frozen=True, kw_only=True):
    """The values of ``--application-release-name``, ``-version`` and ``-notes``."""

    name: str = ""
    version: str = ""
    notes: str = ""


class Definition(Struct, frozen=True, kw_only=True):
    """All content that a bundle is to hold, in the order of the profiles."""

    name: str
    release: Release | None = None
    profiles: tuple[DefinedProfile, ...] = ()
    images: tuple[DefinedImage, ...] = ()
    charts: tuple[DefinedChart, ...] = ()
    archives: tuple[DefinedArchive, ...] = ()
    files: tuple[DefinedFile, ...] = ()
    missing: tuple[Missing, ...] = ()

    @property
    def entries(self) -> list[Entry]:
        """All entries, in the order in which a bundle holds them."""
        return [*self.images, *self.charts, *self.archives, *self.files]

    def map_entries(self, change: Change) -> Definition:
        """A definition with the results of ``change`` for each entry; entries for which it gives None are left out."""
        return structs.replace(
            self,
            images=_map_entries(self.images, change),
            charts=_map_entries(self.charts, change),
            archives=_map_entries(self.archives, change),
            files=_map_entries(self.files, change),
        )

    def tree(self) -> dict[str, Any]:
        """The document of the file, made of plain values; fields with their default value are left out."""
        return {"apiVersion": API_VERSION, "kind": KIND, **_plain(self)}


def render_definition(definition: Definition) -> str:
    """The text of the file; the same definition always gives the same text, and ``parse_definition`` reads it."""
    return _HEADER + yaml_text(definition.tree())


def _map_entries(entries: tuple[AnEntry, ...], change: Change) -> tuple[AnEntry, ...]:
    return tuple(made for entry in entries if (made := change(entry)) is not None)


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return value
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Struct) and not isinstance(value, Reference | Digest):
        given = ((name, getattr(value, name), default) for name, default in _defaults(type(value)))
        return {name: _plain(each) for name, each, default in given if each is not default and each != default}
    return str(value)


@cache
def _defaults(kind: type[Struct]) -> tuple[tuple[str, Any], ...]:
    """The fields of ``kind`` with their default values; something that nothing is equal to where there is none."""
    names, defaults = kind.__struct_fields__, kind.__struct_defaults__
    return tuple(zip(names, (*(object() for _ in names[len(defaults) :]), *defaults), strict=True))


def name_of(entry: Entry) -> Reference | None:
    """The name of ``entry`` in a bundle; None for a chart that is not resolved."""
    match entry:
        case DefinedImage():
            return entry.image
        case DefinedArchive():
            return pack_reference(entry.name, entry.version)
        case _:
            return entry.artifact


def drop_stored_names(definition: Definition) -> Definition:
    """``definition`` without stored names, as it travels in a bundle: it does not tell where it was pushed before."""

    def unstored(entry: AnEntry) -> AnEntry:
        return structs.replace(entry, stored=None)

    return definition.map_entries(unstored)


def yaml_text(document: Mapping[str, Any]) -> str:
    """The YAML text of ``document``, made of mappings, lists, texts and whole numbers; keys keep their order."""
    return "".join(_mapping(document, ""))


def _mapping(node: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in node.items():
        if (text := _scalar(value)) is not None:
            yield f"{indent}{key}: {text}\n"
        elif isinstance(value, Mapping) and value:
            yield f"{indent}{key}:\n"
            yield from _mapping(value, f"{indent}  ")
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) and each for each in value):
            yield f"{indent}{key}:\n"
            for each in value:
                yield f"{indent}  - {''.join(_mapping(each, f'{indent}    ')).lstrip(' ')}"
        elif isinstance(value, list) and value and None not in (texts := [_scalar(each) for each in value]):
            yield f"{indent}{key}:\n"
            yield from (f"{indent}  - {text}\n" for text in texts)
        else:
            yield textwrap.indent(_by_pyyaml({key: value}), indent, lambda line: line != "\n")


def _scalar(value: Any) -> str | None:
    """The text of ``value`` without quotes; None when it needs quotes, or is neither a text nor a number."""
    if isinstance(value, str):
        return value if _needs_no_quotes(value) else None
    return str(value) if type(value) is int else None


@lru_cache(10_000)  # the definitions of a fleet's sites have nearly all their texts in common
def _needs_no_quotes(text: str) -> bool:
    return bool(_PLAIN.fullmatch(text)) and text.lower() not in _OTHERS


def _by_pyyaml(document: Mapping[str, Any]) -> str:
    text: str = _dump()(document, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text


@cache
def _dump() -> Callable[..., Any]:
    """PyYAML's ``dump`` with the dumper for our documents."""
    import yaml  # noqa: PLC0415  slow to import, and rarely needed

    class Dumper(yaml.SafeDumper):
        """A dumper that indents lists below their key and never uses anchors."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's
            super().increase_indent(flow, False)  # noqa: FBT003 - PyYAML's

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's
            return True

    def as_block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        """Write a text of several lines as a block, and one with characters of special meaning (U+0085) in quotes."""
        odd = not text.replace("\n", "").isprintable()
        style = '"' if odd else "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, as_block)
    return partial(yaml.dump, Dumper=Dumper)
