"""Writing reports and metrics to files, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from syncer.errors import UsageError, is_anything_hidden, without_secrets
from syncer.files import saving, write_whole
from syncer.report.figures import Report
from syncer.report.forecast import ForecastReport


def require_writable(path: Path) -> None:
    """Raise ``UsageError`` when ``path`` cannot be written, so that a long run does not end without its report."""
    parent = path.parent
    if path.is_dir():
        raise UsageError(f"{path} is a directory, not a file to write")
    if not parent.is_dir():
        raise UsageError(f"{path} cannot be written: the directory {parent} does not exist")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: no permission to create files in {parent}")


def shown(document: Any) -> Any:
    """The JSON ``document`` without known secrets in its texts (``errors.hide``)."""
    if not is_anything_hidden():
        return document
    match document:
        case str():
            return without_secrets(document)
        case dict():
            return {key: shown(value) for key, value in document.items()}
        case list() | tuple():
            return [shown(value) for value in document]
        case _:
            return document


def write_report(path: Path, report: Report | ForecastReport) -> None:
    """Write the JSON document of ``report`` to ``path``; raises ``TargetError``."""
    write_account(path, orjson.dumps(shown(report.to_json()), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write_account(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all, with mode 0644; raises ``TargetError``."""
    with saving(path):
        write_whole(path, content, mode=0o644)
