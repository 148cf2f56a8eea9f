"""What a bundle is to hold, and what it turned out to hold: the values of bundle-definition.yaml.

It is written before a build (``--metadata-only``), built from (``--metadata-file``), and travels in the bundle.
Digests in it are binding.  ``definition_file`` reads it.
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
    """A chart as a pack asks for it; no version means the newest one."""

    repo: str
    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version or '(newest)'} from {self.repo}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedPack:
    """A pack that a profile has."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedProfile:
    """A profile, as it was when the definition was made."""

    name: str
    version: str = ""
    uid: str = ""
    type: str = ""
    packs: tuple[DefinedPack, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedImage:
    """An image and the packs that want it; what it resolved to, once that is known.

    ``size`` counts the bytes of everything that the digest names, ``stored`` is where a push put the image.
    """

    image: Reference
    packs: tuple[str, ...] = ()
    digest: Digest | None = None
    platforms: tuple[str, ...] = ()
    size: int | None = None
    stored: Reference | None = None

    @property
    def reference(self) -> Reference:
        """What to ask for: the name, bound to the digest if there is one."""
        return replace(self.image, digest=self.digest or self.image.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedChart:
    """A chart and the packs that want it; its name and digest as an artifact, once it is resolved."""

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
    """The archive of a pack itself, which a primary registry serves; ``path`` is where it lies on this machine."""

    name: str
    version: str
    path: Path | None = None
    digest: Digest | None = None
    size: int | None = None
    stored: Reference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedFile:
    """A file that travels along as it is, such as a cluster definition; ``path`` as above."""

    artifact: Reference
    path: Path | None = None
    digest: Digest | None = None
    size: int | None = None
    stored: Reference | None = None


Entry: TypeAlias = DefinedImage | DefinedChart | DefinedArchive | DefinedFile
AnEntry = TypeVar("AnEntry", DefinedImage, DefinedChart, DefinedArchive, DefinedFile)


class Change(Protocol):
    """Makes another entry of one, of the same kind; None where there is to be none."""

    def __call__(self, entry: AnEntry, /) -> AnEntry | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Something that a partial bundle lacks, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What ``--application-release-name``, ``-version`` and ``-notes`` say."""

    name: str = ""
    version: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """All that a bundle is to hold, in the order of the profiles."""

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
        """Everything, in the order in which a bundle holds it."""
        return [*self.images, *self.charts, *self.archives, *self.files]

    def map_entries(self, change: Change) -> Definition:
        """The definition whose entries are what ``change`` makes of these."""
        return replace(
            self,
            images=_map_entries(self.images, change),
            charts=_map_entries(self.charts, change),
            archives=_map_entries(self.archives, change),
            files=_map_entries(self.files, change),
        )

    def tree(self) -> dict[str, Any]:
        """The document that the file is, of plain values; what has its default is left out."""
        return {"apiVersion": API_VERSION, "kind": KIND, **_plain(self)}


def render_definition(definition: Definition) -> str:
    """The file's text; the same definition always gives the same text, and ``parse_definition`` reads it back."""
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
    """What an entry of a definition is called in a bundle; None for a chart that was never resolved."""
    match entry:
        case DefinedImage():
            return entry.image
        case DefinedArchive():
            return pack_reference(entry.name, entry.version)
        case _:
            return entry.artifact


def drop_stored_names(definition: Definition) -> Definition:
    """``definition`` as it travels in a bundle: no registry that it was once pushed to is in it."""

    def unstored(entry: AnEntry) -> AnEntry:
        return replace(entry, stored=None)

    return definition.map_entries(unstored)
