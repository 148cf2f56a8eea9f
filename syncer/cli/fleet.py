"""Sites on the command line: the options that name them, and what is told of them while they run and afterwards.

Also ``syncer report``, which tells of several runs as of one.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click
import orjson
from msgspec import Struct, structs

from syncer import __version__
from syncer.api.bundles import bundle_name
from syncer.api.delta import AssumedMissing, render_missing
from syncer.bundle import BundleUrl, GivenName
from syncer.cli.command import argument, flag, option, option_group, options
from syncer.cli.display import SitesDisplay, drawing
from syncer.cli.job import allow_open_files, code_of_signal, import_dask
from syncer.cli.options import ConnectionOptions, LoginOptions, OutputOptions, UploadOptions, absolute, json_flag
from syncer.cli.output import (
    EventLog,
    metrics_writer,
    note,
    open_event_log,
    open_screen,
    print_json,
    require_outputs,
    tell_waits,
    warn,
    warn_above,
)
from syncer.cli.parser import Heading
from syncer.cli.settings import known_secrets, registry_settings, state_directory
from syncer.errors import Exit, SyncerError, UsageError, without_secrets
from syncer.fleet import Command, FleetOptions, Runner, Workplace, name_sites, read_targets
from syncer.fleet.result import GO_ON, Account, FleetResult, cause_of, join_fleets, read_account
from syncer.formats.units import CountOrShare, Shard, byte_count, parse_duration
from syncer.naming import NameMapping
from syncer.profiles.syncfile.site import Site
from syncer.registry import RegistryAddress, RegistrySettings
from syncer.report import Report, human_bytes, human_seconds, printable, summary
from syncer.report.account import join_reports
from syncer.report.figures import Part
from syncer.report.summary import (
    Reported,
    Visit,
    block,
    bound_lines,
    heading,
    quantity,
    require_directory,
    require_writable,
    saved_lines,
    write_account,
    write_report,
    write_trace,
)

if TYPE_CHECKING:
    from syncer.fleet.result import Cause, SiteResult
    from syncer.transfer.events import Emit


_NAMES_SHOWN = 5  # of the sites with one cause
_LONGEST_STEM = 200  # characters; no file system takes much more


@option_group
class SiteOptions:
    """The registries that a bundle goes to."""

    heading: ClassVar = Heading.TARGET
    registry: tuple[RegistryAddress, ...] = options(
        "The registry. -r is repeatable: several in one run.",
        "-r",
        metavar="HOST[/BASE]",
        parse=RegistryAddress.parse,
    )
    targets_file: Path | None = option("A file that names many registries (docs/sites.md).", metavar="FILE")
    only: tuple[str, ...] = options(
        "Only these sites of the file, by name or label. Repeatable.", metavar="GLOB|LABEL=GLOB"
    )
    excluded: tuple[str, ...] = options("All but these sites.", "--except", metavar="GLOB|LABEL=GLOB")
    shard: str | None = option(
        "The I-th of N shares, one for each machine; auto: as the cluster says.",
        metavar="I/N|auto",
        heading=Heading.TRANSFER,
    )
    at_once: int = option("Sites at the same time.", default=64, min=1, max=1024)
    max_failed: CountOrShare | None = option(
        "Begin no more sites once more have failed.",
        metavar="N|P%",
        parse=CountOrShare.parse,
    )
    limit_rate: int | None = option(
        "Bytes a second to all sites together.", metavar="BYTES", parse=byte_count, heading=Heading.TRANSFER
    )
    timeout: float | None = option(
        "Stop after this time (90s, 30m, 5h); the same command goes on.",
        metavar="DURATION",
        parse=parse_duration,
        heading=Heading.TRANSFER,
    )
    dask: str | None = option(
        "Work from a Dask cluster (tls://HOST:PORT), or from N processes here (local:N).",
        metavar="CLUSTER",
        heading=Heading.TRANSFER,
    )
    report_dir: Path | None = option(
        "Write the report of each site into this directory.", metavar="DIR", heading=Heading.REPORTING
    )

    @property
    def is_fleet(self) -> bool:
        """True when what is asked for makes sense for sites only, such as two registries."""
        limits = (self.max_failed, self.limit_rate, self.timeout, self.report_dir, self.dask)
        return len(self.registry) > 1 or any((self.targets_file, self.only, self.excluded, self.shard, *limits))

    @property
    def single(self) -> RegistryAddress | None:
        """The registry, where there is one at most."""
        return self.registry[0] if self.registry else None

    def options(self, connection: ConnectionOptions) -> FleetOptions:
        """The options of a run over several sites."""
        return FleetOptions(
            at_once=self.at_once,
            concurrency=connection.workers,
            most_failed=self.max_failed,
            timeout=self.timeout,
        )

    def runner(self, connection: ConnectionOptions, upload: UploadOptions | None = None) -> Runner | None:
        """The cluster that goes to the sites; None: this process does.  Raises ``UsageError`` without Dask."""
        if self.dask is None:
            return None
        make_runner, _ = import_dask(self.dask)
        upload = upload and upload.for_workers()
        there = partial(workplace, connection.for_workers(), upload, absolute(self.targets_file))
        return make_runner(cluster=self.dask, workplace=there)

    def fleet(self, login: LoginOptions, settings: RegistrySettings, mapping: NameMapping) -> Fleet:
        """The sites, in their order, and ``settings`` as they want them; ``mapping`` comes before that of a file.

        Raises ``UsageError`` for what contradicts itself, such as a registry that is named twice, or one login for
        several of them; ``InvalidFile`` with all mistakes of a targets file.
        """
        if bool(self.registry) == bool(self.targets_file):
            said = "a targets file and --registry are given both" if self.registry else "no registry is named"
            raise UsageError(said, hint="name registries with --registry, or in a --targets-file")
        if self.targets_file is None and (self.only or self.excluded):
            raise UsageError("--only and --except choose from a --targets-file, and none is given")
        if self.dask:
            login.refuse_for_workers()
        if self.targets_file or len(self.registry) > 1:
            login.require_one_registry()
        if self.report_dir is not None:
            require_directory(self.report_dir, "no report can be written")
        if self.targets_file is None:
            sites = name_sites(self.registry, mapping, place="--registry")
        else:
            sites, of_all = read_targets(
                self.targets_file,
                None if self.dask else settings,
                os.environ,
                only=self.only,
                excluded=self.excluded,
                warn=warn,
            )
            sites = name_sites(sites, mapping)
            if not self.dask:
                settings = of_all
        if self.shard is not None:
            shard = Shard.parse(self.shard, os.environ)
            sites = [site for site in sites if shard.takes(site.key)]
        limited = structs.replace(settings.transport, bytes_per_second=self.limit_rate)
        return Fleet(tuple(sites), structs.replace(settings, transport=limited), self.report_dir)


def workplace(connection: ConnectionOptions, upload: UploadOptions | None, targets_file: Path | None) -> Workplace:
    """The settings of a worker: the options of the command that began the run, and the logins and files of the worker.

    Raises ``UsageError`` and ``InvalidFile`` for what is not there.
    """
    allow_open_files()
    settings = registry_settings(connection, upload=upload)
    if targets_file is not None:
        _, settings = read_targets(targets_file, settings, os.environ)
    return Workplace(settings=settings, state=state_directory(upload.state_dir) if upload else None)


class Fleet(Struct, frozen=True):
    """The sites of a run, and the settings of all registries."""

    sites: tuple[Site, ...]
    settings: RegistrySettings
    report_dir: Path | None = None  # for the report of each site's own run


class SiteReports:
    """The reports of the sites' own runs, as files of a directory that are called like the sites."""

    def __init__(self, directory: Path, sites: Iterable[Site]) -> None:
        self.written: dict[str, str] = {}  # the names of files, by those of sites
        self._directory = directory
        self._names: dict[str, str] = {}
        taken: set[str] = set()
        for site in sites:
            stem = name = _file_stem(site.name)
            number = 1
            while name.lower() in taken:  # as on file systems that take upper and lower case for one
                number += 1
                name = f"{stem}-{number}"
            taken.add(name.lower())
            self._names[site.name] = f"{name}.json"

    def write(self, site: str, report: Reported) -> None:
        """Write the report of a site; raises ``TargetError``."""
        name = self._names[site]
        write_report(self._directory / name, report)
        self.written[site] = name

    def link(self, result: FleetResult) -> FleetResult:
        """``result`` with the names of the files."""
        sites = (structs.replace(site, report=self.written.get(site.name)) for site in result.sites)
        return structs.replace(result, sites=tuple(sites))


