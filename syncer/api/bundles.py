"""Bundles as sources: in a file, or spread over a registry under a definition."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Self, TypeAlias

from anyio import to_thread
from msgspec import Struct
from msgspec.structs import replace

from syncer.api.definitions import StoredBundle, drop_local_paths, find_artifact, lacking
from syncer.api.supplies import find_referrers
from syncer.bundle import (
    AssumedBlob,
    Bundle,
    BundleUrl,
    GivenName,
    Image,
    bundle_place,
    check_structure,
    open_archive,
    refuse_delta,
    shown,
)
from syncer.bundle.remote import open_remote
from syncer.content import Item, Source, read_whole
from syncer.errors import InvalidBundle, InvalidContent, InvalidFile, NotFound, UsageError
from syncer.naming import REPOSITORY, complete_mapping, names_at
from syncer.oci import Descriptor, Digest, Index, Reference, parse_manifest
from syncer.oci.manifest import AnyManifest
from syncer.oci.reference import subject_tag
from syncer.profiles.definition.artifacts import contents_layer, definition_artifact, definition_layer, tag_of
from syncer.profiles.definition.definition import (
    AnEntry,
    DefinedChart,
    DefinedImage,
    Definition,
    Missing,
    drop_stored_names,
    name_of,
    render_definition,
)
from syncer.profiles.definition.definition_file import parse_definition
from syncer.registry import Registries
from syncer.transfer.memory import Contents

Warn: TypeAlias = Callable[[str], None]
_PACKED = re.compile(r"\.t(gz|xz|bz2?|zst)$")
_MISSING = b"\nmissing:\n"  # in a definition that has such a list
_MAX_DEFINITION = 32 * 1024 * 1024  # bytes, as in a bundle


class BundleSource(Struct, frozen=True, dict=True):
    """The items of a bundle, with the source that has them; their targets are the names that they have in a bundle.

    The definition is read when it is first asked for, which a push does at its end.
    """

    read: Callable[[], Definition]
    items: tuple[Item, ...]
    source: Source

    @cached_property
    def definition(self) -> Definition:
        return self.read()


def bundle_name(bundle: Bundle | Path | BundleUrl) -> str:
    """The name of a bundle, by its file: ``edge`` for ``edge.tar.zst`` and for ``edge.tgz``."""
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    place = path.absolute() if isinstance(path, Path) else path
    return _PACKED.sub("", place.name.partition(".tar")[0]) or "archive"


@asynccontextmanager
async def open_place(
    place: Path | BundleUrl, given: GivenName | None, registries: Registries | None, *, may_lack: bool = False
) -> AsyncIterator[Bundle]:
    """Open the bundle or archive at ``place``; one on a web server by the transport and the logins of ``registries``.

    Raises as ``open_bundle`` and ``open_remote`` do, and ``UsageError`` for plain HTTP where nobody allowed it.
    """
    if isinstance(place, Path):
        async with open_archive(place, given, may_lack=may_lack) as bundle:
            yield bundle
        return
    if registries is None:
        raise UsageError(f"{place} is an address, where only a file can be read")
    async with open_remote(place, registries.transport, registries.authorizer(place.url), given) as remote:
        refuse_delta(remote, may_lack=may_lack)
        yield remote


def bundle_identity(bundle: Bundle) -> Digest:
    """A digest of all that a bundle lists, of which each piece has its digest: the same for all copies of a bundle."""
    names = [f"{image.name} {image.descriptor.digest}" for image in bundle.images]
    nameless = [f"{each.descriptor.digest}" for each in bundle.nameless]
    return Digest.of("\n".join([*sorted(names), *sorted(nameless)]).encode() + b"\0" + (bundle.definition or b""))


@asynccontextmanager
async def open_checked(
    place: str | Path | BundleUrl,
    given: GivenName | None = None,
    *,
    registries: Registries | None = None,
    may_lack: bool = False,
    warn: Warn | None = None,
) -> AsyncIterator[Bundle]:
    """Open the bundle or archive at ``place``: every image is whole, and names are those that were written.

    ``given`` names the images of another tool's archive that have no full name; ``warn`` is told what is not taken.
    Raises ``UsageError`` when there is no such file, for a delta unless it ``may_lack`` what its target has, and when
    no image in it has a name; ``InvalidBundle``, also for one that lacks all of its images; and as ``open_place`` does.
    """
    async with open_place(bundle_place(place), given, registries, may_lack=may_lack) as bundle:
        await to_thread.run_sync(check_structure, bundle)
        if not bundle.has_digests:  # then only the definition tells whether a name in index.json was altered
            await to_thread.run_sync(check_definition, bundle)
        require_names(bundle)
        require_content(bundle)
        if warn:
            for warning in oddities(bundle):
                warn(warning)
        yield bundle


def opened(
    file: str | Path | BundleUrl | Bundle,
    given: GivenName | None = None,
    *,
    registries: Registries | None = None,
    may_lack: bool = False,
    warn: Warn | None = None,
) -> AbstractAsyncContextManager[Bundle]:
    """Open ``file`` as ``open_checked`` does; a bundle that is open, and was checked then, stays open."""
    if isinstance(file, Bundle):
        refuse_delta(file, may_lack=may_lack)
        return nullcontext(file)
    return open_checked(file, given, registries=registries, may_lack=may_lack, warn=warn)


def require_base(delta: Bundle, base: Bundle) -> None:
    """Raise ``UsageError`` unless ``delta`` is one, and ``InvalidBundle`` unless ``base`` has all that it lacks."""
    if delta.assumed is None:
        raise UsageError(f"{delta.path} is no delta: it has all of its content", hint="take it as it is")
    lacking = [blob for blob in delta.assumed.blobs.values() if not _has_blob(base, blob)]
    if lacking:
        more = f", and {len(lacking) - 1:,} more pieces" if len(lacking) > 1 else ""
        raise InvalidBundle(
            f"{base.path} lacks {lacking[0].digest.short}, which {delta.path} takes out of it{more}",
            findings=[f"it lacks {blob.digest} of {blob.size} bytes" for blob in lacking],
            hint="name the bundle that the delta was made with by --since, or one with all that its target has",
        )


def _has_blob(bundle: Bundle, blob: AssumedBlob) -> bool:
    return blob.digest in bundle.digests and bundle.size(blob.digest) == blob.size


def require_names(bundle: Bundle) -> None:
    """Raise ``UsageError`` for a bundle that holds images, none of which has a full name."""
    if bundle.nameless and not bundle.images:
        count = "an image" if len(bundle.nameless) == 1 else f"{len(bundle.nameless)} images"
        raise UsageError(
            f"{bundle.path} holds {count} without a full name, and nothing else: {shown(bundle.nameless)}",
            hint="push, verify, plan, copy and export take --as NAME:TAG for a file's only image, or --as NAME for "
            "bare tags",
        )


def require_content(bundle: Bundle) -> None:
    """Raise ``InvalidBundle`` for a bundle that was to hold images, and was published without any."""
    if not bundle.images and (problem := lacking_images(bundle)):
        raise InvalidBundle(problem)


def oddities(bundle: Bundle) -> Iterator[str]:
    """The parts of the file of ``bundle`` that are not taken, and what was made anew, one sentence each."""
    yield from (f"{bundle.path}: {note}" for note in bundle.contents.notes)
    if bundle.nameless:
        what = "image that has" if len(bundle.nameless) == 1 else "images that have"
        yield f"{bundle.path} holds {len(bundle.nameless)} {what} no full name, not taken: {shown(bundle.nameless)}"
    if extras := bundle.contents.extras:
        what = "member that is" if len(extras) == 1 else "members that are"
        yield f"{bundle.path} holds {len(extras)} {what} no part of an image layout, not read: {shown(extras)}"
    yield from filter(None, [lacking_images(bundle)])


def missing_in(bundle: Bundle) -> tuple[Sequence[Missing], int]:
    """The images that ``bundle`` was published without (``--allow-partial``), and how many it was to hold."""
    if _MISSING not in (bundle.definition or b""):
        return (), len(bundle.images)  # to parse a definition is slow
    definition = read_usable_definition(bundle)
    return definition.missing, len(definition.entries) + len(definition.missing)


def lacking_images(bundle: Bundle) -> str | None:
    """One sentence about the images that ``bundle`` was published without; None when it has all."""
    missing, wanted = missing_in(bundle)
    more = "to have them, build it again with --force"
    return f"{lacking(str(bundle.path), missing, wanted)}; {more}" if missing else None


def find_in_file(bundle: Bundle, annotations: Mapping[str, str] | None = None) -> BundleSource:
    """The items of the file of ``bundle``; with ``annotations`` only the images that have them.

    Raises ``UsageError`` when no image has them.
    """
    names = _selected(bundle, annotations) if annotations else [image.reference for image in bundle.images]
    if annotations and not names:
        raise _nothing_has_them(read_usable_definition(bundle))

    def read() -> Definition:
        definition = read_usable_definition(bundle)
        return _only(definition, names) if annotations else definition

    return BundleSource(read, tuple(_items_in(bundle, set(names))), bundle)


def _items_in(bundle: Bundle, names: set[Reference]) -> Iterator[Item]:
    """The images called ``names``; what refers to another one says so, since that one must list it at a target."""
    for image in bundle.images:
        if image.reference in names:
            manifest = bundle.manifest_by_digest(image.descriptor.digest, image.descriptor.media_type)
            subject = manifest.subject.digest if manifest.subject else None
            yield Item(image.reference, image.reference, refers_to=subject)


def read_definition_in(bundle: Bundle) -> Definition:
    """The definition that travels in ``bundle``; for what another tool wrote, one that lists its images.

    Raises ``InvalidFile`` for one that is not of our form.
    """
    if bundle.definition is None:
        return _listing(bundle)
    return parse_travelled(bundle.definition, f"{bundle.path} (bundle-definition.yaml)")


def read_usable_definition(bundle: Bundle) -> Definition:
    """Read the definition like ``read_definition_in``; one that cannot be read counts as absent, and images remain."""
    try:
        return read_definition_in(bundle)
    except InvalidFile:
        return _listing(bundle)


def check_definition(bundle: Bundle) -> None:
    """Raise ``InvalidBundle`` unless the definition in ``bundle`` and its index.json tell of the same images.

    Signatures and other referrers are in index.json alone.  A definition that cannot be read says nothing.
    """
    try:
        definition = None if bundle.definition is None else read_definition_in(bundle)
    except InvalidFile:
        return
    if definition is not None and (findings := list(_contradictions(bundle, definition))):
        more = f", and {len(findings) - 1} more things are wrong" if len(findings) > 1 else ""
        raise InvalidBundle(f"{bundle.path} is not sound: {findings[0]}{more}", findings=findings)


def _contradictions(bundle: Bundle, definition: Definition) -> Iterator[str]:
    listed: dict[Reference, list[Image]] = {}
    for image in bundle.images:  # under the names that were written: in older bundles two may be one name of Docker Hub
        listed.setdefault(Reference.parse(image.name), []).append(image)
    defined = {name: entry.digest for entry in definition.entries if (name := name_of(entry))}
    for name, digest in defined.items():
        found = [image.descriptor.digest for image in listed.get(name, ())]
        if not found:
            yield f"its definition names {name}, and its index.json does not"
        elif digest is not None and digest not in found:
            yield f"{name} is {digest} in its definition, and {found[0]} in its index.json"
    for name, images in listed.items():
        if name not in defined and not all(_speaks_about_another(bundle, image) for image in images):
            yield f"its index.json names {name}, and its definition does not"


def _speaks_about_another(bundle: Bundle, image: Image) -> bool:
    if subject_tag(image.reference.tag or ""):
        return True
    return bundle.manifest_by_digest(image.descriptor.digest, image.descriptor.media_type).subject is not None


def _listing(bundle: Bundle) -> Definition:
    images = tuple(DefinedImage(image=image.reference, digest=image.descriptor.digest) for image in bundle.images)
    return Definition(name=bundle_name(bundle), images=images)


async def read_definition_at(stored: StoredBundle, registries: Registries) -> Definition:
    """Fetch the definition that was pushed; raises ``NotFound``, ``Denied`` and ``InvalidContent``."""
    reference = stored.at(registries)
    return await _read_definition(await find_artifact(reference, registries), reference, registries)


async def read_contents_at(stored: StoredBundle, registries: Registries) -> tuple[tuple[Item, ...], Contents]:
    """Fetch what a pushed definition names, and the list of what this consists of, which may be empty.

    Raises as ``read_definition_at`` does.
    """
    reference = stored.at(registries)
    manifest = await find_artifact(reference, registries)
    definition = await _read_definition(manifest, reference, registries)
    listed = contents_layer(manifest)
    contents = Contents.parse(await _read_layer(listed, reference, registries)) if listed else Contents()
    return tuple(_items(definition, stored.reference)), contents


async def _read_definition(manifest: AnyManifest, reference: Reference, registries: Registries) -> Definition:
    content = await _read_layer(definition_layer(manifest, reference), reference, registries)
    return parse_travelled(content, str(reference))


async def _read_layer(layer: Descriptor, reference: Reference, registries: Registries) -> bytes:
    """A layer of a definition's artifact; raises ``InvalidContent``."""
    if layer.size > _MAX_DEFINITION:
        raise InvalidContent(f"{reference}: a definition of {layer.size} bytes is larger than {_MAX_DEFINITION}")
    content = await read_whole(registries.blob(reference, layer))
    if Digest.of(content, layer.digest.algorithm) != layer.digest:
        raise InvalidContent(f"{reference}: its definition is not the one that its digest names")
    return content


