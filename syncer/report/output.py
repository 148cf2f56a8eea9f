"""Accounts as files: whole or absent, readable by whoever scrapes them."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from syncer.errors import UsageError
from syncer.files import saving, write_whole
from syncer.report.figures import Report
from syncer.report.forecast import ForecastReport


def require_writable(path: Path) -> None:
    """Raise ``UsageError`` when ``path`` cannot be written, before a night's work and not after it."""
    parent = path.parent
    if path.is_dir():
        raise UsageError(f"{path} is a directory, not a file to write")
    if not parent.is_dir():
        raise UsageError(f"{path} cannot be written: the directory {parent} does not exist")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: no permission to create files in {parent}")


def write_report(path: Path, report: Report | ForecastReport) -> None:
    """The JSON document of ``report`` in ``path``; raises ``TargetError``."""
    write_account(path, orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write_account(path: Path, content: bytes) -> None:
    """Write ``content`` as the file ``path``, whole, for everybody to read; raises ``TargetError``."""
    with saving(path):
        write_whole(path, content, mode=0o644)
