"""Texts that people write, read with limits: files, tables and JSON."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syncer.errors import InvalidFile
from syncer.files import reading

MAX_TEXT_SIZE = 64 * 1024 * 1024
"""Bytes.  An exported profile has a few hundred KiB; a file larger than this is of another kind."""


def read_text(path: Path, *, limit: int = MAX_TEXT_SIZE) -> str:
    """Read the text in ``path``, in UTF-8 or in Windows's UTF-16, without its byte order mark; raises ``InvalidFile``.

    A file of more than ``limit`` bytes is refused, so that a bundle given by mistake does not fill the memory.
    """
    with reading(path), path.open("rb") as file:
        content = file.read(limit + 1)
    return decode_text(content, path, limit=limit)


def decode_text(content: bytes, path: Path | str, *, limit: int = MAX_TEXT_SIZE) -> str:
    """Decode ``content``, without its byte order mark; raises ``InvalidFile``, which names ``path``.

    PowerShell writes UTF-16 with such a mark; without one the text must be UTF-8.
    """
    if len(content) > limit:
        raise InvalidFile(path, f"it is larger than {limit} bytes, so it is not a file of this kind")
    is_windows = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_windows else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidFile(path, f"it is not a text file in UTF-{16 if is_windows else 8}", line=line) from None
    if "\0" in text:
        raise InvalidFile(
            path, "it is not a text file: it holds a zero byte", line=text[: text.index("\0")].count("\n") + 1
        )
    return text


def read_table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of the CSV file at ``path`` (RFC 4180), each with its line; cells lose white space around them.

    Rows without any text are left out.  Raises ``InvalidFile``.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1  # where the row begins: a cell may hold line breaks
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield line, cells
            line = rows.line_num + 1
    except csv.Error as error:
        raise InvalidFile(path, f"this is not CSV: {error}", line=line) from None


def parse_json(text: str, path: Path | str) -> Any:
    """Parse the JSON document ``text``; raises ``InvalidFile``, which names ``path`` and line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidFile(path, f"column {error.colno}: this is not JSON: {error.msg}", line=error.lineno) from None
    except RecursionError:
        raise InvalidFile(path, "it is nested too deeply") from None


def text_field(document: Any, key: str) -> str:
    """The text of a field; a number becomes a text, since people write numbers where texts are meant."""
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, str) else str(value) if type(value) in (int, float) else ""


def object_field(document: Any, key: str) -> dict[str, Any]:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def objects_field(document: Any, key: str) -> list[dict[str, Any]]:
    """The objects in the list of a field."""
    value = document.get(key) if isinstance(document, dict) else None
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
