"""Deltas: what a build leaves out, and at the target the look for all of it before anything is sent (docs/delta.md)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from syncer.api.bundles import Warn, open_checked, parse_travelled
from syncer.api.result import for_each
from syncer.bundle import AssumedBlob, Assumption, Bundle, BundleView, Witness
from syncer.content import Blob, Item
from syncer.errors import InvalidContent, InvalidFile, NotFound, SyncerError, UsageError, VerificationError
from syncer.files import reading
from syncer.formats.text import MAX_TEXT_SIZE, decode_text, parse_json
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest, Descent, Index, Takes, never
from syncer.profiles.definition.definition import DefinedChart, DefinedImage, Entry, name_of
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries
from syncer.report.figures import instant
from syncer.transfer.discovery import Discovery, DiscoveryFailure, DiscoveryResult
from syncer.transfer.memory import Contents, Have, InvalidHave, Memory
from syncer.transfer.plan import Tree
from syncer.transfer.run import WORKERS

Read: TypeAlias = Callable[[Descriptor], Awaitable[AnyManifest | None]]

_MISSING = "syncer/missing@1"
_YAML = (".yaml", ".yml")
_SHOWN = 3  # blobs that a message names


class AssumedMissing(VerificationError):
    """A registry lacks what a delta takes to be there; nothing was sent.  ``blobs`` are in the order of the bundle."""

    def __init__(self, registry: str, blobs: Sequence[AssumedBlob], checked: int) -> None:
        names = ", ".join(blob.digest.short for blob in blobs[:_SHOWN])
        more = f" and {len(blobs) - _SHOWN:,} more" if len(blobs) > _SHOWN else ""
        super().__init__(
            f"{registry} lacks {len(blobs):,} of the {checked:,} pieces of content that the delta takes to be there: "
            f"{names}{more}; nothing was sent",
            hint="--missing-out FILE lists them, and build --missing FILE makes a bundle of them",
        )
        self.registry = registry
        self.blobs = tuple(blobs)
        self.checked = checked


def render_missing(bundle: str, missing: Iterable[AssumedMissing]) -> dict[str, Any]:
    """The document ``syncer/missing@1``: blobs that registries lack, and which of them lack each (docs/delta.md)."""
    lacking: dict[Digest, tuple[int, list[str]]] = {}
    for error in missing:
        for blob in error.blobs:
            lacking.setdefault(blob.digest, (blob.size, []))[1].append(error.registry)
    return {
        "kind": _MISSING,
        "bundle": bundle,
        "date": instant(datetime.now(UTC), "seconds"),
        "blobs": [
            {"digest": str(digest), "size": size, "registries": registries}
            for digest, (size, registries) in sorted(lacking.items(), key=lambda each: str(each[0]))
        ],
    }


class DeltaSource(BundleView, frozen=True):
    """A delta as a source: what it lacks is read where it was found, should a registry not mount it."""

    registries: Registries
    host: str
    places: Mapping[Digest, str]  # the repository in which each assumed blob was found

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        """See ``content.Source``."""
        place = self.places.get(descriptor.digest)
        if place is None:
            return self.bundle.blob(reference, descriptor)
        return self.registries.blob(Reference(self.host, place, digest=descriptor.digest), descriptor)

    @property
    def left_out(self) -> dict[Digest, Descriptor]:
        """The blobs that were found."""
        assumed = self.bundle.assumed.blobs if self.bundle.assumed else {}
        return {digest: assumed[digest].descriptor for digest in self.places}


async def find_rest(
    delta: Bundle,
    items: Sequence[Item],
    registries: Registries,
    address: RegistryAddress,
    *,
    names: Mapping[Reference, Reference],
    concurrency: int,
) -> DeltaSource:
    """Look at ``address`` for each blob that ``delta`` lacks and ``items`` need, by one HEAD each.

    A blob that is not where an image needs it is looked for where the list of the delta says, and in ``names``: the
    names that original names have there.  Raises ``AssumedMissing`` with all that is nowhere, and what the registry
    raises when it does not tell.
    """
    assert delta.assumed is not None
    assumed = delta.assumed.blobs
    registry = registries.registry(address.host, plain_http=address.plain_http)
    repositories = {original.name: target.repository for original, target in names.items()}
    wanted = await _needed(delta, items)
    found: dict[Digest, str] = {}

    async def look(digest: Digest) -> None:
        descriptor, spaces = wanted[digest]
        for space in _candidates(assumed[digest], spaces, repositories):
            if await registry.repository(space, "pull").find_blob(descriptor):
                found[digest] = space
                return

    await for_each(wanted, look, concurrency)
    if missing := [blob for digest, blob in assumed.items() if digest in wanted and digest not in found]:
        raise AssumedMissing(str(address), missing, len(wanted))
    return DeltaSource(delta, registries, address.host, found)


def _candidates(blob: AssumedBlob, spaces: Iterable[str], repositories: Mapping[str, str]) -> Iterable[str]:
    """The repositories to look into for a blob, the likeliest first."""
    listed = dict.fromkeys([*blob.repositories, *(repositories[name] for name in blob.names if name in repositories)])
    both = [space for space in spaces if space in listed]
    return dict.fromkeys([*both, *spaces, *listed])


async def _needed(bundle: Bundle, items: Sequence[Item]) -> dict[Digest, tuple[Descriptor, dict[str, None]]]:
    """Each blob that ``bundle`` lacks, with the repositories of the target that need it."""
    needed: dict[Digest, tuple[Descriptor, dict[str, None]]] = {}

    async def note(found: DiscoveryResult) -> None:
        match found:
            case Tree(item):
                content: Iterable[Descriptor] = found.content
            case DiscoveryFailure(item):  # the push tells why; of an image whose config is not here all is asked for
                content = [blob async for blob in _blobs_of(bundle, await bundle.manifest(item.source))]
            case _:
                return
        for each in content:
            if bundle.assumes(each.digest) and each.digest not in bundle.digests:
                needed.setdefault(each.digest, (each, {}))[1][item.target.repository] = None

    await Discovery(bundle, Nowhere(), Memory(), None, concurrency=1).run(items, note)
    return needed


class Nowhere:
    """A target at which no name is taken yet."""

    def space(self, name: Reference) -> str:
        return name.repository

    async def current(self, name: Reference) -> Digest | None:  # noqa: ARG002  there is none
        return None


async def blobs_below(
    root: AnyManifest, enter: Read, *, takes: Takes = never, name: str | None = None
) -> AsyncIterator[Descriptor]:
    """The blobs of ``root`` and of the manifests below it that ``enter`` gives; raises ``InvalidContent``."""
    descent = Descent(name, takes=takes)
    descent.enter(root)
    for child, is_manifest in descent:
        if not is_manifest:
            yield child
        elif inner := await enter(child):
            descent.enter(inner)


def _blobs_of(bundle: Bundle, root: AnyManifest) -> AsyncIterator[Descriptor]:
    """The blobs below ``root``, of all platforms; their manifests are in ``bundle``."""

    async def enter(child: Descriptor) -> AnyManifest:
        return bundle.manifest_by_digest(child.digest, child.media_type)

    return blobs_below(root, enter, takes=bundle.brings)


def contents_of(bundle: Bundle, roots: Iterable[Descriptor]) -> Contents:
    """The content of the images ``roots`` of ``bundle``, without that of images which are not in it whole."""
    below: dict[str, list[str]] = {}
    for root in roots:
        found: dict[str, list[str]] = {}
        rest = [root]
        try:
            for descriptor in rest:
                if str(descriptor.digest) in below or str(descriptor.digest) in found:
                    continue
                manifest = bundle.manifest_by_digest(descriptor.digest, descriptor.media_type)
                children = manifest.children()  # and no foreign layers, which a registry need not have
                found[str(descriptor.digest)] = [str(child.digest) for child in children]
                if isinstance(manifest, Index):
                    rest.extend(child for child in children if child.is_manifest)
        except (NotFound, VerificationError):
            continue
        below |= found
    return Contents(below)


def _read_json(path: Path) -> tuple[Any, str, str]:
    """The JSON document at ``path``, its text, and the digest of the file; raises ``InvalidFile``."""
    content = _read_bytes(path)
    text = decode_text(content, path)
    return parse_json(text, path), text, str(Digest.of(content))


def _read_bytes(path: Path) -> bytes:
    with reading(path), path.open("rb") as file:
        return file.read(MAX_TEXT_SIZE + 1)


def _line_of(text: str, key: str) -> int | None:
    """The first line with the JSON text ``key``."""
    at = text.find(json.dumps(key, ensure_ascii=False))
    return text.count("\n", 0, at) + 1 if key and at >= 0 else None


def read_have(path: Path) -> tuple[Have, Witness]:
    """Read the list of ``syncer have`` at ``path``; raises ``InvalidFile``, with the line."""
    document, text, digest = _read_json(path)
    try:
        found = Have.from_json(document)
    except InvalidHave as mistake:
        raise InvalidFile(path, str(mistake), line=_line_of(text, mistake.key)) from None
    registry = f"{found.registry}/{found.base}" if found.base else found.registry
    return found, Witness(digest, found.date, registry, found.mapping or "")


def _read_missing(path: Path) -> tuple[frozenset[Digest], Witness]:
    """The blobs in the document ``syncer/missing@1`` at ``path``; raises ``InvalidFile``."""
    document, text, digest = _read_json(path)
    if not isinstance(document, dict) or document.get("kind") != _MISSING:
        line = _line_of(text, "kind")
        raise InvalidFile(path, f"it is no list of push --missing-out: its kind is not {_MISSING}", line=line)
    blobs = document.get("blobs")
    if not isinstance(blobs, list) or not all(isinstance(blob, dict) for blob in blobs):
        raise InvalidFile(path, "blobs must be a list of objects", line=_line_of(text, "blobs"))
    lacking = set()
    for blob in blobs:
        named = blob.get("digest")
        try:
            lacking.add(Digest.parse(str(named)))
        except InvalidContent as error:
            raise InvalidFile(path, str(error), line=_line_of(text, str(named))) from None
    return frozenset(lacking), Witness(digest, str(document.get("date", "")))


async def find_assumption(
    *,
    lists: Sequence[Path] = (),
    since: Path | None = None,
    missing: Path | None = None,
    settings: RegistrySettings | None = None,
    concurrency: int = WORKERS,
    warn: Warn | None = None,
) -> Assumption | None:
    """The blobs that a target has, by lists of ``syncer have`` or by what it got before; None where nothing is given.

    What all of ``lists`` have is there.  ``since`` is an older bundle, or a definition with digests, whose manifests
    are read at their sources: what cannot be read counts as lacking.  ``missing`` is what a push found to be lacking
    after all; alone it says that all else is there.  Raises ``UsageError`` for lists beside ``since``, ``InvalidFile``
    for a file that is none of these, and ``InvalidBundle``.
    """
    if lists and since:
        raise UsageError(
            "a list of what the target has and an older bundle or definition say the same thing in two ways",
            hint="give either --have or --since; the list knows better",
        )
    found: Assumption | None = None
    if lists:
        found = _combine({path: read_have(path) for path in lists}, warn or _ignore)
    elif since and since.suffix in _YAML:
        found = await _since_definition(since, settings or RegistrySettings(), concurrency, warn or _ignore)
    elif since:
        async with open_checked(since, warn=warn) as bundle:
            found = await _since_bundle(bundle)
    if missing is None:
        return found
    lacking, witness = _read_missing(missing)
    if found is None:
        return Assumption({}, {}, (witness,), lacking, all_but_lacking=True)
    return Assumption(found.places, found.names, (*found.witnesses, witness), lacking)


def _ignore(_: str) -> None:
    """Do nothing."""


def _combine(lists: Mapping[Path, tuple[Have, Witness]], warn: Warn) -> Assumption:
    """The blobs that all of ``lists`` have, with their repositories in each."""
    for path, (have, _) in lists.items():
        if have.problems:
            warn(f"{path} is not complete, so that more travels than need be: {'; '.join(have.problems)}")
    common = set.intersection(*(set(have.blobs) for have, _ in lists.values()))
    places = {
        Digest.parse(digest): tuple(
            sorted({have.place(name) for have, _ in lists.values() for name in have.blobs[digest]})
        )
        for digest in common
    }
    return Assumption(places, {}, tuple(sorted({witness for _, witness in lists.values()})))


async def _since_bundle(bundle: Bundle) -> Assumption:
    """The blobs of an older bundle, whose images were checked to be whole, with the repositories of these."""
    names: dict[Digest, dict[str, None]] = {}
    for image in bundle.images:
        async for blob in _blobs_of(bundle, await bundle.manifest(image.reference)):
            names.setdefault(blob.digest, {})[image.reference.name] = None
    return Assumption({}, _named(names), (Witness(str(bundle.index_digest)),))


async def _since_definition(path: Path, settings: RegistrySettings, concurrency: int, warn: Warn) -> Assumption:
    """The blobs of what a definition names by digest, as far as their sources still give the manifests."""
    content = _read_bytes(path)
    definition = parse_travelled(content, path)
    named = {entry: place for entry in definition.entries if (place := _source_of(entry))}
    if not named:
        raise InvalidFile(
            path, "it has no digests", hint="build --metadata-only --lock records them, and so does every bundle"
        )
    unread = {str(name_of(entry)): "its source is not known" for entry in definition.entries if entry not in named}
    names: dict[Digest, dict[str, None]] = {}

    async with open_registries(settings) as registries:
        registries.settle(named.values())

        async def read(place: Reference) -> None:
            async def enter(child: Descriptor) -> AnyManifest:
                return await registries.manifest(place.at(child.digest))

            try:
                root = await registries.manifest(place)
                async for blob in blobs_below(root, enter, takes=registries.brings):
                    names.setdefault(blob.digest, {})[place.name] = None
            except SyncerError as error:
                unread[str(place)] = str(error)

        await for_each(dict.fromkeys(named.values()), read, concurrency)
    if unread:
        first = min(unread)
        warn(
            f"{len(unread)} of the {len(definition.entries)} entries of {path} could not be read, "
            f"and count as lacking: {first}: {unread[first]}"
        )
    return Assumption({}, _named(names), (Witness(str(Digest.of(content))),))


def _source_of(entry: Entry) -> Reference | None:
    """The place at a registry of what ``entry`` names by digest; None where there is none."""
    if entry.digest is None:
        return None
    if isinstance(entry, DefinedImage):
        return entry.reference
    if isinstance(entry, DefinedChart) and entry.artifact and entry.repo.strip().startswith("oci://"):
        return entry.artifact.at(entry.digest)
    return None


def _named(names: Mapping[Digest, Mapping[str, None]]) -> dict[Digest, tuple[str, ...]]:
    return {digest: tuple(sorted(found)) for digest, found in names.items()}
