"""The values of bundle-definition.yaml: the content that a bundle is to hold, and the digests that it got.

The file is written before a build (``--metadata-only``), a build can start from it (``--metadata-file``), and it
travels in the bundle.  Digests in it are binding.  ``definition_file`` reads it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from syncer.formats.yaml_writer import yaml_text
from syncer.oci import Digest, Reference
from syncer.profiles.definition.artifacts import pack_reference

FILE_NAME = "bundle-definition.yaml"
API_VERSION = "syncer/v1"
KIND = "BundleDefinition"

_HEADER = """\
# What the bundle holds. This file may be edited: `syncer build --metadata-file` builds what it says, and a digest
# in it is binding. `packs` only tell who wants a thing.
"""


@dataclass(frozen=True, slots=True, order=True)
class ChartRequest:
    """A chart that a pack requests; without a version, the newest one is meant.

    A name may be written as Helm's commands take it, ``ALIAS/NAME``, with this user's alias of the repository: the
    repository itself knows the name alone.  At an OCI registry the name is a part of a path.
    """

    repo: str
    name: str
    version: str | None = None

    def __post_init__(self) -> None:
        if "/" in self.name and not self.repo.strip().startswith("oci://"):
            object.__setattr__(self, "name", self.name.rpartition("/")[2])

    def __str__(self) -> str:
        return f"{self.name} {self.version or '(newest)'} from {self.repo}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedPack:
    """A pack of a profile."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedProfile:
    """A profile at the time when the definition was made."""

    name: str
    version: str = ""
    uid: str = ""
    type: str = ""
    packs: tuple[DefinedPack, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedImage:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedChart:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedArchive:
    """The archive of a pack itself, which a primary registry serves; ``path`` is the file on this machine."""

    name: str
    version: str
    path: Path | None = None
    digest: Digest | None = None
    size: int | None = None
    stored: Reference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedFile:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """An entry that a partial bundle lacks, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The values of ``--application-release-name``, ``-version`` and ``-notes``."""

    name: str = ""
    version: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
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
        return replace(
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
    if is_dataclass(value) and not isinstance(value, Reference | Digest):
        given = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: _plain(each) for field, each in given if field.default is MISSING or each != field.default}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, int) else str(value)


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
        return replace(entry, stored=None)

    return definition.map_entries(unstored)
