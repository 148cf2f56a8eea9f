"""``syncer plan``: a forecast of a build, a push or a sync."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from syncer.api.build import BundleFile
from syncer.api.palette import define
from syncer.api.plan import plan_build, plan_push
from syncer.api.push import Delivery
from syncer.api.sources import sync_settings
from syncer.api.sync import plan_sync
from syncer.bundle import BundleUrl, GivenName
from syncer.cli.build_options import DeltaOptions, select_mirror
from syncer.cli.command import flag, option
from syncer.cli.fleet import SiteOptions, run_fleet
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
    place_of_bundle,
)
from syncer.cli.output import print_plan, tell_waits, warn
from syncer.cli.palette import open_console
from syncer.cli.parser import Heading
from syncer.cli.settings import chart_supplies, everyone_of, registry_settings, state_directory
from syncer.cli.sync import find_login_target, find_sync_file, lists_of, open_named
from syncer.errors import Exit, UsageError
from syncer.formats.units import Shard
from syncer.profiles.syncfile.sync_file import SyncFile
from syncer.registry import RegistryAddress, RegistrySettings
from syncer.report.forecast import ForecastReport
from syncer.transfer.events import Emit


def plan(
    *,
    file: Path | BundleUrl | None = option(
        "Plan a push of this bundle.",
        "-f",
        metavar="BUNDLE|URL",
        parse=place_of_bundle,
    ),
    as_name: GivenName | None = as_option(),
    to: SiteOptions,
    mirror: MirrorOptions,
    delta: DeltaOptions,
    format: BundleFormat = option(  # noqa: A002  the word of the command line
        "The form of the bundle that would be built.", default=BundleFormat.ZSTD, heading=Heading.OUTPUT
    ),
    exit_code: bool = flag("Exit with 10 if there is work to do.", heading=Heading.REPORTING),
    json: bool = json_flag(),
    state: StateOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
) -> None:
    """Show what a build, push or sync would do.

    It tells what would be fetched, sent, mounted and skipped, and does none of it. With --config, or images and
    --registry, it plans a sync; with --file and --registry or --targets-file a push; with images alone a build.

    Examples:
        syncer plan -c sync.yaml
        syncer plan --file edge.tar.zst --registry 10.10.254.254:8000/images
        syncer plan --file edge.tar.zst --targets-file sites.yaml
        syncer plan --images-file images.txt --exit-code

    More: docs/sync.md, docs/fleet.md
    """
    output = OutputOptions(json=json)
    emit = tell_waits(output)
    concurrency = connection.workers
    is_sync = file is None and bool(mirror.config or to.registry)
    if file is None:
        _refuse_sites(to, as_name, is_sync=is_sync)
    if delta.is_given and (file or is_sync):
        raise UsageError("--have, --since and --missing are for a bundle that would be built of images")
    sync_file = None
    if is_sync:
        sync_file = find_sync_file(mirror, to.registry, os.environ, logins_here=not login.is_given)
    settings = registry_settings(
        connection,
        login,
        find_login_target(login, sync_file) if sync_file else to.single,
        everyone=everyone_of(file, mirror.everyone(to.registry)),
        include_foreign=mirror.include_foreign,
    )
    fleet = to.fleet(login, settings, mirror.map) if file and to.is_fleet else None
    runner = to.runner(connection) if fleet else None
    kept = state_directory(state.state_dir)

    async def job() -> Exit:
        if file and fleet:
            sites = structs.replace(to.options(connection), platform=mirror.arch, state=kept)
            return await run_fleet(
                "plan", file, fleet, sites, output, given=as_name, runner=runner, tell_work=exit_code
            )
        if file:
            forecast = await _plan_push(
                file, as_name, to.single, mirror, settings, state=kept, concurrency=concurrency, emit=emit
            )
        elif sync_file:
            shard = Shard.parse(to.shard, os.environ) if to.shard else None
            forecast = await _plan_sync(
                sync_file, mirror, settings, kept, shard=shard, concurrency=concurrency, emit=emit
            )
        else:
            assumption = await delta.assumption(settings, concurrency=concurrency, warn=warn)
            bundle = BundleFile(format=format.value, platform=mirror.arch, assumption=assumption)
            forecast = await _plan_build(bundle, mirror, settings, concurrency=concurrency, emit=emit)
        lists = lists_of(sync_file) if sync_file else () if file else mirror.files
        return print_plan(forecast, output, exit_code=exit_code, lists=lists)

    run(job)


def _refuse_sites(to: SiteOptions, as_name: GivenName | None, *, is_sync: bool) -> None:
    """Raise ``UsageError`` for options that are about a bundle and its sites, and for a share of a build."""
    if as_name:
        raise UsageError("--as names what is in an archive, and no --file is given")
    if replace(to, registry=(), shard=None).is_fleet:
        raise UsageError(
            "options about sites, such as --targets-file and --only, are for a bundle, and no --file is given",
            hint="a sync file names its targets itself (docs/sync.md)",
        )
    if to.shard and not is_sync:
        raise UsageError("--shard takes a share of sites or of a sync, and here a build would be foreseen")


async def _plan_push(
    file: Path | BundleUrl,
    given: GivenName | None,
    address: RegistryAddress | None,
    mirror: MirrorOptions,
    settings: RegistrySettings,
    *,
    state: Path,
    concurrency: int,
    emit: Emit | None,
) -> ForecastReport:
    if address is None:
        raise UsageError("the plan of a push needs a registry", hint="name it with --registry")
    delivery = Delivery(address=address, mapping=mirror.map, platform=mirror.arch, state=state)
    return await plan_push(
        file, delivery, given=given, settings=settings, concurrency=concurrency, warn=warn, emit=emit
    )


async def _plan_sync(
    file: SyncFile,
    mirror: MirrorOptions,
    settings: RegistrySettings,
    state: Path,
    *,
    shard: Shard | None,
    concurrency: int,
    emit: Emit | None,
) -> ForecastReport:
    settings = sync_settings(file, settings, os.environ)
    console = open_console(settings.transport, project_id=mirror.project_id) if file.asks_palette else None
    async with open_named(mirror, file, settings, console, warn, shard=shard) as sources:
        return await plan_sync(sources, state=state, concurrency=concurrency, emit=emit)


async def _plan_build(
    bundle: BundleFile, mirror: MirrorOptions, settings: RegistrySettings, *, concurrency: int, emit: Emit | None
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
        concurrency=concurrency,
        warn=warn,
        emit=emit,
    )
