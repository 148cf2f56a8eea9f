"""``syncer plan``: what a build, a push or a sync would do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from syncer.api.build import BundleFile
from syncer.api.palette import define
from syncer.api.plan import plan_build, plan_push, plan_sync
from syncer.api.push import Delivery
from syncer.api.sources import open_sources, sync_settings
from syncer.cli.job import run
from syncer.cli.options import BundleFormat, ConnectionOptions, LoginOptions, MirrorOptions, OutputOptions
from syncer.cli.output import tell_plan, warn
from syncer.cli.settings import registry_settings, state_directory
from syncer.cli.sync_flags import chart_supplies, console_for, selection_of_flags, sync_file_of
from syncer.errors import Exit, UsageError
from syncer.naming import read_mapping
from syncer.oci import Platform
from syncer.registry import RegistryAddress


def plan(
    *,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", metavar="BUNDLE", help="Foresee a push of this bundle, to --registry."),
    ] = None,
    wanted: MirrorOptions,
    format: Annotated[  # noqa: A002  the word of the command line
        BundleFormat, typer.Option(help="Of the bundle that would be built.")
    ] = BundleFormat.ZSTD,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 10 when there is work to do.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a summary.")] = False,
    state_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where earlier runs left their hints.")] = None,
    login: LoginOptions,
    connection: ConnectionOptions,
) -> None:
    """Say what would be fetched, sent, mounted and skipped, and do none of it.

    With --config, or images and --registry, it is a sync that is foreseen; with --file and --registry a push; with
    images alone a build, and how large its bundle would be.
    """
    address = RegistryAddress.parse(wanted.registry) if wanted.registry else None
    settings = registry_settings(connection, login, address)
    workers = connection.concurrency

    async def look() -> Exit:
        if file is not None:
            if address is None:
                raise UsageError("it is not said where to push to", hint="name it with --registry")
            delivery = Delivery(address=address, mapping=read_mapping(wanted.map or []))
            forecast = await plan_push(file, delivery, settings=settings, workers=workers)
        elif wanted.config is not None or address is not None:
            sync_file = sync_file_of(wanted)
            own = sync_settings(sync_file, settings, os.environ)
            console = console_for(own.transport, is_needed=sync_file.asks_palette)
            supplies = chart_supplies()
            async with open_sources(
                sync_file, own, warn, supplies=supplies, console=console, strict=wanted.strict
            ) as sources:
                forecast = await plan_sync(sources, state=state_directory(state_dir), workers=workers)
        else:
            selection = selection_of_flags(wanted)
            console = console_for(settings.transport, is_needed=bool(selection.uids), project_id=wanted.project_id)
            gathered = await define("bundle", selection, console)
            for warning in (*gathered.warnings, *gathered.unlisted):
                warn(str(warning))
            forecast = await plan_build(
                gathered.definition,
                BundleFile(format=format.value, platform=Platform.parse(wanted.arch) if wanted.arch else None),
                referrers=wanted.along,
                supplies=chart_supplies(),
                settings=settings,
                workers=workers,
            )
        return tell_plan(forecast, OutputOptions(json=json), exit_code=exit_code)

    run(look)
