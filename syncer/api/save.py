"""The save of a bundle from a registry into a file, the copy between any two places, and the merge of two files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from anyio import to_thread
from msgspec import structs

from syncer.api.build import BundleFile, check_name
from syncer.api.bundles import (
    BundleSource,
    Warn,
    find_in_file,
    find_in_registry,
    oddities,
    open_checked,
    read_definition_at,
    read_definition_in,
    require_base,
    require_names,
)
from syncer.api.definitions import StoredBundle, record_stored_names
from syncer.api.push import Delivery, deliver, push_file
from syncer.api.result import BuildResult, PushResult, Run, RunOptions
from syncer.bundle import Bundle, BundleView, GivenName, find_level, open_archive
from syncer.content import Blob
from syncer.errors import NameMissing, NotFound
from syncer.naming import REPOSITORY
from syncer.oci import Descriptor, Reference
from syncer.profiles.definition.definition import Definition, drop_stored_names
from syncer.profiles.definition.definition_file import read_definition
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries

_YAML = (".yaml", ".yml")


async def save(
    source: str | StoredBundle,
    file: BundleFile,
    *,
    annotations: Mapping[str, str] | None = None,
    settings: RegistrySettings | None = None,
    options: RunOptions | None = None,
) -> BuildResult:
    """Make the bundle again whose definition was pushed as ``source``, such as ``HOST/bundle-definition:NAME``.

    With ``annotations`` only images that have them are fetched.  Raises ``NotFound``, ``Denied`` and
    ``InvalidContent`` for the definition, and as ``build`` does for the file.
    """
    stored = StoredBundle.parse(source) if isinstance(source, str) else source
    async with open_registries(settings or RegistrySettings()) as registries:
        bundle = await find_in_registry(stored, registries, annotations)
        return await _write(bundle, file, registries, options=options)


async def _write(
    bundle: BundleSource, file: BundleFile, registries: Registries | None = None, *, options: RunOptions | None
) -> BuildResult:
    """Bring ``bundle`` into a file; ``registries`` are those that it lies in, if it does."""
    name = bundle.definition.name
    check_name(name)
    platforms = (file.platform,) if file.platform else ()
    items = [structs.replace(item, platforms=platforms) for item in bundle.items]
    run = Run(options, fetches=registries is not None, sends=False)
    async with file.open(name) as writer:
        with run.telling_if_cut(registries, name):
            await run.transfer(items, bundle.source, writer, registries)
        report = run.report(registries)

        def define() -> Definition:
            unchanged = {item.target: item.target for item in items}
            return drop_stored_names(record_stored_names(bundle.definition, unchanged, report.images))

        with run.telling_if_cut(registries, name):
            return await file.publish(writer, name, report, define, run.emit)


async def copy(
    source: Path | StoredBundle,
    target: BundleFile | Delivery,
    *,
    annotations: Mapping[str, str] | None = None,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    options: RunOptions | None = None,
) -> BuildResult | PushResult:
    """Bring a bundle from ``source`` to ``target``; with ``annotations`` only the images that have them.

    ``given`` names what has no name in a file.  Raises as ``push`` and ``save`` do.
    """
    if isinstance(source, StoredBundle) and isinstance(target, BundleFile):
        return await save(source, target, annotations=annotations, settings=settings, options=options)
    if isinstance(source, StoredBundle):
        assert isinstance(target, Delivery)
        async with open_registries(settings or RegistrySettings()) as registries:
            bundle = await find_in_registry(source, registries, annotations)
            run = Run(options, fetches=True, sends=True)
            return await deliver(bundle, registries, target, run, name=bundle.definition.name)
    if isinstance(target, Delivery):
        return await push_file(source, target, annotations=annotations, given=given, settings=settings, options=options)
    async with open_checked(source, given, warn=options.warn if options else None) as opened:
        return await _write(find_in_file(opened, annotations), target, options=options)


async def find_definition(
    place: Path | StoredBundle, settings: RegistrySettings | None = None, *, warn: Warn | None = None
) -> Definition:
    """The definition of the bundle or archive at ``place``, or in the YAML file there; ``warn`` is told what is odd.

    Raises ``InvalidFile`` for a definition that cannot be read, ``InvalidBundle`` for a file that is no bundle,
    ``UsageError`` for one in which no image has a name, ``NotFound``, ``Denied`` and ``InvalidContent`` for one in a
    registry.
    """
    if isinstance(place, Path) and place.suffix in _YAML:
        return read_definition(place)
    if isinstance(place, Path):
        async with open_archive(place, may_lack=True) as bundle:
            require_names(bundle)
            if warn:
                for oddity in oddities(bundle):
                    warn(oddity)
            return drop_stored_names(read_definition_in(bundle))
    async with open_registries(settings or RegistrySettings()) as registries:
        return await read_definition_at(place, registries)


async def list_bundles(repository: RegistryAddress, settings: RegistrySettings | None = None) -> list[str]:
    """The bundles whose definitions were pushed to ``repository`` (``HOST/BASE/bundle-definition``), sorted.

    ``repository`` may be the registry of a push as well (``HOST/BASE``): where it has no tags itself, those of its
    ``bundle-definition`` are listed.  Raises ``NotFound`` and ``Denied``.
    """
    places = [repository] if repository.base else []
    if repository.base.rpartition("/")[2] != REPOSITORY:
        places.append(structs.replace(repository, base=f"{repository.base}/{REPOSITORY}".strip("/")))
    missing: NotFound | None = None
    async with open_registries(settings or RegistrySettings()) as registries:
        registry = registries.registry(repository.host, plain_http=repository.plain_http)
        for place in places:
            try:
                tags = sorted([tag async for tag in registry.repository(place.base).tags()])
            except NotFound as error:
                missing = error
                continue
            if tags:
                return [f"{place}:{tag}" for tag in tags]
    if missing:
        message = f"there are no bundles at {' or '.join(map(str, places))}"
        raise NameMissing(message, missing, hint="a push of a bundle puts it there, at the path that it is pushed to")
    return []


class _Merged(BundleView, frozen=True):
    """A delta as a source, with an older bundle for what it lacks."""

    base: Bundle

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        bundle = self.bundle if descriptor.digest in self.bundle.digests else self.base
        return bundle.blob(reference, descriptor)


async def merge(base: Path, delta: Path, file: BundleFile, *, options: RunOptions | None = None) -> BuildResult:
    """Write the whole bundle that ``delta`` was made of, byte for byte, with what it lacks out of ``base``.

    Raises ``UsageError`` for a bundle that is no delta, ``InvalidBundle`` when ``base`` lacks some of it, and as
    ``build`` does for the file.
    """
    warn = options.warn if options else None
    async with (
        open_checked(base, warn=warn) as old,
        open_checked(delta, may_lack=True, warn=warn) as new,
    ):
        require_base(new, old)
        chosen = find_in_file(new)
        name = chosen.definition.name
        run = Run(options, fetches=False, sends=False)
        level = await to_thread.run_sync(find_level, new)
        async with structs.replace(file, compression_level=level).open(name) as writer:
            await run.transfer(list(chosen.items), _Merged(new, old), writer, None)
            report = run.report()
            path = file.path(name)
            if report.failures:
                return BuildResult(path=None, partial=path, report=report, bundle=name)
            published = await writer.publish(new.definition or b"")
    return BuildResult(
        path=path, partial=None, report=report, bundle=name, size=published.size, padding=published.padding
    )
