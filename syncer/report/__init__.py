"""The account of a run: events become a summary for people, a JSON report and metrics for machines."""

from syncer.report.account import Account
from syncer.report.figures import ImageAccount, RegistryAccount, Report, Status, Totals
from syncer.report.pace import Pace, Standing
from syncer.report.summary import foreign_layers, human_bytes, human_seconds, printable, summary

__all__ = [
    "Account",
    "ImageAccount",
    "Pace",
    "RegistryAccount",
    "Report",
    "Standing",
    "Status",
    "Totals",
    "foreign_layers",
    "human_bytes",
    "human_seconds",
    "printable",
    "summary",
]
