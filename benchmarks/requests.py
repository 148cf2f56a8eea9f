"""Which requests of the distribution API a connection carries, read off its bytes."""

from __future__ import annotations

import re
from collections import Counter

_KINDS = (
    (re.compile(r"/v2/?"), "ping"),
    (re.compile(r"/v2/.+/manifests/[^/]+"), "manifest"),
    (re.compile(r"/v2/.+/blobs/uploads/\?.*mount=.*"), "mount"),
    (re.compile(r"/v2/.+/blobs/uploads/.*"), "upload"),
    (re.compile(r"/v2/.+/blobs/[a-z0-9]+:[0-9a-f]+"), "blob"),
    (re.compile(r"/v2/.+/tags/list(?:\?.*)?"), "tags"),
    (re.compile(r"/v2/.+/referrers/[a-z0-9]+:[0-9a-f]+.*"), "referrers"),
)


class RequestTap:
    """Counts the HTTP/1.1 requests in what a client sends over one connection, in pieces of any size."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._head = b""
        self._body = 0  # bytes still to pass by
        self._chunked = False

    def feed(self, piece: bytes) -> None:
        start = 0
        while start < len(piece):
            if self._body:
                passed = min(self._body, len(piece) - start)
                self._body -= passed
                start += passed
            else:
                end = b"\r\n" if self._chunked else b"\r\n\r\n"
                start = self._line(piece, start, end)

    def _line(self, piece: bytes, start: int, end: bytes) -> int:
        """Take a chunk's size or a request's head, which may have begun in an earlier piece."""
        held = len(self._head)
        self._head += piece[start:]
        position = self._head.find(end)
        if position < 0:
            return len(piece)
        head = self._head[:position]
        self._head = b""
        if self._chunked:
            size = int(head.partition(b";")[0], 16)
            self._chunked = size > 0
            self._body = size + 2  # the line break after a chunk; after the last one no trailers are expected
        else:
            self._request(head.decode("latin-1"))
        return start + position + len(end) - held

    def _request(self, head: str) -> None:
        line, *fields = head.split("\r\n")
        method, path, _ = line.split(" ", 2)
        self._counts[f"{method} {kind_of(path)}"] += 1
        for field in fields:
            name, _, value = field.partition(":")
            if name.lower() == "content-length":
                self._body = int(value)
            elif name.lower() == "transfer-encoding":
                self._chunked = True


def kind_of(path: str) -> str:
    """What a request is about: ping, manifest, blob, upload, mount, tags, referrers or other."""
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(path)), "other")
