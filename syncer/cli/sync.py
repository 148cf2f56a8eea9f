"""``syncer sync``: registry to registry, by a sync file or by flags that stand for one; ``import`` makes such files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click
from msgspec import Struct, structs

from syncer.api.sources import Leg, Sources, Warn, open_sources, sync_settings
from syncer.api.state import hold_lock
from syncer.api.sync import Mirroring, SyncPlace, SyncResult, plan_sync, run_sync
from syncer.cli.command import argument, flag, option, options, takes
from syncer.cli.job import LONGER_TO_STOP, allow_open_files, import_dask, run
from syncer.cli.options import (
    ConnectionOptions,
    LoginOptions,
    MirrorOptions,
    OutputOptions,
    TransferOptions,
    UploadOptions,
)
from syncer.cli.output import open_reporter, print_plan, tell_waits, warn
from syncer.cli.parser import Heading, Word
from syncer.cli.settings import chart_supplies, known_secrets, registry_settings, state_directory
from syncer.errors import Exit, UsageError, hide
from syncer.formats.units import CountOrShare, Shard, byte_count_or_none, parse_duration
from syncer.naming import Naming
from syncer.profiles.syncfile.document import Source, SyncDocument, Target, check_registry
from syncer.profiles.syncfile.sync_file import SyncFile, read_sync_file
from syncer.profiles.syncfile.tags import MOST_DELETED
from syncer.registry import RegistryAddress, RegistrySettings
from syncer.report import ImageAccount, Status, human_seconds

if TYPE_CHECKING:
    from syncer.api.palette import PaletteConsole


@takes(config=Word(metavar="[FILE]"))
def sync(
    *,
    registry: tuple[RegistryAddress, ...] = options(
        "Where the images go. Repeatable.",
        "-r",
        metavar="HOST[/BASE]",
        parse=RegistryAddress.parse,
        heading=Heading.TARGET,
    ),
    mirror: MirrorOptions,
    shard: str | None = option(
        "The I-th of N shares of the source repositories, one for each machine; auto: as the cluster says.",
        metavar="I/N|auto",
        heading=Heading.TRANSFER,
    ),
    keep_going: bool = flag(
        "Stop at the first image that fails.",
        "--keep-going/--fail-fast",
        default=True,
        heading=Heading.TRANSFER,
    ),
    prune: bool = flag("List the tags at the targets that the file no longer names.", heading=Heading.TARGET),
    yes: bool = flag("With --prune: delete those tags.", heading=Heading.TARGET),
    max_delete: CountOrShare | None = option(
        "With --yes: delete no more tags of a target than this. Default: 10, or 10 % if that is more.",
        metavar="N|P%",
        parse=CountOrShare.parse,
        heading=Heading.TARGET,
    ),
    timeout: float | None = option(
        "Stop after this time (90s, 30m, 5h); the same command goes on.",
        metavar="DURATION",
        parse=parse_duration,
        heading=Heading.TRANSFER,
    ),
    spool_size: int | None = option(
        "Room on this disk for blobs that several targets need; 0: none. Default: 10 GB, or half of what is free.",
        metavar="BYTES",
        parse=byte_count_or_none,
        heading=Heading.TRANSFER,
    ),
    dask: str | None = option(
        "Work from a Dask cluster (tls://HOST:PORT), or from N processes here (local:N).",
        metavar="CLUSTER",
        heading=Heading.TRANSFER,
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

    Examples:
        syncer sync sync.yaml
        syncer sync sync.yaml --timeout 5h --report run.json
        syncer sync sync.yaml --prune --yes
        syncer sync --images-file images.txt -r harbor.example.com/mirror

    More: docs/sync.md
    """
    if yes and not prune:
        raise UsageError("--yes says that what --prune lists may be deleted", hint="give both")
    transfer.refuse_recheck()
    if max_delete is not None and not yes:
        raise UsageError("--max-delete limits what --prune --yes deletes", hint="give all three")
    if dask is not None:
        _check_dask(login, is_forecast=transfer.dry_run, prunes=prune)
    share = Shard.parse(shard, os.environ) if shard else None
    order = SyncOrder(mirror=mirror, registry=registry, connection=connection, upload=upload, shard=share)
    file = order.file(logins_here=dask is None and not login.is_given)
    state = state_directory(upload.state_dir)
    how = Mirroring(
        state=state,
        concurrency=connection.workers,
        recheck=transfer.recheck,
        fail_fast=not keep_going,
        prune=prune,
        delete=yes,
        max_delete=max_delete or MOST_DELETED,
        timeout=timeout,
        spool_size=spool_size,
    )
    if dask is not None:
        run(partial(_sync_there, dask, order, file, how, output), seconds_to_stop=LONGER_TO_STOP)
        return
    settings = order.settings(file, login)
    console = _console(settings, mirror.project_id) if file.asks_palette else None

    def sources_with(say: Warn) -> AbstractAsyncContextManager[Sources]:
        return open_named(mirror, file, settings, console, say, shard=share)

    async def forecast() -> Exit:
        async with sources_with(warn) as sources:
            report = await plan_sync(
                sources,
                state=state,
                concurrency=connection.workers,
                with_prune=prune,
                shares=spool_size != 0,
                emit=tell_waits(output, known_secrets(settings)),
            )
        return print_plan(report, output, exit_code=transfer.exit_code, lists=lists_of(file))

    async def job() -> Exit:
        profile = order.profile
        secrets = [*known_secrets(settings), *(console.secrets if console else ())]
        with (
            open_reporter(
                output, name=profile, targets=targets_of(file), shard=share, secrets=secrets, names=_names(file)
            ) as reporter,
            hold_lock(state, order.subject, reporter.warn) as usable,
        ):
            order.warn(reporter.warn)
            async with sources_with(reporter.warn) as sources:
                result = await run_sync(
                    sources,
                    structs.replace(how, state=usable),
                    run_id=reporter.run_id,
                    emit=reporter.emit,
                    expect=reporter.expect,
                    on_cut=lambda report: reporter.cut(report, profile),
                )
        outcome = _outcome(file, result, share, how.timeout)
        reporter.summarize(
            "Sync Summary", outcome, result.report, profile=profile, code=result.exit, lists=lists_of(file)
        )
        return result.exit

    run(forecast if transfer.dry_run else job)


