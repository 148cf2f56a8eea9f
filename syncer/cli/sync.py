"""``syncer sync``: registry to registry, by a sync file or by flags that stand for one; ``import`` makes such files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import structs

from syncer.api.sources import Sources, Warn, open_sources, sync_settings
from syncer.api.state import hold_lock
from syncer.api.sync import Mirroring, SyncResult, run_sync
from syncer.cli.command import argument, flag, option, options
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
from syncer.cli.settings import chart_supplies, known_secrets, registry_settings, state_directory
from syncer.errors import Exit, UsageError
from syncer.formats.units import CountOrShare, Shard, byte_count_or_none, parse_duration
from syncer.profiles.imports.importers import FORMATS, Naming, import_file
from syncer.profiles.syncfile.document import Source, SyncDocument, Target, check_registry
from syncer.profiles.syncfile.sync_file import SyncFile, read_sync_file
from syncer.profiles.syncfile.tags import MOST_DELETED
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


def import_(
    *,
    file: Path | None = argument("The other tool's file; which tool's is found out.", metavar="FILE", required=False),
    registry: str | None = option(
        "Where to mirror to, if the file does not say.", "-r", metavar="HOST[:PORT][/BASE]", parse=check_registry
    ),
    auth: Path | None = option("The logins that belong to a file of image-syncer's.", metavar="FILE"),
    names_like: Naming | None = option("Give images the names at the target that this tool gives them."),
    listing: bool = flag("List the files that are known, and stop.", "--list"),
) -> None:
    """Print a sync file that does what another tool's file does.

    What cannot be carried over is named on stderr, and the exit code is 2.
    """
    if listing:
        width = max(map(len, FORMATS))
        click.echo("\n".join(f"{name:{width}}  {what}" for name, what in FORMATS.items()))
        return
    if file is None:
        raise UsageError("a FILE is missing", hint="syncer import --list names the files that are known")
    imported = import_file(file, registry=registry, logins=auth, names_like=names_like)
    click.echo(imported.text, nl=False)
    for refusal in imported.refusals:
        click.echo(f"error: {refusal}", err=True)
    if imported.refusals:
        click.echo("hint: the printed file does less than the other one; say these things in another way", err=True)
        raise click.exceptions.Exit(Exit.USAGE)


_PLACE = Path("the command line")  # where sources stand, for warnings and reports; paths are relative to here


def open_named(
    options: MirrorOptions,
    file: SyncFile,
    settings: RegistrySettings,
    console: PaletteConsole | None,
    say: Warn,
    *,
    shard: Shard | None = None,
) -> AbstractAsyncContextManager[Sources]:
    """Open the sources of ``file``, which the options name, with all that a command line has for them."""
    return open_sources(
        file,
        settings,
        say,
        supplies=chart_supplies(),
        console=console,
        strict=options.strict,
        environment=os.environ,
        shard=shard,
    )


def find_sync_file(
    options: MirrorOptions, targets: Sequence[RegistryAddress], environment: Mapping[str, str]
) -> SyncFile:
    """The sync file that the options name, or that they and ``targets`` are themselves.

    The variables of a file are looked up in ``environment``.  Raises ``UsageError`` and ``InvalidFile``.
    """
    if options.config is None:
        return _make_sync_file(options, targets)
    if options.image or options.images_file or options.profiles or options.profile_file or targets:
        raise UsageError(
            "what to mirror is said by --config or by other flags, not by both",
            hint="put it into the file (docs/sync.md)",
        )
    along = options.along if options.says_along else None
    file = read_sync_file(options.config, environment)
    return file.with_defaults(platform=options.arch, referrers=along, mapping=options.map)


def find_login_target(login: LoginOptions, file: SyncFile) -> RegistryAddress | None:
    """The one target of ``file``, whose login ``login`` is; None for a file with several.

    Raises ``UsageError`` for a login beside several targets.
    """
    if len(file.targets) == 1:
        return RegistryAddress.parse(file.targets[0].registry)
    login.require_one_registry()
    return None


def _make_sync_file(options: MirrorOptions, targets: Sequence[RegistryAddress]) -> SyncFile:
    sources = tuple(_sources(options))
    if not sources or not targets:
        raise UsageError(
            "there is nothing to mirror" if not sources else "it is not said where to mirror to",
            hint="name a sync file with --config, or images with --image and their target with --registry",
        )
    for number, address in enumerate(targets):
        if str(address) in map(str, targets[:number]):
            raise UsageError(f"the registry {address} is named twice")
    document = SyncDocument(
        sources=sources,
        targets=tuple(Target(registry=address.written) for address in targets),
        platforms=(options.arch,) if options.arch else (),
        referrers=options.along,
        map={rule.prefix: rule.replacement for rule in options.map.rules},
    )
    return SyncFile.of(document, _PLACE)


def _sources(options: MirrorOptions) -> Iterator[Source]:
    for reference in options.image:
        yield Source(image=reference)
    for path in options.images_file:
        yield Source(images_file=path)
    for path in options.profile_file:
        yield Source(profile_file=path)
    if options.profiles:
        yield Source(profiles=options.profiles, project_id=options.project_id or None)
