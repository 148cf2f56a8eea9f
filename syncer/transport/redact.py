"""What others sent, made fit to be shown: no secret, no control character, no flood."""

from __future__ import annotations

from yarl import URL

SHOWN = 1024
"""Characters of a registry's own words that are shown at most."""


def without_secrets(url: URL) -> str:
    """``url`` without user, password and query: signatures and upload states travel in queries."""
    query = "?…" if url.raw_query_string else ""
    port = f":{url.explicit_port}" if url.explicit_port else ""
    host = url.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{host}{port}{url.raw_path}{query}"


def readable(text: str) -> str:
    """``text`` on one line, without control characters (terminal escapes among them), cut to ``SHOWN``."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * SHOWN])
    clean = " ".join(clean.split())
    return clean if len(clean) <= SHOWN else clean[: SHOWN - 1] + "…"
