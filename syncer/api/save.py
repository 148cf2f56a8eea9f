"""A bundle from a registry into a file, and from anywhere to anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from syncer.api.build import DEFAULT_OUTPUT, check_name
from syncer.api.bundles import Held, StoredBundle, definition_in, held_at, held_in, read_definition_at
from syncer.api.definitions import as_landed
from syncer.api.push import Delivery, deliver, push
from syncer.api.result import BuildResult, PushResult, accounts, new_run_id, to_all
from syncer.bundle import Format, check_structure, open_bundle, open_writer
from syncer.oci import Platform
from syncer.profiles.definition.definition import Definition, render_definition, without_places
from syncer.profiles.definition.definition_file import read_definition
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries
from syncer.report import Account
from syncer.transfer.events import Emit
from syncer.transfer.run import WORKERS, Options, transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What a bundle file is to be like."""

    output: Path = DEFAULT_OUTPUT  # the directory
    file_name: str | None = None  # NAME.tar.zst unless given
    format: Format = "tar.zst"
    compression_level: int = 3
    force: bool = False
    allow_partial: bool = False
    platform: Platform | None = None  # taken out of every index
    workers: int = WORKERS
    run_id: str | None = None
    emit: Emit | None = None


async def save(
    source: str | StoredBundle,
    packing: Packing,
    *,
    annotations: Mapping[str, str] | None = None,
    settings: RegistrySettings | None = None,
) -> BuildResult:
    """Make the bundle again whose definition was pushed as ``source``, such as ``HOST/bundle-definition:NAME``.

    With ``annotations`` only images that have them are fetched.  Raises ``NotFound``, ``Denied`` and
    ``InvalidContent`` for the definition, and as ``build`` does for the file.
    """
    stored = StoredBundle.parse(source) if isinstance(source, str) else source
    async with open_registries(settings or RegistrySettings()) as registries:
        return await pack(await held_at(stored, registries, annotations), packing, registries)


async def pack(held: Held, packing: Packing, registries: Registries | None = None) -> BuildResult:
    """Bring ``held`` into ``OUTPUT/NAME.tar.zst``; ``registries`` are those that it lies in."""
    definition = held.definition
    check_name(definition.name)
    path = packing.output / (packing.file_name or f"{definition.name}.{packing.format}")
    platforms = (packing.platform,) if packing.platform else ()
    items = [replace(item, platforms=platforms) for item in held.items]
    account = Account(run_id=packing.run_id or new_run_id(), fetches=registries is not None, sends=False)
    async with open_writer(
        path, format=packing.format, compression_level=packing.compression_level, force=packing.force
    ) as writer:
        emit = to_all(account, packing.emit)
        await transfer(items, held.source, writer, options=Options(workers=packing.workers), emit=emit)
        report = account.report(accounts(registries.traffic) if registries else ())
        published = packing.allow_partial or not report.failures
        if published:
            same = {item.target: item.target for item in items}
            document = without_places(as_landed(definition, same, report.images))
            await writer.publish(render_definition(document).encode(), allow_partial=True)
    return BuildResult(path=path if published else None, partial=None if published else path, report=report)


_YAML = (".yaml", ".yml")


async def copy(
    source: Path | StoredBundle,
    target: Packing | Delivery,
    *,
    annotations: Mapping[str, str] | None = None,
    settings: RegistrySettings | None = None,
) -> BuildResult | PushResult:
    """Bring a bundle from ``source`` to ``target``; with ``annotations`` only the images that have them.

    Raises as ``push`` and ``save`` do.
    """
    if isinstance(source, Path) and isinstance(target, Delivery):
        return await push(
            source,
            target.address,
            mapping=target.mapping,
            annotations=annotations,
            platform=target.platform,
            settings=settings,
            state=target.state,
            workers=target.workers,
            run_id=target.run_id,
            emit=target.emit,
        )
    if isinstance(source, Path):
        assert isinstance(target, Packing)
        with open_bundle(source) as bundle:
            check_structure(bundle)
            return await pack(held_in(bundle, annotations), target)
    if isinstance(target, Packing):
        return await save(source, target, annotations=annotations, settings=settings)
    async with open_registries(settings or RegistrySettings()) as registries:
        held = await held_at(source, registries, annotations)
        return await deliver(held, registries, target, held.definition.name, fetches=True)


async def find_definition(place: Path | StoredBundle, settings: RegistrySettings | None = None) -> Definition:
    """The definition of the bundle at ``place``, or in the YAML file there; raises as reading it does."""
    if isinstance(place, Path) and place.suffix in _YAML:
        return read_definition(place)
    if isinstance(place, Path):
        with open_bundle(place) as bundle:
            return without_places(definition_in(bundle))
    async with open_registries(settings or RegistrySettings()) as registries:
        return await read_definition_at(place, registries)


async def list_bundles(repository: RegistryAddress, settings: RegistrySettings | None = None) -> list[str]:
    """The bundles whose definitions were pushed to ``repository`` (``HOST/BASE/bundle-definition``), sorted.

    Raises ``NotFound`` and ``Denied``.
    """
    async with open_registries(settings or RegistrySettings()) as registries:
        registry = registries.registry(repository.host, plain_http=repository.plain_http)
        tags = sorted([tag async for tag in registry.repository(repository.base).tags()])
    return [f"{repository}:{tag}" for tag in tags]
