"""From a registry, or another bundle, into a bundle file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from syncer.api.build import DEFAULT_OUTPUT, check_name
from syncer.api.held import Held, StoredBundle, held_at
from syncer.api.landing import as_landed, without_places
from syncer.api.result import BuildResult, accounts, new_run_id, to_all
from syncer.bundle import Format, open_writer
from syncer.oci import Platform
from syncer.profiles.definition import render_definition
from syncer.registry import Registries, RegistrySettings, open_registries
from syncer.report import Account
from syncer.transfer.events import Emit
from syncer.transfer.run import Options, transfer


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
    workers: int = 32
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