def _check_dask(login: LoginOptions, *, is_forecast: bool, prunes: bool) -> None:
    if is_forecast:
        raise UsageError("--dry-run sends nothing, so that it needs no cluster", hint="leave --dask out")
    if prunes:
        raise UsageError(
            "no worker knows all that the targets are to have, so that --dask prunes nothing",
            hint="when the sync is through, prune in a run without --dask: what is there costs only HEAD requests",
        )
    login.refuse_for_workers()


class SyncOrder(Struct, frozen=True, kw_only=True):
    """The options that say what is mirrored, and how registries are spoken to."""

    mirror: MirrorOptions
    registry: tuple[RegistryAddress, ...]
    connection: ConnectionOptions
    upload: UploadOptions
    shard: Shard | None

    @property
    def _named(self) -> str:
        return ", ".join(sorted(map(str, self.registry)))

    @property
    def profile(self) -> str:
        """The name of the job in the metrics."""
        return self.mirror.config.stem if self.mirror.config else self._named

    @property
    def subject(self) -> str:
        """The name of its lock."""
        subject = str(self.mirror.config.resolve()) if self.mirror.config else self._named
        return f"{subject}, shard {self.shard}" if self.shard else subject

    def file(self, *, logins_here: bool = True) -> SyncFile:
        """The sync file; raises ``UsageError`` and ``InvalidFile``."""
        return find_sync_file(self.mirror, self.registry, os.environ, logins_here=logins_here)

    def settings(self, file: SyncFile, login: LoginOptions | None = None) -> RegistrySettings:
        """The settings of the registries of ``file``; raises ``UsageError`` and ``InvalidFile``."""
        registries = registry_settings(
            self.connection,
            login,
            find_login_target(login, file) if login else None,
            self.upload,
            everyone=self.mirror.everyone(self.registry),
            include_foreign=self.mirror.include_foreign,
        )
        return sync_settings(file, registries, os.environ)

    def for_workers(self) -> Self:
        """The same for processes of another working directory."""
        return structs.replace(
            self,
            mirror=self.mirror.for_workers(),
            connection=self.connection.for_workers(),
            upload=self.upload.for_workers(),
        )

    def warn(self, warn: Warn) -> None:
        """Warn of what the options do to signatures."""
        if self.mirror.arch and self.mirror.referrers is not False:
            warn("--arch takes one platform out of each index: signatures of the index itself do not apply to it")


def sync_place(order: SyncOrder) -> SyncPlace:
    """Make what a worker needs for a sync: the options of the command that began it, its own file and its own logins.

    Raises ``UsageError`` and ``InvalidFile`` for what is not there.
    """
    allow_open_files()
    mirror, file = order.mirror, order.file()
    settings = order.settings(file)
    hide(known_secrets(settings))  # whoever reads what is sent back does not know them

    def open_leg(leg: Leg, say: Warn) -> AbstractAsyncContextManager[Sources]:
        console = _console(settings, mirror.project_id) if file.asks_palette and not leg.registry else None
        hide(console.secrets if console else ())
        return open_named(mirror, file, settings, console, say, shard=order.shard, leg=leg)

    return SyncPlace(file=file, state=state_directory(order.upload.state_dir), open=open_leg)


