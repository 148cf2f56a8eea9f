"""What crossed the wire: a record of every request, and what tests say about them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

_KINDS = (
    (r"/v2/?", "base"),
    (r"/v2/_catalog", "catalog"),
    (r".*/tags/list", "tags"),
    (r".*/referrers/[^/]+", "referrers"),
    (r".*/manifests/[^/]+", "manifest"),
    (r".*/blobs/uploads/?.*", "upload"),
    (r".*/blobs/[^/]+", "blob"),
)


@dataclass(slots=True)
class Exchange:
    """One request, as far as it came, and its answer, as far as that came."""

    method: str
    target: str  # path and query, as sent
    headers: Mapping[str, str]  # names in lower case
    started: float  # seconds on the monotonic clock
    connection: int  # which of the client's connections, counted from 1
    offered: int = 0  # bytes of the body that came from the client
    sent: int = 0  # bytes of the body that went to the registry
    status: int | None = None  # as the client saw it; None when no answer reached it
    answer: Mapping[str, str] = field(default_factory=dict)  # headers that the client saw, in lower case
    received: int = 0  # bytes of the answer's body that went to the client
    faults: list[object] = field(default_factory=list)  # what was done to it

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def kind(self) -> str:
        """Method and endpoint, such as ``HEAD blob`` or ``PATCH upload``."""
        endpoint = next((name for pattern, name in _KINDS if re.fullmatch(pattern, self.path)), "other")
        return f"{self.method} {endpoint}"

    @property
    def span(self) -> range:
        """Which bytes of a blob went to the client."""
        if self.status not in (200, 206):
            return range(0)
        found = re.match(r"bytes (\d+)-", self.answer.get("content-range", ""))
        start = int(found[1]) if found else 0
        return range(start, start + self.received)


@dataclass(slots=True)
class Exchanges:
    """All requests so far, in the order in which they began."""

    log: list[Exchange] = field(default_factory=list)

    def of(self, kind: str) -> list[Exchange]:
        """Those of one kind, such as ``PATCH upload``."""
        return [exchange for exchange in self.log if exchange.kind == kind]

    def kinds(self) -> Counter[str]:
        """How many there were of each kind."""
        return Counter(exchange.kind for exchange in self.log)

    @property
    def uploaded(self) -> int:
        """Bytes of blobs that went to the registry."""
        return sum(exchange.sent for exchange in self.log if exchange.kind.endswith(" upload"))

    def downloaded(self) -> dict[str, list[range]]:
        """For each digest, which bytes of the blob went to the client, in order of arrival."""
        spans = defaultdict(list)
        for exchange in self.of("GET blob"):
            if exchange.span:
                spans[exchange.path.rpartition("/")[2]].append(exchange.span)
        return dict(spans)

    def assert_no_byte_came_twice(self) -> None:
        """No byte of any blob was downloaded more than once."""
        for digest, spans in self.downloaded().items():
            end = 0
            for span in sorted(spans, key=lambda span: span.start):
                assert span.start >= end, f"bytes {span.start} to {min(end, span.stop)} of {digest} came twice"
                end = span.stop

    def assert_no_byte_was_sent_twice(self, *blobs: bytes) -> None:
        """Of ``blobs``, all of which were uploaded, no byte was sent more than once."""
        total = sum(map(len, blobs))
        assert self.uploaded == total, f"{self.uploaded} bytes were sent for {total} bytes of blobs"