def parse_travelled(content: bytes | str, origin: Path | str) -> Definition:
    """Parse a definition that came from elsewhere: nothing in it leads to a file here.  Raises ``InvalidFile``."""
    return drop_local_paths(parse_definition(content, origin))


async def find_in_registry(
    stored: StoredBundle, registries: Registries, annotations: Mapping[str, str] | None = None
) -> BundleSource:
    """The items of the bundle whose definition is at ``stored``; with ``annotations`` only the images that have them.

    Raises ``NotFound``, ``Denied`` and ``InvalidContent`` for the definition, ``UsageError`` when no image has them.
    """
    definition = await read_definition_at(stored, registries)
    items = tuple(_items(definition, stored.reference))
    if annotations:
        items = tuple([item for item in items if await _has(item.source, registries, annotations)])
        if not items:
            raise _nothing_has_them(definition)
        definition = _only(definition, [item.target for item in items])
    definition = drop_stored_names(definition)
    return BundleSource(lambda: definition, items, registries)


def _items(definition: Definition, reference: Reference) -> Iterator[Item]:
    """The parts, at the registry of ``reference`` itself, whatever it was called when they were pushed."""
    base = reference.repository.removesuffix(REPOSITORY).strip("/")
    usual = complete_mapping(None, base)
    for entry in definition.entries:
        name = name_of(entry)
        if name is None:
            raise InvalidContent(f"{reference}: it lists a chart that was never resolved")
        place = entry.stored or usual.target(name, registry=reference.registry, base=base)
        source = replace(place, registry=reference.registry)
        yield Item(
            source.at(entry.digest) if entry.digest else source,
            name,
            referrers=isinstance(entry, DefinedImage | DefinedChart),
        )


