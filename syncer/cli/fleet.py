"""Sites on the command line: the options that name them, and what is told of them while they run and afterwards."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

import click

from syncer.bundle import GivenName
from syncer.cli.command import option, options
from syncer.cli.job import allow_open_files
from syncer.cli.options import ConnectionOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.output import print_json, warn, write_metrics_file
from syncer.cli.settings import registry_settings, state_directory
from syncer.errors import Exit, UsageError, without_secrets
from syncer.fleet import FleetOptions, Runner, Workplace, name_sites, read_targets
from syncer.formats.units import CountOrShare, Shard, byte_count, parse_duration
from syncer.naming import NameMapping
from syncer.profiles.syncfile.site import Site
from syncer.registry import RegistryAddress, RegistrySettings
from syncer.report import human_bytes, human_seconds, printable
from syncer.report.summary import block, quantity, require_writable, write_report

if TYPE_CHECKING:
    from syncer.fleet.result import Cause, FleetResult, SiteResult
    from syncer.report import Report
    from syncer.transfer.events import Emit

_NAMES_SHOWN = 5  # of the sites with one cause


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOptions:
    """The registries that a bundle goes to."""

    registry: tuple[RegistryAddress, ...] = options(
        "The registry; may be given many times, for several of them in one run.",
        "-r",
        metavar="HOST[:PORT][/BASE]",
        parse=RegistryAddress.parse,
    )
    targets_file: Path | None = option("A file that names many registries (docs/sites.md).", metavar="FILE")
    only: tuple[str, ...] = options(
        "Of a targets file, the sites of such names, or with such a label; may be given many times.",
        metavar="GLOB|LABEL=GLOB",
    )
    excluded: tuple[str, ...] = options(
        "Of a targets file, all sites but these.", "--except", metavar="GLOB|LABEL=GLOB"
    )
    shard: str | None = option(
        "The I-th of N shares of the sites, for a run on several machines; auto finds I in a cluster.",
        metavar="I/N|auto",
    )
    at_once: int = option("Sites that run at the same time, where there are several.", default=64, min=1, max=1024)
    max_failed: CountOrShare | None = option(
        "Begin no more sites once more than so many have failed.", metavar="N|P%", parse=CountOrShare.parse
    )
    limit_rate: int | None = option("Bytes a second to and from all sites together.", metavar="BYTES", parse=byte_count)
    timeout: float | None = option(
        "Begin no site after this time, and end those that run; the same command goes on with them.",
        metavar="DURATION",
        parse=parse_duration,
    )
    dask: str | None = option(
        "Go to the sites from the workers of a Dask cluster, or from N processes of this machine.",
        metavar="tls://HOST:PORT|local:N",
    )
    report_dir: Path | None = option("Also write the full report of each site into this directory.", metavar="DIR")

    @property
    def is_fleet(self) -> bool:
        """True when what is asked for makes sense for sites only, such as two registries."""
        limits = (self.max_failed, self.limit_rate, self.timeout, self.report_dir, self.dask)
        return len(self.registry) > 1 or any((self.targets_file, self.only, self.excluded, self.shard, *limits))

    @property
    def single(self) -> RegistryAddress | None:
        """The registry, where there is one at most."""
        return self.registry[0] if self.registry else None

    def options(self, fleet: Fleet, connection: ConnectionOptions, output: OutputOptions) -> FleetOptions:
        """The options of a run over ``fleet``; raises ``UsageError`` for files that cannot be written."""
        return FleetOptions(
            at_once=self.at_once,
            workers=connection.concurrency,
            most_failed=self.max_failed,
            timeout=self.timeout,
            watcher=open_sites_display(output, fleet.sites, self.report_dir),
            warn=warn,
        )

    def runner(self, connection: ConnectionOptions, upload: UploadOptions | None = None) -> Runner | None:
        """The cluster that goes to the sites; None: this process does.  Raises ``UsageError`` without Dask."""
        if self.dask is None:
            return None
        try:
            from syncer.fleet.dask import DaskRunner, check_cluster  # noqa: PLC0415  an extra, and slow to import
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("dask", "distributed"):
                raise
            raise UsageError(
                "--dask needs dask.distributed, which is not installed",
                hint="install syncer with its extra `dask`, or pip install distributed",
            ) from None
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what matters of it is told in our words
        connection = replace(
            connection,
            authfile=_absolute(connection.authfile),
            ca_cert=_absolute(connection.ca_cert),
            tls_cert=_absolute(connection.tls_cert),
            tls_key=_absolute(connection.tls_key),
        )
        upload = upload and replace(upload, state_dir=_absolute(upload.state_dir))
        there = partial(workplace, connection, upload, _absolute(self.targets_file))
        return DaskRunner(cluster=check_cluster(self.dask), workplace=there, warn=warn)

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
        if login.username is not None or login.password_stdin:
            if self.dask:
                raise UsageError(
                    "--username and --password-stdin stay on this machine, and --dask goes to sites from others",
                    hint="syncer registry-login keeps a login on each of them",
                )
            if self.targets_file or len(self.registry) > 1:
                raise UsageError(
                    "--username and --password-stdin are for one registry, and several are named",
                    hint="syncer registry-login keeps a login for each of them",
                )
        if self.report_dir is not None:
            require_writable(self.report_dir / "site.json")
        if self.targets_file is None:
            sites = name_sites(self.registry, mapping, place="--registry")
        else:
            sites, settings = read_targets(
                self.targets_file,
                None if self.dask else settings,
                os.environ,
                only=self.only,
                excluded=self.excluded,
                warn=warn,
            )
            sites = name_sites(sites, mapping)
        if self.shard is not None:
            shard = Shard.parse(self.shard, os.environ)
            sites = [site for site in sites if shard.takes(site.key)]
        limited = replace(settings.transport, bytes_per_second=self.limit_rate)
        return Fleet(tuple(sites), replace(settings, transport=limited))


def _absolute(path: Path | None) -> Path | None:
    return path and path.absolute()


def workplace(connection: ConnectionOptions, upload: UploadOptions | None, targets_file: Path | None) -> Workplace:
    """The settings of a worker: the options of the command that began the run, and the logins and files of the worker.

    Raises ``UsageError`` and ``InvalidFile`` for what is not there.
    """
    allow_open_files()
    settings = registry_settings(connection, upload=upload)
    if targets_file is not None:
        _, settings = read_targets(targets_file, settings, os.environ)
    return Workplace(settings=settings, state=state_directory(upload.state_dir) if upload else None)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The sites of a run, and the settings of all registries."""

    sites: tuple[Site, ...]
    settings: RegistrySettings