class _Watcher:
    """A ``fleet.Watcher`` that passes on to a display, or else to a log, what it hears, and writes sites' reports."""

    def __init__(
        self,
        display: SitesDisplay | None,
        log: EventLog | None,
        reports: SiteReports | None,
        tell: Emit | None = None,
    ) -> None:
        self._tell = tell
        self._display = display
        self._log = log
        self._reports = reports

    def begin(self, site: Site) -> Emit | None:
        if self._log:
            self._log.tell("info", "site_begun", site=site.name, registry=site.registry)
            return self._log.emit(site=site.name)
        return self._display.begin(site.name) if self._display else self._tell

    def end(self, result: SiteResult, report: Reported | None, *, is_last: bool) -> None:
        if report is not None and self._reports is not None:
            if isinstance(report, Report):
                code = int(result.exit)
                report = structs.replace(report, version=__version__, command="push", exit_code=code)
            self._reports.write(result.name, report)
        if self._log:
            fields = {key: value for key, value in result.to_json().items() if key not in ("name", "report")}
            level = "info" if result.state.is_good else "error" if is_last else "warning"
            self._log.tell(level, "site_ended", site=result.name, **fields, is_last=is_last)
        if self._display:
            again = "" if is_last else "; it is tried again at the end"
            cause = cause_of(result.error, result.registry) if result.error else None
            self._display.tell(result.name, f"{_line(result)}{again}", cause)