async def _sync_there(cluster: str, order: SyncOrder, file: SyncFile, how: Mirroring, output: OutputOptions) -> Exit:
    """Have ``cluster`` mirror; also a run that is stopped tells how far it came."""
    _, sync_there = import_dask(cluster)
    ended: list[SyncResult] = []
    try:
        with (
            open_reporter(
                output, name=order.profile, targets=targets_of(file), shard=order.shard, names=_names(file)
            ) as reporter,
            hold_lock(state_directory(order.upload.state_dir), order.subject, reporter.warn),
        ):
            order.warn(reporter.warn)
            result = await sync_there(
                cluster,
                partial(sync_place, order.for_workers()),
                file,
                how,
                run_id=reporter.run_id,
                emit=reporter.emit,
                warn=reporter.warn,
                expect=reporter.expect,
                on_cut=ended.append,
            )
            ended.append(result)
    finally:  # the display is over
        for each in ended:
            outcome = _outcome(file, each, order.shard, how.timeout)
            reporter.summarize(
                "Sync Summary", outcome, each.report, profile=order.profile, code=each.exit, lists=lists_of(file)
            )
    return result.exit


def _console(settings: RegistrySettings, project_id: str | None) -> PaletteConsole:
    from syncer.cli.palette import open_console  # noqa: PLC0415  slow to import, and images need none of it

    return open_console(settings.transport, project_id=project_id)


def targets_of(file: SyncFile) -> list[RegistryAddress]:
    """The registries that ``file`` mirrors to."""
    return [RegistryAddress.parse(target.registry) for target in file.targets]


def _outcome(file: SyncFile, result: SyncResult, shard: Shard | None, timeout: float | None) -> list[str]:
    """A sentence for each target, and one for a run that was of a share, or too slow."""
    lines = [f"this is shard {shard} of the source repositories"] if shard else []
    lines += [_standing(target, result) for target in file.targets]
    if result.timed_out and timeout is not None:
        lines.append(f"stopped by --timeout after {human_seconds(timeout)}; the next run goes on")
    return lines


def _names(file: SyncFile) -> dict[str, str]:
    """The names that ``file`` gives to hosts which have one target each."""
    hosts = [RegistryAddress.parse(target.registry).host for target in file.targets]
    return {
        host: target.name
        for host, target in zip(hosts, file.targets, strict=True)
        if target.name and hosts.count(host) == 1
    }


def lists_of(file: SyncFile) -> list[Path]:
    """The files that say what is mirrored: ``file`` itself, unless it was made of flags, and those that it names."""
    named = [path for source in file.sources for path in (source.images_file, source.profile_file) if path is not None]
    return [*([file.path] if file.path.is_file() else []), *map(file.beside, named)]


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
    file: Path | None = argument(
        "The other tool's file; syncer finds out which tool's.", metavar="[FILE]", required=False
    ),
    registry: str | None = option(
        "Where to mirror to, if the file does not say.", "-r", metavar="HOST[/BASE]", parse=check_registry
    ),
    auth: Path | None = option("The logins that belong to a file of image-syncer.", metavar="FILE"),
    names_like: Naming | None = option("Give images the names that this tool gives them."),
    listing: bool = flag("List the files that are known.", "--list", fixed=True),
) -> None:
    """Turn another tool's file into a sync file.

    The sync file is printed. What it cannot say is named on stderr, and the exit code is 2.

    Examples:
        syncer import regsync.yml > sync.yaml
        syncer import imageset-config.yaml -r harbor.example.com/mirror > sync.yaml
        syncer import --list

    More: docs/import.md
    """
    from syncer.profiles.imports.importers import FORMATS, import_file  # noqa: PLC0415  a sync needs no importers

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
    leg: Leg | None = None,
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
        leg=leg,
    )


def find_sync_file(
    options: MirrorOptions,
    targets: Sequence[RegistryAddress],
    environment: Mapping[str, str],
    *,
    logins_here: bool = True,
) -> SyncFile:
    """The sync file that the options name, or that they and ``targets`` are themselves.

    The variables of a file are looked up in ``environment``; see ``read_sync_file`` about ``logins_here``.
    Raises ``UsageError`` and ``InvalidFile``.
    """
    if options.config is None:
        return _make_sync_file(options, targets)
    if options.image or options.images_file or options.profiles or options.profile_file or targets:
        raise UsageError(
            "what to mirror is said by --config or by other flags, not by both",
            hint="put it into the file (docs/sync.md); a list of images is given by --images-file",
        )
    along = options.along if options.says_along else None
    file = read_sync_file(options.config, environment, logins_here=logins_here)
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
            "there is nothing to mirror" if not sources else "a sync needs a target",
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
