"""``syncer sync``: registry to registry."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from msgspec import structs

from syncer.api.sources import Sources, Warn, sync_settings
from syncer.api.state import hold_lock
from syncer.api.sync import Mirroring, SyncResult, run_sync
from syncer.cli.command import flag, option, options
from syncer.cli.job import run
from syncer.cli.options import (
    ConnectionOptions,
    LoginOptions,
    MirrorOptions,
    OutputOptions,
    TransferOptions,
    UploadOptions,
)
from syncer.cli.output import open_reporter, print_plan, warn
from syncer.cli.settings import known_secrets, registry_settings, state_directory
from syncer.cli.sync_flags import find_login_target, find_sync_file, open_named
from syncer.errors import Exit, UsageError
from syncer.formats.units import CountOrShare, Shard, byte_count_or_none, parse_duration
from syncer.profiles.syncfile.document import Target
from syncer.profiles.syncfile.removals import MOST_DELETED
from syncer.profiles.syncfile.sync_file import SyncFile
from syncer.registry import RegistryAddress, RegistrySettings
from syncer.report import ImageAccount, Status

if TYPE_CHECKING:
    from syncer.api.palette import PaletteConsole


def sync(
    *,
    registry: tuple[RegistryAddress, ...] = options(
        "Where the images go; may be given many times.",
        "-r",
        metavar="HOST[:PORT][/BASE]",
        parse=RegistryAddress.parse,
    ),
    mirror: MirrorOptions,
    shard: str | None = option(
        "Mirror the I-th of N shares of the source repositories, for a run on several machines; auto finds I in a "
        "cluster.",
        metavar="I/N|auto",
    ),
    keep_going: bool = flag("Whether the rest goes on when an image fails.", "--keep-going/--fail-fast", default=True),
    prune: bool = flag("List the tags at the targets that the file no longer names."),
    yes: bool = flag("With --prune: delete those tags."),
    max_delete: CountOrShare | None = option(
        "With --prune --yes: the most tags, or the largest share of a target's tags, that may go in one run. "
        "Default: 10 tags, or 10 % if that is more.",
        metavar="N|P%",
        parse=CountOrShare.parse,
    ),
    timeout: float | None = option(
        "End the run after so long (90s, 30m, 5h); the next one goes on.", metavar="DURATION", parse=parse_duration
    ),
    spool_size: int | None = option(
        "The most bytes on this disk, in the state directory, of blobs that several targets need, so that each is "
        "fetched once; 0 for none. Default: 10 GB, or half of what the disk has free if that is less.",
        metavar="BYTES",
        parse=byte_count_or_none,
    ),
    transfer: TransferOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    upload: UploadOptions,
    output: OutputOptions,
) -> None:
    """Mirror images from registries to registries.

    What is there already costs one question at its source and one at the target. What fails is tried once
    more at the end of the run; running again goes on.
    """
    if yes and not prune:
        raise UsageError("--yes says that what --prune lists may be deleted", hint="give both")
    transfer.refuse_recheck()
    if max_delete is not None and not yes:
        raise UsageError("--max-delete limits what --prune --yes deletes", hint="give all three")
    share = Shard.parse(shard, os.environ) if shard else None
    file = find_sync_file(mirror, registry, os.environ)
    state = state_directory(upload.state_dir)
    registries = registry_settings(
        connection,
        login,
        find_login_target(login, file),
        upload,
        everyone=mirror.everyone(registry),
        include_foreign=mirror.include_foreign,
    )
    settings = sync_settings(file, registries, os.environ)
    console = _console(settings, mirror.project_id) if file.asks_palette else None
    how = Mirroring(
        state=state,
        workers=connection.concurrency,
        recheck=transfer.recheck,
        fail_fast=not keep_going,
        prune=prune,
        delete=yes,
        max_delete=max_delete or MOST_DELETED,
        timeout=timeout,
        spool_size=spool_size,
    )

    def sources_with(say: Warn) -> AbstractAsyncContextManager[Sources]:
        return open_named(mirror, file, settings, console, say, shard=share)

    async def forecast() -> Exit:
        from syncer.api.plan import plan_sync  # noqa: PLC0415  a sync without --dry-run needs none of it

        async with sources_with(warn) as sources:
            report = await plan_sync(
                sources, state=state, workers=connection.concurrency, with_prune=prune, shares=spool_size != 0
            )
        return print_plan(report, output, exit_code=transfer.exit_code)

    async def job() -> Exit:
        named = ", ".join(sorted(map(str, registry)))
        profile = mirror.config.stem if mirror.config else named
        secrets = [*known_secrets(settings), *(console.secrets if console else ())]
        with open_reporter(output, secrets=secrets) as reporter:
            subject = str(mirror.config.resolve()) if mirror.config else named
            with hold_lock(state, f"{subject}, shard {share}" if share else subject, reporter.warn) as usable:
                if mirror.arch and mirror.referrers is not False:
                    reporter.warn(
                        "--arch takes one platform out of each index: signatures of the index itself do not apply to it"
                    )
                async with sources_with(reporter.warn) as sources:
                    result = await run_sync(
                        sources,
                        structs.replace(how, state=usable),
                        run_id=reporter.run_id,
                        emit=reporter.emit,
                        expect=reporter.expect,
                        on_cut=lambda report: reporter.write(report, profile=profile),
                    )
        reporter.summarize("Sync Summary", _outcome(file, result, share), result.report, profile=profile)
        return result.exit

    run(forecast if transfer.dry_run else job)


def _console(settings: RegistrySettings, project_id: str | None) -> PaletteConsole:
    from syncer.cli.palette import open_console  # noqa: PLC0415  slow to import, and images need none of it

    return open_console(settings.transport, project_id=project_id)


def _outcome(file: SyncFile, result: SyncResult, shard: Shard | None) -> list[str]:
    """A sentence for each target, and one for a run that was of a share, or too slow."""
    lines = [f"this is shard {shard} of the source repositories"] if shard else []
    lines += [_standing(target, result) for target in file.targets]
    if result.timed_out:
        lines.append("the time was up first; run the same command again to go on")
    return lines


def _standing(target: Target, result: SyncResult) -> str:
    address = RegistryAddress.parse(target.registry)
    images = [image for image in result.report.images if image.subject is None and _is_below(image, address)]
    if not images:
        return f"{target.registry}: no source names an image for it, so there was nothing to do"
    there = sum(image.status in (Status.COPIED, Status.SKIPPED) for image in images)
    return f"{target.registry} has {there:,} of {len(images):,} images"


def _is_below(image: ImageAccount, address: RegistryAddress) -> bool:
    base = f"{address.base}/" if address.base else ""
    return image.target.registry == address.host and image.target.repository.startswith(base)
