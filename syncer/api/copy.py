"""Bundles from anywhere to anywhere: a file, or a registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from syncer.api.held import StoredBundle, definition_in, held_at, held_in, read_definition_at
from syncer.api.landing import without_places
from syncer.api.push import Delivery, deliver, push
from syncer.api.result import BuildResult, PushResult
from syncer.api.save import Packing, pack, save
from syncer.bundle import check_structure, open_bundle
from syncer.profiles.definition import Definition
from syncer.profiles.definition_file import read_definition
from syncer.registry import RegistryAddress, RegistrySettings, open_registries

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
