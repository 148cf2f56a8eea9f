"""How a dry run is told."""

from __future__ import annotations

import typer

from syncer.cli.options import OutputOptions
from syncer.cli.reporting import print_json
from syncer.errors import Exit
from syncer.report.forecast import ForecastReport, plan_summary
from syncer.report.output import write_report


def tell_plan(report: ForecastReport, options: OutputOptions, *, exit_code: bool) -> Exit:
    """Print what a transfer would do; with ``exit_code`` the result says whether there is work."""
    if options.json:
        print_json(report.to_json())
    else:
        typer.echo(plan_summary(report))
    if options.report:
        write_report(options.report, report)
    return report.exit(tell_work=exit_code)
