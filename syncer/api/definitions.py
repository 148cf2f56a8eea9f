"""Definitions before and after a transfer: their parts as items, and the results for these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from syncer.bundle import shown
from syncer.content import Item
from syncer.errors import NotFound
from syncer.naming import REPOSITORY
from syncer.oci import Reference
from syncer.oci.manifest import AnyManifest
from syncer.profiles.definition.definition import (
    AnEntry,
    ChartRequest,
    DefinedArchive,
    DefinedChart,
    DefinedFile,
    DefinedImage,
    Definition,
    Entry,
    Missing,
    name_of,
)
from syncer.registry import Registries
from syncer.report import ImageAccount, Report, Status
from syncer.transfer.events import ImageFailed

Local = TypeVar("Local", DefinedArchive, DefinedFile)


class StoredBundle(Struct, frozen=True):
    """The place that a bundle's definition was pushed to: ``[http://|https://]HOST[:PORT]/BASE/bundle-definition:NAME``."""

    reference: Reference
    plain_http: bool | None = None  # None: the scheme was not given

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse what ``save --source`` takes; raises ``InvalidReference``."""
        scheme, found, rest = text.partition("://")
        is_url = bool(found) and scheme.lower() in ("http", "https")
        return cls(Reference.parse(rest if is_url else text), scheme.lower() == "http" if is_url else None)

    def at(self, registries: Registries) -> Reference:
        """The reference, once ``registries`` know how its registry is spoken to."""
        registries.registry(self.reference.registry, plain_http=self.plain_http)
        return self.reference

    def __str__(self) -> str:
        return str(self.reference)


class Parts(Struct, frozen=True):
    """The parts of a definition, as items for a transfer."""

    items: list[Item]
    failures: list[ImageFailed] = field(default_factory=list)  # charts and packs that could not be had
    charts: dict[ChartRequest, Reference] = field(default_factory=dict)  # what each is called
    archives: dict[tuple[str, str], Reference] = field(default_factory=dict)
    files: set[Reference] = field(default_factory=set)


def describe_bundle(definition: Definition, parts: Parts, report: Report, sizes: Mapping[Reference, int]) -> Definition:
    """``definition`` with what its parts turned out to be, without those that failed, which are ``missing``.

    It still says where packs and files lie on this machine: see ``drop_local_paths``.
    """
    ends = {image.target: image for image in report.images if image.subject is None}

    def fill_image(image: DefinedImage) -> DefinedImage:
        end = ends[image.image]
        platforms = tuple(map(str, end.platforms))
        return replace(
            image, digest=end.digest, platforms=platforms, size=sizes.get(image.image), stored=None, guessed=False
        )

    def fill_chart(chart: DefinedChart) -> DefinedChart:
        name = parts.charts[chart.request]
        return replace(chart, artifact=name, digest=ends[name].digest, size=sizes.get(name), stored=None)

    def fill_local(entry: Local, name: Reference) -> Local:
        return replace(entry, digest=ends[name].digest, size=sizes.get(name), stored=None)

    def is_there(name: Reference | None) -> bool:
        return name is not None and ends[name].status is not Status.FAILED

    return replace(
        definition,
        images=tuple(fill_image(image) for image in definition.images if is_there(image.image)),
        charts=tuple(fill_chart(chart) for chart in definition.charts if is_there(parts.charts.get(chart.request))),
        archives=tuple(
            fill_local(archive, name)
            for archive in definition.archives
            if (name := parts.archives.get((archive.name, archive.version))) and is_there(name)
        ),
        files=tuple(
            fill_local(file, file.artifact)
            for file in definition.files
            if file.artifact in parts.files and is_there(file.artifact)
        ),
        missing=tuple(map(_missing, report.failures)),
    )


def drop_local_paths(definition: Definition) -> Definition:
    """``definition`` as it may travel, or as it came from elsewhere: nothing in it leads to a file of this machine."""
    return replace(
        definition,
        archives=tuple(replace(archive, path=None) for archive in definition.archives),
        files=tuple(replace(file, path=None) for file in definition.files),
    )


def drop_details(definition: Definition) -> Definition:
    """``definition`` without what only a run that copied an image knows of it, so that it is the same every time."""
    images = (replace(image, platforms=(), size=None) for image in definition.images)
    return replace(definition, images=tuple(images))


def _missing(image: ImageAccount) -> Missing:
    return Missing(name=str(image.source), reason=str(image.error))


def record_stored_names(
    definition: Definition, names: Mapping[Reference, Reference], images: Sequence[ImageAccount]
) -> Definition:
    """``definition`` with where each part is stored and under which digest; what did not land is ``missing``."""
    ends = {image.target: image for image in images if image.subject is None and image.status is not Status.FAILED}
    failed = [_missing(image) for image in images if image.error]

    def store(entry: AnEntry) -> AnEntry | None:
        return _store(entry, names, ends) if names.get(_key(entry)) in ends else None

    return replace(definition.map_entries(store), missing=(*definition.missing, *failed))


def _store(entry: AnEntry, names: Mapping[Reference, Reference], ends: Mapping[Reference, ImageAccount]) -> AnEntry:
    place = names[_key(entry)]
    end = ends[place]
    stored = replace(entry, stored=place, digest=end.digest)
    if end.digest != entry.digest:  # a platform was taken out of an index on the way
        stored = replace(stored, size=None)
        if isinstance(stored, DefinedImage):
            stored = replace(stored, platforms=tuple(map(str, end.platforms)))
    return stored


_UNKNOWN = Reference("unknown.invalid", "unknown")


def _key(entry: Entry) -> Reference:
    return name_of(entry) or _UNKNOWN


async def find_artifact(reference: Reference, registries: Registries) -> AnyManifest:
    """The artifact of a definition that was pushed as ``reference``; raises ``NameMissing``, and ``Denied``."""
    try:
        return await registries.manifest(reference)
    except NotFound as error:
        missing = await registries.explain(reference, error)
        place = reference.name.removesuffix(f"/{REPOSITORY}")
        missing.hint = f"syncer list {place} lists the bundles that are there, as HOST/BASE/{REPOSITORY}:NAME"
        raise missing from None


def lacking(what: str, missing: Sequence[Missing], wanted: int) -> str:
    """Say that ``what``, a bundle, was published without images that are ``missing`` of all that were ``wanted``."""
    names = shown([each.name for each in missing])
    return f"{what} lacks {len(missing)} of {wanted} images, which could not be had when it was built: {names}"
