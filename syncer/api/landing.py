"""Bringing content into a registry, and after it the definition that says what belongs together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from syncer.api.target import OpenTarget
from syncer.content import Item, Source
from syncer.errors import SyncerError
from syncer.oci import Platform, Reference
from syncer.profiles.artifact import FILES_HOST, PACKS, PACKS_HOST, definition_artifact, pack_reference, tag_of
from syncer.profiles.definition import (
    AnEntry,
    DefinedArchive,
    DefinedImage,
    Definition,
    Entry,
    Missing,
    render_definition,
)
from syncer.profiles.mapping import MappingRule, NameMapping
from syncer.profiles.spool import open_spool
from syncer.registry import RegistryAddress
from syncer.report import ImageAccount, Status
from syncer.transfer.events import Emit, Event, ImageFailed
from syncer.transfer.run import Options, transfer

REPOSITORY = "bundle-definition"
"""Where definitions are, below the base path that a bundle is pushed to; the bundle's name is the tag."""


def landing(mapping: NameMapping | None, base: str) -> NameMapping:
    """``mapping``, and that packs and files, which come from no registry, lie right below the base path.

    A base path that ends in ``spectro-packs`` itself, as the project of a primary registry, is not repeated.
    """
    packs = f"{PACKS_HOST}/{PACKS}" if base.rpartition("/")[2] == PACKS else PACKS_HOST
    rules = (mapping or NameMapping()).rules
    taken = {rule.prefix.partition("/")[0] for rule in rules}
    usual = [MappingRule(prefix, "") for prefix in (packs, FILES_HOST) if prefix.partition("/")[0] not in taken]
    return NameMapping.of([*rules, *usual])


def name_of(entry: Entry) -> Reference | None:
    """What an entry of a definition is called in a bundle; None for a chart that was never resolved."""
    match entry:
        case DefinedImage():
            return entry.image
        case DefinedArchive():
            return pack_reference(entry.name, entry.version)
        case _:
            return entry.artifact


async def land(
    items: Sequence[Item],
    named: Mapping[Reference, Reference],
    source: Source,
    opened: OpenTarget,
    *,
    platform: Platform | None = None,
    workers: int,
    emit: Emit,
) -> None:
    """Bring ``items`` to the names that ``named`` has for their targets."""
    platforms = (platform,) if platform else None
    renamed = [replace(item, target=named[item.target], platforms=platforms or item.platforms) for item in items]
    await transfer(renamed, source, opened.target, options=Options(workers=workers, memory=opened.memory), emit=emit)


async def land_definition(
    definition: Definition, address: RegistryAddress, opened: OpenTarget, *, workers: int
) -> Reference:
    """Push ``definition`` as an artifact, asking once where it is there already; raises ``SyncerError``.

    It is no image, so no account hears of it.
    """
    base = f"{address.base}/" if address.base else ""
    name = Reference(address.host, f"{base}{REPOSITORY}", tag_of(definition.name))
    manifest, blobs = definition_artifact(render_definition(definition).encode())
    failures: list[SyncerError] = []

    def note(event: Event) -> None:
        if isinstance(event, ImageFailed):
            failures.append(event.error)

    with open_spool() as spool:
        for descriptor in manifest.children():
            spool.add_bytes(blobs[descriptor.digest], descriptor.media_type)
        item = Item(spool.add_artifact(name, manifest), name, referrers=False)
        options = Options(workers=workers, memory=opened.memory)
        await transfer([item], spool, opened.target, options=options, emit=note)
    if failures:
        raise failures[0]
    return name


def as_landed(
    definition: Definition, named: Mapping[Reference, Reference], images: Sequence[ImageAccount]
) -> Definition:
    """``definition`` with where each part is stored and under which digest; what did not land is ``missing``."""
    ends = {image.target: image for image in images if image.subject is None and image.status is not Status.FAILED}
    failed = [Missing(name=str(image.source), reason=str(image.error)) for image in images if image.error]

    def landed(entry: AnEntry) -> AnEntry | None:
        return _stored(entry, named, ends) if named.get(_key(entry)) in ends else None

    return replace(definition.changed(landed), missing=(*definition.missing, *failed))


def without_places(definition: Definition) -> Definition:
    """``definition`` as it travels in a bundle: no registry that it was once pushed to is in it."""

    def unstored(entry: AnEntry) -> AnEntry:
        return replace(entry, stored=None)

    return definition.changed(unstored)


def _stored(entry: AnEntry, named: Mapping[Reference, Reference], ends: Mapping[Reference, ImageAccount]) -> AnEntry:
    place = named[_key(entry)]
    end = ends[place]
    landed = replace(entry, stored=place, digest=end.digest)
    if end.digest != entry.digest:  # a platform was taken out of an index on the way
        landed = replace(landed, size=None)
        if isinstance(landed, DefinedImage):
            landed = replace(landed, platforms=tuple(map(str, end.platforms)))
    return landed


_UNKNOWN = Reference("unknown.invalid", "unknown")


def _key(entry: Entry) -> Reference:
    return name_of(entry) or _UNKNOWN