async def run_fleet(
    command: Command,
    file: Path | BundleUrl,
    fleet: Fleet,
    options: FleetOptions,
    output: OutputOptions,
    *,
    given: GivenName | None,
    runner: Runner | None = None,
    tell_work: bool = False,
    missing_out: Path | None = None,
) -> Exit:
    """Push, plan or verify the bundle ``file`` at all sites of ``fleet``, and tell what became of them.

    A run that is stopped tells how far it came.  With ``tell_work`` the code of a plan that found nothing wrong says
    whether a site lacks anything.  What sites lack that a delta takes to be there is listed in ``missing_out``.  Raises
    ``UsageError`` for files that cannot be written.
    """
    from syncer.fleet.deploy import failed_fleet, plan_fleet, push_fleet, verify_fleet  # noqa: PLC0415  one registry needs none of it

    require_outputs(output)
    reports = SiteReports(fleet.report_dir, fleet.sites) if fleet.report_dir else None
    visit = {"push": push_fleet, "plan": plan_fleet, "verify": verify_fleet}[command]
    ended: list[FleetResult] = []
    try:
        with _watching(command, fleet, output, options.run_id, reports) as (watcher, say):
            options = structs.replace(options, watcher=watcher, warn=say, on_cut=ended.append)
            result = await visit(
                file, fleet.sites, given=given, settings=fleet.settings, options=options, runner=runner
            )
            code = result.exit or (Exit.WORK_TO_DO if tell_work and result.has_work else Exit.OK)
            ended.append(structs.replace(result, exit_code=int(code)))
    except SyncerError as error:
        if not ended and error.exit is not Exit.LOCKED:
            _write_files(failed_fleet(command, bundle_name(file), fleet.sites, options, error), output)
        raise
    finally:  # the display is over
        for account in ended:
            linked = reports.link(account) if reports else account
            summarize_fleet(f"{command.capitalize()} Summary", linked, output)
            if missing_out:
                write_missing(missing_out, file.name, [site.error for site in account.sites])
    return code


