"""The account of a run: its events become a summary for people, and a JSON report and metrics for machines."""

from syncer.report.account import Account
from syncer.report.figures import ImageAccount, RegistryAccount, Report, Status, Totals
from syncer.report.progress_meter import Measurement, ProgressMeter
from syncer.report.summary import human_bytes, human_seconds, printable, summary

__all__ = [
    "Account",
    "ImageAccount",
    "Measurement",
    "ProgressMeter",
    "RegistryAccount",
    "Report",
    "Status",
    "Totals",
    "human_bytes",
    "human_seconds",
    "printable",
    "summary",
]
