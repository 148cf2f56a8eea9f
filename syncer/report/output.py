"""Accounts as files: whole or absent, readable by whoever scrapes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import orjson

from syncer.errors import TargetError, UsageError
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
    write_whole(path, orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write_whole(path: Path, content: bytes) -> None:
    """``content`` as the file ``path``, mode 0644, which a reader sees whole or not at all; raises ``TargetError``."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror or error}") from None
