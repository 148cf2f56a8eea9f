"""A report as one HTML page that needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from syncer.errors import redacted
from syncer.report.figures import ImageAccount
from syncer.report.summary import causes_of, heading, human_bytes, human_seconds, moved, quantity, shown, write_account

Row: TypeAlias = list[Any]

_NAMES_SHOWN = 5  # of what failed for one cause
_LEAST = 0.05  # seconds that are told: less is 0.0
_MARKUP = re.compile(rb"[<>&]")  # what could end the element that the data are in
_SAFE = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026"}
_BOUNDS = {
    "bytes_cap": "bandwidth cap",
    "requests_cap": "cap of requests",
    "disk": "disk",
    "hashing": "hashing",
}


def render_page(document: Mapping[str, Any]) -> bytes:
    """The page of a report's ``document``, of either kind.

    All that others wrote is put into it as text; it loads nothing, and says so to the browser.
    """
    document = _clean(shown(dict(document)))
    is_fleet = document["kind"] == "fleet"
    data = _fleet_data(document) if is_fleet else _run_data(document)
    here = files("syncer.report")
    script = here.joinpath("page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    name = document.get("bundle" if is_fleet else "name")
    title = heading(document.get("command"), name, document.get("targets") or ())
    parts = {
        "SCRIPT_HASH": f"sha256-{digest}",
        "TITLE": html.escape(title),
        "BODY": _head(title, document, data.pop("facts")),
        "DATA": _embedded(data),
        "SCRIPT": script,
    }
    template = here.joinpath("page.html").read_text("utf-8")
    return re.sub("@([A-Z_]+)@", lambda found: parts[found[1]], template).encode()


def _clean(value: Any) -> Any:
    """``value`` without logins in the addresses that others wrote into its texts."""
    match value:
        case str():
            return redacted(value) if "://" in value else value
        case dict():
            return {key: _clean(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_clean(inner) for inner in value]
        case _:
            return value


def _embedded(data: Mapping[str, Any]) -> str:
    """``data`` as JSON in which nothing is markup."""
    return _MARKUP.sub(lambda found: _SAFE[found[0]], orjson.dumps(data)).decode()


def _head(title: str, document: Mapping[str, Any], facts: Iterable[tuple[str, str]]) -> str:
    version = f"syncer {document['version']}, " if document.get("version") else ""
    runs = document.get("parts") or [document]
    several = f"{quantity(len(runs), 'run')}, " if len(runs) > 1 else ""
    began, ended = (document[name][:19].replace("T", " ") for name in ("started", "ended"))
    when = f"{several}{began} to {ended} UTC"
    boxes = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    return (
        f'<header><h1>{html.escape(title)}</h1><p class="dim">{html.escape(f"{version}{when}, run")} '
        f'<code>{html.escape(document["run_id"])}</code></p></header><dl class="facts">{boxes}</dl>'
    )


def _columns(*named: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"title": title, "kind": kind, "isState": title in ("Status", "State")} for title, kind in named]


def _run_data(document: Mapping[str, Any]) -> dict[str, Any]:
    totals, images = document["totals"], document["images"]
    size = max(totals["bytes_fetched"], totals["bytes_sent"], totals.get("bytes_copied", 0))
    ends = {
        "copied": totals["images_copied"],
        "unchanged": totals["images_skipped"],
        "failed": totals["images_failed"],
        "unfinished": totals["images_unfinished"],
    }
    saved = totals["bytes_mounted"] + totals["bytes_skipped"] + totals["bytes_deduplicated"]
    facts = [
        ("Images", _listed(totals["images"], ends)),
        ("Moved", moved(size, totals["blobs_copied"], totals.get("bytes_unfinished", 0))),
        ("Saved", _size(saved)),
        *_resumed(totals),
        ("Requests", f"{totals['requests']:,}, {quantity(totals['retries'], 'retry', 'retries')}"),
        ("Time", _time(totals["seconds"], size)),
        *_ending(document),
    ]
    failed = [ImageAccount.from_json(image) for image in images if image["message"] is not None]
    rows = [
        [
            image["source"],
            image["target"],
            image["status"],
            image["bytes"],
            image["seconds"],
            image["message"] or "",
        ]
        for image in images
    ]
    named = (("Image", "text"), ("Target", "text"), ("Status", "text"), ("Bytes", "bytes"), ("Seconds", "seconds"))
    columns = _columns(*named, ("Message", "text"))
    unknown = [f"{each['repository']}: {each['message']}" for each in document.get("referrers_unknown", ())]
    return {
        "kind": "run",
        "facts": facts,
        "bound": _bound(document),
        "causes": [_cause(cause.said, cause.sources) for cause in causes_of(failed)],
        "warnings": [*unknown, *document.get("warnings", ())],
        "timeline": document.get("timeline"),
        "tables": [
            {
                "title": "Targets and registries",
                "id": "registries",
                "columns": _columns(
                    ("Registry", "text"),
                    ("Role", "text"),
                    ("Requests", "number"),
                    ("Retries", "number"),
                    ("429", "number"),
                    ("Paused", "seconds"),
                    ("Failed", "number"),
                    ("Received", "bytes"),
                    ("Sent", "bytes"),
                ),
                "rows": [_registry_row(each) for each in document["registries"]],
                "search": False,
            },
            {"title": "Images", "id": "images", "columns": columns, "rows": rows, "search": True},
        ],
    }


def _registry_row(registry: Mapping[str, Any]) -> Row:
    figures = ("requests", "retries", "too_many_requests", "paused_seconds", "errors", "bytes_received", "bytes_sent")
    return [registry["registry"], registry.get("role", ""), *(registry[name] for name in figures)]


def _fleet_data(document: Mapping[str, Any]) -> dict[str, Any]:
    totals, sites = document["totals"], document["sites"]
    states = {name.removeprefix("sites_"): count for name, count in totals.items() if name.startswith("sites_")}
    facts = [
        ("Sites", _listed(totals["sites"], {name.replace("_", " "): count for name, count in states.items()})),
        ("Images", f"{totals['images']:,}"),
        ("Sent", _size(totals["bytes_sent"])),
        *_resumed(totals),
        ("Time", _time(totals["seconds"], totals["bytes_sent"])),
        *_ending(document),
    ]
    named = (("Site", "text"), ("Registry", "text"), ("State", "text"), ("Images", "number"), ("Failed", "number"))
    more = (("Sent", "bytes"), ("Requests", "number"), ("Seconds", "seconds"), ("Error", "text"))
    keys = ("name", "registry", "state", "images", "images_failed", "bytes_sent", "requests", "seconds")
    return {
        "kind": "fleet",
        "facts": facts,
        "bound": _bound(document),
        "causes": [_cause(cause["cause"], cause["sites"]) for cause in document["causes"]],
        "warnings": [],
        "timeline": document.get("timeline"),
        "visits": [
            [site["name"], visit["at"], visit["seconds"], site["state"]]
            for site in sites
            for visit in site.get("visits", ())
        ],
        "tables": [
            {
                "title": "Sites",
                "id": "sites",
                "columns": _columns(*named, *more),
                "rows": [[*(site[key] for key in keys), site["error"] or ""] for site in sites],
                "search": True,
            }
        ],
    }


def _size(count: int) -> str:
    return human_bytes(count) if count else "nothing"


def _resumed(totals: Mapping[str, Any]) -> list[tuple[str, str]]:
    resumed = totals.get("bytes_resumed", 0)
    return [("Brought by an earlier run", human_bytes(resumed))] if resumed else []


def _listed(total: int, ends: Mapping[str, int]) -> str:
    said = ", ".join(f"{count:,} {end}" for end, count in ends.items() if count)
    return f"{total:,} ({said})" if said else f"{total:,}"


def _time(seconds: float, moved: int) -> str:
    rate = f", {human_bytes(moved / seconds)}/s" if moved and seconds > 0 else ""
    return f"{human_seconds(seconds)}{rate}"


def _ending(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    targets, code = document.get("targets") or (), document.get("exit_code")
    facts = [("Targets", ", ".join(targets[:_NAMES_SHOWN]) + (" …" if len(targets) > _NAMES_SHOWN else ""))]
    return [*(facts if targets else []), *([("Exit code", str(code))] if code is not None else [])]


def _bound(document: Mapping[str, Any]) -> dict[str, Any] | None:
    bound = document.get("bound")
    if not bound:
        return None
    seconds = sorted(bound["worker_seconds"].items(), key=lambda each: -each[1])
    told = [(_BOUNDS.get(by, by.replace("_", ": ")), value) for by, value in seconds if value >= _LEAST]
    text = str(bound["text"])
    return {"text": f"{text[:1].upper()}{text[1:]}.", "hint": bound["hint"], "seconds": told}


def _cause(cause: str, names: Sequence[str]) -> Row:
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    return [cause, len(names), ", ".join(names[:_NAMES_SHOWN]) + more]


def write_page(path: Path, document: Mapping[str, Any]) -> None:
    """Write the page of a report's ``document`` to ``path``; raises ``TargetError``."""
    write_account(path, render_page(document))
