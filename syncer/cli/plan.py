"""``syncer plan``: a forecast of a build, a push or a sync."""

from __future__ import annotations

import os
from pathlib import Path

from syncer.api.build import BundleFile
from syncer.api.palette import define
from syncer.api.plan import plan_build, plan_push, plan_sync
from syncer.api.push import Delivery
from syncer.api.sources import sync_settings
from syncer.bundle import BundleUrl, GivenName, bundle_place
from syncer.cli.build_options import select_mirror
from syncer.cli.command import flag, option
from syncer.cli.job import run
from syncer.cli.options import (
    BundleFormat,
    ConnectionOptions,
    LoginOptions,
    MirrorOptions,
    OutputOptions,
    StateOptions,
    as_option,
    json_flag,
)
from syncer.cli.output import print_plan, warn
from syncer.cli.palette import open_console
from syncer.cli.settings import chart_supplies, everyone_of, registry_settings, state_directory
from syncer.cli.sync_flags import find_sync_file, open_named
from syncer.errors import Exit, UsageError
from syncer.registry import RegistrySettings
from syncer.report.forecast import ForecastReport


def plan(
    *,
    file: Path | BundleUrl | None = option(
        "Foresee a push of this bundle, to --registry.", "-f", metavar="BUNDLE|URL", parse=bundle_place
    ),
    as_name: GivenName | None = as_option(),
    mirror: MirrorOptions,
    format: BundleFormat = option(  # noqa: A002  the word of the command line
        "Of the bundle that would be built.", default=BundleFormat.ZSTD
    ),
    exit_code: bool = flag("Exit with 10 when there is work to do."),
    json: bool = json_flag(),
    state: StateOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
) -> None:
    """Say what would be fetched, sent, mounted and skipped, and do none of it.

    With --config, or images and --registry, it is a sync that is foreseen; with --file and --registry a push; with
    images alone a build, and how large its bundle would be.
    """
    if as_name and file is None:
        raise UsageError("--as names what is in an archive, and no --file is given")
    settings = registry_settings(
        connection,
        login,
        mirror.address,
        everyone=everyone_of(file, mirror.everyone),
        include_foreign=mirror.include_foreign,
    )
    workers = connection.concurrency

    async def job() -> Exit:
        if file is not None:
            forecast = await _plan_push(file, as_name, mirror, settings, workers=workers)
        elif mirror.config is not None or mirror.registry is not None:
            forecast = await _plan_sync(mirror, settings, state_directory(state.state_dir), workers=workers)
        else:
            bundle = BundleFile(format=format.value, platform=mirror.arch)
            forecast = await _plan_build(bundle, mirror, settings, workers=workers)
        return print_plan(forecast, OutputOptions(json=json), exit_code=exit_code)

    run(job)


async def _plan_push(
    file: Path | BundleUrl, given: GivenName | None, mirror: MirrorOptions, settings: RegistrySettings, *, workers: int
) -> ForecastReport:
    if mirror.address is None:
        raise UsageError("it is not said where to push to", hint="name it with --registry")
    delivery = Delivery(address=mirror.address, mapping=mirror.map)
    return await plan_push(file, delivery, given=given, settings=settings, workers=workers, warn=warn)


async def _plan_sync(mirror: MirrorOptions, settings: RegistrySettings, state: Path, *, workers: int) -> ForecastReport:
    file = find_sync_file(mirror, os.environ)
    settings = sync_settings(file, settings, os.environ)
    console = open_console(settings.transport, project_id=mirror.project_id) if file.asks_palette else None
    async with open_named(mirror, file, settings, console, warn) as sources:
        return await plan_sync(sources, state=state, workers=workers)


async def _plan_build(
    bundle: BundleFile, mirror: MirrorOptions, settings: RegistrySettings, *, workers: int
) -> ForecastReport:
    selection, referrers = select_mirror(mirror), mirror.along  # a mistake in them is told before any request
    console = open_console(settings.transport, project_id=mirror.project_id) if selection.uids else None
    gathered = await define("bundle", selection, console)
    for warning in (*gathered.warnings, *gathered.unlisted):
        warn(str(warning))
    return await plan_build(
        gathered.definition,
        bundle,
        referrers=referrers,
        supplies=chart_supplies(),
        settings=settings,
        workers=workers,
        warn=warn,
    )