def write_missing(path: Path, bundle: str, errors: Iterable[SyncerError | None]) -> None:
    """List what registries lack that a delta takes to be there, where any of ``errors`` says so."""
    if missing := [error for error in errors if isinstance(error, AssumedMissing)]:
        write_account(path, orjson.dumps(render_missing(bundle, missing), option=orjson.OPT_INDENT_2))


@contextmanager
def _watching(
    command: Command, fleet: Fleet, output: OutputOptions, run_id: str, reports: SiteReports | None
) -> Iterator[tuple[_Watcher, Callable[[str], None]]]:
    """Show a display, or a log on standard error, as long as the block lasts; also gives who is told of warnings."""
    if (form := output.log) is not None:
        secrets = known_secrets(fleet.settings)
        log = open_event_log(sys.stderr, form, run_id, secrets, is_full=output.verbose > 1)
        yield _Watcher(None, log, reports), log.warn
        return
    if command == "plan" or not output.shows_progress:  # what a plan finds is on stdout
        yield _Watcher(None, None, reports, tell_waits(output)), warn
        return
    with open_screen(sys.stderr) as screen:
        display = SitesDisplay(len(fleet.sites), screen, sys.stderr)
        with drawing(display):
            yield _Watcher(display, None, reports), warn_above(screen)


def summarize_fleet(title: str, result: FleetResult, output: OutputOptions) -> None:
    """Print what became of all sites, as a summary or as JSON, and write the files that the options name."""
    result = _write_files(result, output)
    if output.json:
        print_json(result.to_json())
        if not output.quiet:
            return
    if output.quiet and not result.exit:
        return
    click.echo(without_secrets(block(title, list(fleet_lines(result)))), err=output.talks_on_stderr)
    said = GO_ON if code_of_signal() else None  # as the run takes its leave
    for hint in dict.fromkeys(cause.hint for cause in result.causes if cause.hint and cause.hint != said):
        click.echo(f"hint: {hint}", err=True)


def _write_files(result: FleetResult, output: OutputOptions) -> FleetResult:
    """Write the files that the options name; returns the account with this version and the exit code."""
    ended = code_of_signal() or result.exit_code or result.exit
    result = structs.replace(result, version=__version__, exit_code=int(ended))
    if output.report:
        write_report(output.report, result)
    if output.trace and result.timeline:
        visits = [
            Visit(site.name, visit.at, visit.seconds, site.state) for site in result.sites for visit in site.visits
        ]
        write_trace(output.trace, result.timeline, result.command, result.bundle, visits)
    if output.metrics_file and result.command != "plan":
        metrics_writer().write_site_metrics(output.metrics_file, result.to_json())
    return result


def fleet_lines(result: FleetResult) -> Iterator[str]:
    """The lines of a summary about what became of all sites."""
    verb = {"push": "is at", "plan": "is at", "verify": "is whole at"}.get(result.command, "is right at")
    yield f"bundle {result.bundle} {verb} {result.whole:,} of {quantity(len(result.sites), 'site')}"
    yield "sites:   " + (", ".join(f"{number:,} {state}" for state, number in result.states.items()) or "none")
    sent, mounted, resumed = (
        sum(getattr(site, name) for site in result.sites) for name in ("bytes_sent", "bytes_mounted", "bytes_resumed")
    )
    if result.command == "plan":
        yield f"push:    {_foreseen(result.foreseen)}"
        for site in result.sites:
            figures = f", {_foreseen(site.foreseen)}" if site.state is site.state.BEHIND else ""
            yield f"site:    {printable(site.name)}: {site.state}{figures}"
    if sent:
        yield f"moved:   {human_bytes(sent)}"
    yield from saved_lines({"mounted": mounted, "brought by an earlier run": resumed})
    for cause in result.causes:
        yield f"failed:  {_cause(cause)}"
    rate = f", {human_bytes(sent / result.seconds)}/s" if sent and result.seconds > 0 else ""
    yield f"time:    {human_seconds(result.seconds)}{rate}"
    yield from bound_lines(result.bound, result.seconds)