def _nothing_has_them(definition: Definition) -> UsageError:
    return UsageError(f"nothing in {definition.name} has these annotations", hint="see them with syncer definition")


def _only(definition: Definition, names: Iterable[Reference]) -> Definition:
    wanted = set(names)

    def choose(entry: AnEntry) -> AnEntry | None:
        return entry if name_of(entry) in wanted else None

    return definition.map_entries(choose)


def _selected(bundle: Bundle, annotations: Mapping[str, str]) -> list[Reference]:
    """The images that have the annotations, with their signatures and other referrers."""
    chosen: dict[Reference, None] = {}
    for image in bundle.images:
        root = bundle.manifest_by_digest(image.descriptor.digest, image.descriptor.media_type)
        if annotations.items() <= {**image.descriptor.annotations, **root.annotations}.items():
            chosen[image.reference] = None
            chosen |= dict.fromkeys(_referring(bundle, image.reference, root))
    return [image.reference for image in bundle.images if image.reference in chosen]


def _referring(bundle: Bundle, reference: Reference, root: AnyManifest) -> Iterator[Reference]:
    """What refers to ``root`` or to a manifest in it, what refers to that, and so on to the end."""
    images = {image.reference: image.descriptor for image in bundle.images}
    met = {reference}
    waiting = [root]
    while waiting:
        manifest = waiting.pop()
        subjects = {manifest.descriptor.digest}
        subjects |= {child.digest for child in manifest.children()} if isinstance(manifest, Index) else set()
        for found in find_referrers(bundle, reference, subjects):
            if found.reference not in met:
                met.add(found.reference)
                yield found.reference
                descriptor = images[found.reference]
                waiting.append(bundle.manifest_by_digest(descriptor.digest, descriptor.media_type))


