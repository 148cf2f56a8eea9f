"""What a host says about how much more it may be asked, read leniently: there is no standard that all keep.

Docker Hub sends ``ratelimit-remaining: 76;w=21600``, which counts the manifests that are fetched, and none of
what is only asked about (docs.docker.com, "Docker Hub pull usage and limits"); others follow the drafts of
"RateLimit header fields for HTTP", or GitHub.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

_NUMBER = re.compile(r"\s*([0-9]{1,12})")
_WINDOW = re.compile(r";\s*w\s*=\s*([0-9]{1,9})")
_FIELDS = re.compile(r";\s*([rt])\s*=\s*([0-9]{1,12})")
_AN_INSTANT = 1_000_000_000  # seconds since 1970; a smaller number is a time to wait


@dataclass(frozen=True, slots=True)
class Quota:
    """``remaining`` requests are left, and there will be more in ``seconds``."""

    remaining: int
    seconds: float
    is_of_pulls: bool  # only manifests that are fetched count


def told_quota(headers: Mapping[str, str]) -> Quota | None:
    """The quota that an answer's headers tell; None when they tell none that is of use."""
    remaining = headers.get("ratelimit-remaining") or headers.get("x-ratelimit-remaining") or ""
    if not remaining and "ratelimit" not in headers:
        return None
    reset = _number(headers.get("ratelimit-reset") or headers.get("x-ratelimit-reset") or "")
    fields = dict(_FIELDS.findall(headers.get("ratelimit") or ""))
    if "r" in fields:
        return Quota(int(fields["r"]), float(fields.get("t", 0)), is_of_pulls=False)
    left = _number(remaining)
    window = _WINDOW.search(remaining) or _WINDOW.search(headers.get("ratelimit-limit") or "")
    if left is None or (reset is None and window is None):
        return None
    if reset is not None:
        seconds = max(0.0, reset - time.time()) if reset > _AN_INSTANT else float(reset)
    else:
        assert window is not None
        seconds = float(window[1])
    return Quota(left, seconds, is_of_pulls="w=" in remaining)


def _number(text: str) -> int | None:
    found = _NUMBER.match(text)
    return int(found[1]) if found else None
