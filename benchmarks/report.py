"""A run's results as Markdown: what was met, what it cost, and where it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import delta, fleet, judged
from benchmarks.results import OWN, Row, Spread, fastest, rows_of
from benchmarks.tables import number, spread, table

_COLUMNS = (
    "tool",
    "wall s",
    "client CPU s",
    "server CPU s",
    "others' CPU s",
    "peak MB",
    "wire MB",
    "requests per image",
    "syncer ÷ it: wall",
    "CPU",
)


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report."""
    rows = rows_of(document)
    parts = [
        f"# Benchmarks: {document['set']}, {document['rounds']} rounds, {document['started']}",
        _machine(document),
        "## What it must reach",
        *judged.goals(document, rows),
        *judged.above_floor(document, rows),
        "## What it costs",
        "Wall and CPU are medians with the least and the most of the rounds; a ratio below 1 is in syncer's favour.",
    ]
    for key in dict.fromkeys(row.key for row in rows):
        group = [row for row in rows if row.key == key]
        parts += [f"### {key[1]}: {key[0]}", _costs(group, document), *_refusals(key, document), *_kinds(group)]
    if found := document.get("fleet_push"):
        parts.append(fleet.section(found))
    if found := document.get("delta"):
        parts.append(delta.section(found))
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(document: Mapping[str, Any]) -> str:
    machine, floors, storage = document["machine"], document["floors"], document["storage"]
    hashing, loopback, writing = (floors[f"{name}_bytes_per_second"] / 1e9 for name in ("sha256", "loopback", "write"))
    starts = ("python_start", "syncer_version", "floor_start")
    python, ours, lean = (spread(Spread.of(floors[f"{name}_seconds"])) for name in starts)
    memory = machine["memory_bytes"] / 1e9
    where = f"{machine['cores']} cores of {machine['processor']}, {memory:.0f} GB, {machine['system']}"
    rates = f"loopback carries {loopback:.2f} GB/s, work storage takes {writing:.2f} GB/s"
    lines = [
        f"- machine: {where}, Python {machine['python']}; load when the run began: {document['load']:.2f}",
        f"- one core hashes {hashing:.2f} GB/s, {rates}",
        f"- Python starts in {python} s, `syncer version` takes {ours} s; {lean} s of the floor's rows are start",
        "- links are made by the benchmarks' own relay",
        f"- work and target storage: {storage['work']}; corpora: {storage['corpora']}",
        *(f"- {name}: {version}" for name, version in {**document["servers"], **document["tools"]}.items()),
        *(f"- {name}: {_corpus(figures)}" for name, figures in document["corpora"].items()),
    ]
    return "\n".join(lines)


def _corpus(figures: Mapping[str, Any]) -> str:
    return (
        f"{figures['images']:,} images of {figures['repositories']} repositories, {figures['blobs']:,} blobs of "
        f"{figures['bytes'] / 1e6:,.1f} MB, {figures['referenced_bytes'] / 1e6:,.1f} MB referenced"
    )


def _costs(rows: Sequence[Row], document: Mapping[str, Any]) -> str:
    images = document["corpora"][rows[0].corpus]["images"]
    ours = next((row for row in rows if row.tool == "syncer"), None)
    best = fastest(rows, lambda row: row.tool not in OWN)
    return table(_COLUMNS, (_cost(row, ours, images, is_best=row is best) for row in rows))


def _cost(row: Row, ours: Row | None, images: int, *, is_best: bool) -> tuple[str, ...]:
    requests = sum(row.requests().values())
    ratios = [ours.ratio_to(row, measure) if ours and row is not ours else None for measure in ("wall", "client_cpu")]
    return (
        f"**{row.tool}** (fastest peer)" if is_best else row.tool,
        spread(row.spread("wall")),
        spread(row.spread("client_cpu")),
        spread(row.spread("server_cpu")),
        spread(row.spread("other_cpu")),
        number(row.peak_memory(), 1e6, 0),
        number(row.bytes_moved(), 1e6, 1),
        f"{requests / images:.2f}" if requests else "–",
        *map(spread, ratios),
    )


def _kinds(rows: Sequence[Row]) -> Iterator[str]:
    """The requests by kind, one column for each kind that anybody made."""
    kinds = sorted({kind for row in rows for kind in row.requests()})
    if kinds:
        yield table(
            ("requests", *kinds),
            ((row.tool, *(f"{row.requests().get(kind, 0)}" for kind in kinds)) for row in rows if row.requests()),
        )


def _refusals(key: tuple[str, str], document: Mapping[str, Any]) -> Iterator[str]:
    said = dict.fromkeys(
        f"- {refusal['tool']} {_first_line(refusal['reason'])}"
        for refusal in document["refusals"]
        if (refusal["work"], refusal["step"]) == key
    )
    if said:
        yield "\n".join(said)


def _first_line(text: str) -> str:
    return " ".join(text.split())[:300]
