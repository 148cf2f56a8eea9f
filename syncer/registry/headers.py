"""The headers by which registries tell of bytes and of where to go on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from yarl import URL

from syncer.transport.client import resolved
from syncer.transport.guard import upgraded

_CONTENT_RANGE = re.compile(r"[ \t]*bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)[ \t]*", re.IGNORECASE)
_UPLOAD_RANGE = re.compile(r"[ \t]*(?:bytes[= \t][ \t]*)?0-([0-9]{1,19})[ \t]*", re.IGNORECASE)
_LINK = re.compile(r"[ \t,]*<([^<>]*)>([^<]*)")
_NEXT = re.compile(r";[ \t]*rel[ \t]*=[ \t]*(?:\"[^\"]*\bnext\b[^\"]*\"|next\b)", re.IGNORECASE)
_LARGEST_CHUNK = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The range of bytes in an answer of status 206, both ends included."""

    first: int
    last: int
    total: int | None


def content_range(text: str | None) -> ContentRange | None:
    """``Content-Range`` of a download (RFC 9110 §14.4); None when it makes no sense."""
    found = _CONTENT_RANGE.fullmatch(text or "")
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if first > last or (total is not None and last >= total):
        return None
    return ContentRange(first, last, total)


def uploaded(text: str | None) -> int:
    """The number of bytes of an upload that a registry has, by the ``Range`` in its answer.

    ``0-N`` means N+1, also as ``bytes=0-N`` (Quay); ``0--1``, nothing at all and nonsense mean none; and so does
    ``0-0``, which distribution answers for none and for one.
    """
    found = _UPLOAD_RANGE.fullmatch(text or "")
    last = int(found[1]) if found else 0
    return last + 1 if last else 0


def least_chunk(text: str | None) -> int:
    """``OCI-Chunk-Min-Length`` in bytes; 0 when there is none that a sane registry would send."""
    text = (text or "").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        return 0
    least = int(text)
    return least if least <= _LARGEST_CHUNK else 0


def next_link(values: Iterable[str]) -> str | None:
    """The target of ``Link: <…>; rel="next"`` (RFC 8288), as it is written."""
    for value in values:
        for target, parameters in _LINK.findall(value[: 64 * 1024]):
            if _NEXT.search(parameters):
                return str(target).strip()
    return None


def upgraded_location(base: URL, answered: URL, location: str) -> str:
    """``location``, which ``answered`` gave, as ``guard.upgraded`` has it; raises ``ValueError`` for no address."""
    target = resolved(answered, location)
    moved = upgraded(base, target)
    return location if moved is target else str(moved)


def with_parameters(url: URL, *parameters: tuple[str, str]) -> URL:
    """``url`` with more in its query; what is there stays byte for byte, since it may be signed."""
    added = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters)
    text = str(url)
    return URL(f"{text}{'&' if '?' in text else '?'}{added}", encoded=True)