async def _has(reference: Reference, source: Source, annotations: Mapping[str, str]) -> bool:
    try:
        manifest = await source.manifest(reference)
    except NotFound:
        return True  # what is missing is for the transfer to say
    return annotations.items() <= manifest.annotations.items()


_HERE = "registry.invalid"  # stands for the registry that we are: a client knows its name, and nothing depends on it


class ServedImage(Struct, frozen=True):
    """An image, or the definition."""

    reference: Reference
    descriptor: Descriptor


class ServedBundle(Struct, frozen=True):
    """The content of a bundle, and its definition as an artifact, which lies nowhere in the file."""

    bundle: Bundle
    images: Sequence[ServedImage]
    repositories: Mapping[Reference, str]  # where each image is
    made: Mapping[Digest, bytes]
    base: Bundle | None = None  # of a delta: the bundle that has the rest

    @classmethod
    def of(cls, bundle: Bundle, base: Bundle | None = None) -> Self:
        """Prepare ``bundle`` for being served, a delta with its ``base``.

        Raises ``UsageError`` for names that collide, and as ``require_base`` does.
        """
        if base is not None:
            require_base(bundle, base)
        names = names_at(_HERE, "", (image.reference for image in bundle.images))
        definition = read_usable_definition(bundle)
        manifest, made = definition_artifact(render_definition(definition).encode())
        name = Reference(_HERE, REPOSITORY, tag_of(definition.name))
        images = [ServedImage(image.reference, image.descriptor) for image in bundle.images]
        repositories = {reference: place.repository for reference, place in names.items()}
        return cls(
            bundle,
            [*images, ServedImage(name, manifest.descriptor)],
            {**repositories, name: REPOSITORY},
            {**made, manifest.descriptor.digest: manifest.content},
            base,
        )

    def size(self, digest: Digest) -> int:
        return len(self.made[digest]) if digest in self.made else self._holder(digest).size(digest)

    def read(self, digest: Digest, offset: int = 0, length: int | None = None) -> bytes:
        if digest in self.made:
            return self.made[digest][offset : None if length is None else offset + length]
        return self._holder(digest).read(digest, offset, length)

    def _holder(self, digest: Digest) -> Bundle:
        """The bundle that has the content: of a delta the base has what it lacks, and nothing else counts."""
        return self.base if self.base is not None and self.bundle.assumes(digest) else self.bundle

    def manifest_by_digest(self, digest: Digest, media_type: str | None = None) -> AnyManifest:
        if digest in self.made:
            return parse_manifest(self.made[digest], media_type, expected=digest)
        return self.bundle.manifest_by_digest(digest, media_type)
