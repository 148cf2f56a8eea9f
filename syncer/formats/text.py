"""Texts that people write, read with limits: files, JSON, durations, and numbers of bytes."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from syncer.errors import InvalidFile, UsageError
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


_BYTES = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kKMGT]?i?)(?P<of>B|bit)?")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"k": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def byte_count(text: str) -> int:
    """The number of bytes in ``50M``, ``64KiB`` or ``200Mbit``; raises ``UsageError``."""
    match = _BYTES.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text[:40]!r} is not a number of bytes", hint="write it like 50M, 64MiB or 200Mbit")
    unit = match["unit"].replace("K", "k")
    factor = _BINARY.get(unit.removesuffix("i")) if unit.endswith("i") else _FACTORS[unit]
    if factor is None:
        raise UsageError(f"{text[:40]!r} is not a number of bytes", hint="write it like 50M, 64MiB or 200Mbit")
    count = int(float(match["number"]) * factor / (8 if match["of"] == "bit" else 1))
    if count < 1:
        raise UsageError(f"{text[:40]!r} is less than one byte")
    return count


_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def parse_duration(text: str) -> float:
    """The number of seconds in ``90``, ``30s``, ``5m`` or ``1h30m``; raises ``UsageError``.

    >>> parse_duration("1h30m")
    5400.0
    """
    parts = _PART.findall(text)
    if not parts or "".join(map("".join, parts)) != text or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise UsageError(f"{text[:40]!r} is not a duration", hint="write it like 90s, 30m or 1h30m")
    seconds = float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    if seconds <= 0:
        raise UsageError("a duration must be longer than 0 seconds", hint="write it like 90s, 30m or 1h30m")
    return seconds