class SitesDisplay:
    """A ``fleet.deploy.Watcher`` that says one line for each site that ends, and writes the site's own report."""

    def __init__(self, stream: TextIO | None, sites: int, report_dir: Path | None) -> None:
        self._stream = stream
        self._sites = sites
        self._ended: set[str] = set()
        self._report_dir = report_dir

    def begin(self, site: Site) -> Emit | None:  # noqa: ARG002
        """Nobody hears of the events of a site but its own report."""
        return None

    def end(self, result: SiteResult, report: Report | None, *, is_last: bool) -> None:
        """Say what became of a site."""
        again = "" if is_last else "; it is tried again at the end"
        self._ended.add(result.name)
        if report is not None and self._report_dir is not None:
            write_report(self._report_dir / f"{_file_name(result.name)}.json", report)
        if self._stream is not None:
            print(f"{len(self._ended)} of {self._sites}: {_line(result)}{again}", file=self._stream, flush=True)


async def run_fleet(
    command: Literal["push", "verify"],
    file: Path,
    fleet: Fleet,
    options: FleetOptions,
    output: OutputOptions,
    *,
    given: GivenName | None,
    runner: Runner | None = None,
) -> Exit:
    """Push or verify the bundle ``file`` at all sites of ``fleet``, and tell what became of them."""
    from syncer.fleet.deploy import push_fleet, verify_fleet  # noqa: PLC0415  one registry needs none of it

    visit = push_fleet if command == "push" else verify_fleet
    result = await visit(file, fleet.sites, given=given, settings=fleet.settings, options=options, runner=runner)
    summarize_fleet(f"{command.capitalize()} Summary", result, output)
    return result.exit


def open_sites_display(output: OutputOptions, sites: Sequence[Site], report_dir: Path | None) -> SitesDisplay:
    """The display of a run over ``sites``; raises ``UsageError`` for files that cannot be written."""
    if output.log_format is not None:
        raise UsageError("--log-format is for one registry", hint="--report-dir has a report of each site")
    for path in filter(None, (output.report, output.metrics_file)):
        require_writable(path)
    return SitesDisplay(sys.stderr if output.progress else None, len(sites), report_dir)


def summarize_fleet(title: str, result: FleetResult, output: OutputOptions) -> None:
    """Print what became of all sites, as a summary or as JSON, and write the files that the options name."""
    if output.report:
        write_report(output.report, result)
    if output.metrics_file:
        write_metrics_file(output.metrics_file, result.to_json())
    if output.json:
        print_json(result.to_json())
        return
    click.echo(without_secrets(block(title, list(_lines(result)))))
    for hint in dict.fromkeys(cause.hint for cause in result.causes if cause.hint):
        click.echo(f"hint: {hint}", err=True)


def _lines(result: FleetResult) -> Iterator[str]:
    good = sum(site.state.is_good for site in result.sites)
    verb = {"push": "is at", "verify": "is whole at"}[result.command]
    yield f"bundle {result.bundle} {verb} {good:,} of {quantity(len(result.sites), 'site')}"
    yield "sites:   " + ", ".join(f"{number:,} {state}" for state, number in result.states.items())
    sent = sum(site.bytes_sent for site in result.sites)
    mounted = sum(site.bytes_mounted for site in result.sites)
    seconds = (result.ended - result.started).total_seconds()
    if sent:
        yield f"moved:   {human_bytes(sent)}" + (f", {human_bytes(mounted)} mounted" if mounted else "")
    for cause in result.causes:
        yield f"failed:  {_cause(cause)}"
    rate = f", {human_bytes(sent / seconds)}/s" if sent and seconds > 0 else ""
    yield f"time:    {human_seconds(seconds)}{rate}"


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


def _file_name(name: str) -> str:
    """A name of a file that says which site it is about."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "_"
