"""``syncer report``: the reports of one or several runs, told as of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import click
import orjson

from syncer.cli.command import argument, flag
from syncer.cli.fleet import fleet_lines
from syncer.cli.options import json_flag
from syncer.cli.output import note, print_json
from syncer.errors import SyncerError, UsageError
from syncer.fleet.result import FleetResult, join_fleets
from syncer.report import Report, printable, summary
from syncer.report.figures import Part, join_reports
from syncer.report.summary import block, quantity

_NAMES_SHOWN = 5  # of what is in several reports

Account: TypeAlias = Report | FleetResult


def report(
    *,
    files: tuple[Path, ...] = argument(
        "The reports that --report wrote, or --json printed.", metavar="FILE…", many=True
    ),
    json: bool = json_flag("Print the joined report as one JSON document instead of a summary."),
    exit_code: bool = flag("Exit as one run would have done; else with 0 when the reports could be read."),
) -> None:
    """Tell what one run did, or what several did as if they were one, such as the shards of a fleet.

    Of a site, or of an image at a target, that is in several reports, the last one counts.
    """
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
    if fleets:
        joined, repeated = join_fleets(fleets)
    else:
        joined, repeated = join_reports(runs)
    if repeated:
        note(_repeated("site" if fleets else "image", repeated))
    if json:
        print_json(joined.to_json())
    else:
        click.echo(_told(joined))
    if exit_code:
        raise click.exceptions.Exit(joined.exit)


def read_account(path: Path) -> Account:
    """The account in the report at ``path``, of this version or the one before.

    Raises ``UsageError`` for a file that is not there, or no report.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except orjson.JSONDecodeError:
        raise _no_report(path, "it is no JSON document") from None
    kind = document.get("kind", "run") if isinstance(document, Mapping) else None
    if kind not in ("run", "fleet"):
        raise _no_report(path, "it has another kind" if kind is not None else "it is no JSON object")
    try:
        return FleetResult.from_json(document) if kind == "fleet" else Report.from_json(document)
    except KeyError as lacking:
        raise _no_report(path, f"it has no {lacking}") from None
    except (TypeError, ValueError, AttributeError, SyncerError):
        raise _no_report(path, "some of it is no figure or no name where one belongs") from None


def _no_report(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is no report of a run: {why}", hint="give files that --report wrote, or --json printed")


def _repeated(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    listed = printable(", ".join(names[:_NAMES_SHOWN]))
    return f"of {quantity(len(names), what)} in more than one report the later entry counts: {listed}{more}"


def _told(account: Account) -> str:
    """The summary of ``account``, which begins with the runs that it is of."""
    of = _runs(account.runs)
    if isinstance(account, FleetResult):
        return block(f"{account.command.capitalize()} Summary", [of, *fleet_lines(account)])
    return summary("Summary", [of], account)


def _runs(runs: Sequence[Part]) -> str:
    began, ended = min(run.started for run in runs), max(run.ended for run in runs)
    return f"{quantity(len(runs), 'run')} from {began:%Y-%m-%d %H:%M:%S} to {ended:%Y-%m-%d %H:%M:%S} UTC"