def _foreseen(figures: Mapping[str, int]) -> str:
    """What a plan foresees that a push would send, of one site or of all."""
    blobs = figures["blobs_to_copy"]
    parts = [
        f"{quantity(figures['images_to_copy'], 'image')} to copy",
        f"{human_bytes(figures['bytes_to_send'])} to send in {quantity(blobs, 'blob')}" if blobs else "no blob to send",
    ]
    if mounted := figures["bytes_to_mount"]:
        parts.append(f"{human_bytes(mounted)} to mount")
    return ", ".join(parts)


def _cause(cause: Cause) -> str:
    names = ", ".join(cause.sites[:_NAMES_SHOWN])
    more = f" and {len(cause.sites) - _NAMES_SHOWN:,} more" if len(cause.sites) > _NAMES_SHOWN else ""
    return f"{printable(cause.text)}: {quantity(len(cause.sites), 'site')}: {printable(names)}{more}"


def _line(result: SiteResult) -> str:
    parts = [f"{printable(result.name)}: {result.state}"]
    if result.images:
        parts.append(quantity(result.images, "image"))
    if result.bytes_sent:
        parts.append(human_bytes(result.bytes_sent))
    parts.append(human_seconds(result.seconds))
    why = f": {printable(str(result.error))}" if result.error else ""
    return ", ".join(parts) + why


def _file_stem(name: str) -> str:
    """The name of a file, without its ending, that says which site it is about."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:_LONGEST_STEM] or "_"


def report(
    *,
    files: tuple[Path, ...] = argument(
        "The reports that --report wrote, or --json printed.", metavar="FILE…", many=True
    ),
    json: bool = json_flag("Print the joined report as one JSON document instead of a summary."),
    html: Path | None = option(
        "Write it as a page too; - is stdout.", metavar="PAGE", heading=Heading.REPORTING, fixed=True, written=True
    ),
    exit_code: bool = flag("Exit as one run would have done.", heading=Heading.REPORTING, fixed=True),
) -> None:
    """Show what a run did, or several runs as one.

    Several are, say, the shards of a fleet. Of an image or a site that is in several reports, the last one counts.

    Examples:
        syncer report run.json --html run.html
        syncer report part-*.json --json > whole.json

    More: docs/report.md
    """
    if html is not None:
        require_writable(html)
    accounts = [read_account(path) for path in files]
    fleets = [account for account in accounts if isinstance(account, FleetResult)]
    runs = [account for account in accounts if isinstance(account, Report)]
    if fleets and runs:
        run, fleet = (next(p for p, a in zip(files, accounts, strict=True) if a in kind) for kind in (runs, fleets))
        raise UsageError(
            f"{run} is the report of a run, and {fleet} that of a run over several sites, which are not one account",
            hint="join them apart from each other",
        )
    joined: Account
    joined, repeated = join_fleets(fleets) if fleets else join_reports(runs)
    if html is not None:
        from syncer.report.page import write_page  # noqa: PLC0415  rarely used

        write_page(html, joined.to_json())
    if repeated:
        note(_repeated("site" if fleets else "image", repeated))
    if json:
        print_json(joined.to_json())
    else:
        click.echo(_told(joined), err=OutputOptions(report=html).talks_on_stderr)
    if exit_code:
        raise click.exceptions.Exit(joined.exit)


def _repeated(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    listed = printable(", ".join(names[:_NAMES_SHOWN]))
    return f"of {quantity(len(names), what)} in more than one report the later entry counts: {listed}{more}"


def _told(account: Account) -> str:
    """The summary of ``account``, which begins with the runs that it is of."""
    of = _runs(account.runs)
    if isinstance(account, FleetResult):
        return block(heading(account.command, account.bundle), [of, *fleet_lines(account)])
    return summary(heading(account.command, account.name, account.targets), [of], account)


def _runs(runs: Sequence[Part]) -> str:
    began, ended = min(run.started for run in runs), max(run.ended for run in runs)
    which = quantity(len(runs), "run") if len(runs) > 1 else f"run {printable(runs[0].run_id)}"
    return f"{which} from {began:%Y-%m-%d %H:%M:%S} to {ended:%Y-%m-%d %H:%M:%S} UTC"
