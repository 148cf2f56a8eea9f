"""``syncer sync``: registry to registry."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from typing import Annotated

import typer

from syncer.api.sources import Sources, Warn, open_sources, sync_settings
from syncer.api.state import hold_lock
from syncer.api.sync import Mirroring, SyncResult, run_sync
from syncer.cli.job import run
from syncer.cli.options import (
    ConnectionOptions,
    DryRunOptions,
    LoginOptions,
    MirrorOptions,
    OutputOptions,
    UploadOptions,
)
from syncer.cli.output import reporting, warn
from syncer.cli.settings import registry_settings, secrets_of, state_directory
from syncer.cli.sync_flags import chart_supplies, console_for, sync_file_of
from syncer.errors import Exit, UsageError
from syncer.formats.units import parse_duration
from syncer.profiles.syncfile.document import Target
from syncer.profiles.syncfile.removals import DeletionLimit
from syncer.profiles.syncfile.sync_file import SyncFile
from syncer.registry import RegistryAddress
from syncer.report import ImageAccount, Status


def sync(
    *,
    wanted: MirrorOptions,
    keep_going: Annotated[
        bool, typer.Option("--keep-going/--fail-fast", help="Whether the rest goes on when an image fails.")
    ] = True,
    prune: Annotated[
        bool, typer.Option("--prune", help="List the tags at the targets that the file no longer names.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: delete those tags.")] = False,
    max_delete: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%",
            help="With --prune --yes: the most tags, or the largest share of a target's tags, that may go in one run. "
            "Default: 10 tags, or 10 % if that is more.",
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="End the run after so long (90s, 30m, 5h); the next one goes on."),
    ] = None,
    dry: DryRunOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Mirror images from registries to registries.

    What is there already costs one question at its source and one at the target. What fails is tried once
    more at the end of the run; running again goes on.
    """
    if yes and not prune:
        raise UsageError("--yes says that what --prune lists may be deleted", hint="give both")
    if max_delete is not None and not yes:
        raise UsageError("--max-delete limits what --prune --yes deletes", hint="give all three")
    file = sync_file_of(wanted)
    state = state_directory(uploading.state_dir)
    address = RegistryAddress.parse(wanted.registry) if wanted.registry else None
    settings = sync_settings(file, registry_settings(connection, login, address, uploading), os.environ)
    console = console_for(settings.transport, is_needed=file.asks_palette)
    profile = wanted.config.stem if wanted.config else str(address)
    how = Mirroring(
        state=state,
        workers=connection.concurrency,
        fail_fast=not keep_going,
        prune=prune,
        delete=yes,
        max_delete=DeletionLimit.parse(max_delete) if max_delete is not None else DeletionLimit(),
        timeout=parse_duration(timeout) if timeout else None,
    )

    def opened(say: Warn) -> AbstractAsyncContextManager[Sources]:
        return open_sources(file, settings, say, supplies=chart_supplies(), console=console, strict=wanted.strict)

    async def look() -> Exit:
        from syncer.api.plan import plan_sync  # noqa: PLC0415  a sync without --dry-run needs none of it
        from syncer.cli.output import tell_plan  # noqa: PLC0415

        async with opened(warn) as sources:
            forecast = await plan_sync(sources, state=state, workers=connection.concurrency, with_prune=prune)
        return tell_plan(forecast, telling, exit_code=dry.exit_code)

    async def mirror() -> Exit:
        with hold_lock(state, str(wanted.config.resolve() if wanted.config else address)):
            with reporting(telling, secrets=[*secrets_of(settings), *(console.secrets if console else ())]) as told:
                if wanted.arch and wanted.referrers:
                    told.warn(
                        "--arch takes one platform out of each index: signatures of the index itself do not apply to it"
                    )
                async with opened(told.warn) as sources:
                    result = await run_sync(
                        sources,
                        how,
                        run_id=told.run_id,
                        emit=told.emit,
                        expect=told.expect,
                        on_cut=lambda report: told.write(report, profile=profile),
                    )
            told.tell("Sync Summary", mirrored(file, result), result.report, profile=profile)
        return result.exit

    run(look if dry.dry_run else mirror)


def mirrored(file: SyncFile, result: SyncResult) -> list[str]:
    """A sentence for each target, and one for a run that was too slow."""
    lines = [_standing(target, result) for target in file.targets]
    if result.timed_out:
        lines.append("the time was up first; run the same command again to go on")
    return lines


def _standing(target: Target, result: SyncResult) -> str:
    address = RegistryAddress.parse(target.registry)
    images = [image for image in result.report.images if image.subject is None and _is_below(image, address)]
    there = sum(image.status in (Status.COPIED, Status.SKIPPED) for image in images)
    return f"{target.registry} has {there:,} of {len(images):,} images"


def _is_below(image: ImageAccount, address: RegistryAddress) -> bool:
    base = f"{address.base}/" if address.base else ""
    return image.target.registry == address.host and image.target.repository.startswith(base)
