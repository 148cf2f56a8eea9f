"""The plots that follow from a run's document: what each tool costs, what bounds each work, and how cost grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.bounds import PARTS, bounds_of
from benchmarks.heat_map import heat_map
from benchmarks.plot import COLOURS, MARKERS, OURS, QUIET, drawing, ticks, whiskers
from benchmarks.results import OWN, Row, Spread, fastest, rows_of
from benchmarks.sweep import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPREAD = "Medians; the whiskers are the least and the most of the rounds."
_AGAIN = {"no-op push": "push again", "no-op sync": "sync again"}


def plots(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name of each file, and the SVG that is in it."""
    rows = rows_of(document)
    drawn: dict[str, Callable[[], str | None]] = {
        "costs.svg": lambda: _costs(rows),
        "ratios.svg": lambda: _ratios(rows),
        "bounds.svg": lambda: _bounds(rows, document["machine"]["cores"]),
        "growth.svg": lambda: _growth(rows, document["corpora"]),
    }
    for name, draw in drawn.items():
        if svg := draw():
            yield name, svg
    for tried in document["sweeps"]:
        trials = [Trial(**trial) for trial in tried["trials"]]
        yield f"sweep-{tried['corpus']}.svg", heat_map(trials, tried["title"])


def _is_peer(row: Row) -> bool:
    return row.tool not in OWN


def _compared(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Each row of syncer, with those of the tools that did the same."""
    for ours in (row for row in rows if row.tool == "syncer" and row.spread("wall")):
        others = [row for row in rows if row.key == ours.key and row is not ours and row.spread("wall")]
        if others:
            yield ours, others


def _costs(rows: Sequence[Row]) -> str | None:
    """Wall and CPU of every tool at each step of the first work, as bars."""
    first = next((row.work for row in rows if _is_peer(row)), None)
    steps = [(ours, [ours, *others]) for ours, others in _compared(rows) if ours.work == first]
    steps = [(ours, group) for ours, group in steps if any(map(_is_peer, group))]
    if not first or not steps:
        return None
    headline = f"Where the fastest peer takes 1 s, syncer takes {_listed(list(_told(steps)))}"
    below = f"Seconds of each tool; the work is {first}. {_SPREAD} The floor is no tool."
    with drawing(headline, below, lines=sum(len(group) + 1.4 for _, group in steps)) as made:
        heights = [len(group) + 0.6 for _, group in steps]
        grid = made.figure.subplots(len(steps), 2, squeeze=False, height_ratios=heights)
        for (ours, group), (left, right) in zip(steps, grid, strict=True):
            ordered = sorted(group, key=lambda row: -row.median("wall"))
            for axes, measure, title in ((left, "wall", "wall"), (right, "client_cpu", "client CPU")):
                _bars(axes, ordered, measure)
                axes.set_title(f"{ours.step}: {title}, s", loc="left", size=9, weight="bold")
            right.tick_params(labelleft=False)
    return made.svg


def _told(steps: Sequence[tuple[Row, Sequence[Row]]]) -> Iterator[str]:
    for ours, group in steps:
        peer = fastest(group, _is_peer)
        ratio = ours.ratio_to(peer, "wall") if peer else None
        if ratio:
            yield f"{ratio.median:.2f} to {_AGAIN.get(ours.step, ours.step)}"


def _bars(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    for place, row in enumerate(rows):
        spread = row.spread(measure)
        assert spread
        colour = OURS if row.tool == "syncer" else QUIET if _is_peer(row) else "white"
        axes.barh(
            place, spread.median, xerr=whiskers(spread), color=colour, edgecolor="#555555", linewidth=0.6,
            error_kw={"elinewidth": 1, "capsize": 2},
        )  # fmt: skip
        axes.annotate(f"{spread.median:.2f}", (spread.high, place), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [row.tool for row in rows])
    axes.set_xticks([])  # the figures stand at the bars
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.12)


def _ratios(rows: Sequence[Row]) -> str | None:
    """How long the others take where syncer takes 1: a line for each step of each work, a mark for each tool."""
    groups = [(ours, others) for ours, others in _compared(rows) if any(map(_is_peer, others))]
    if not groups:
        return None
    won = sum(all(_takes(other, ours).median >= 1 for other in others if _is_peer(other)) for ours, others in groups)
    headline = f"No other tool is faster than syncer in {won} of {len(groups)} works"
    below = (
        f"How long each tool takes where syncer takes 1, round by round, on a logarithmic axis. {_SPREAD} "
        "To the right of the line syncer is faster. What is hollow is no peer."
    )
    tools = list(dict.fromkeys(row.tool for _, others in groups for row in others))
    peers = [tool for tool in tools if tool not in OWN]
    with drawing(headline, below, lines=1.1 * len(groups) + 3) as made:
        axes = made.figure.add_subplot()
        axes.set_xscale("log")
        known: dict[str, Any] = {}
        for place, (ours, others) in enumerate(groups):
            axes.axhline(place, color="#eeeeee", linewidth=7, zorder=0)
            for row in others:
                ratio = _takes(row, ours)
                number = peers.index(row.tool) if row.tool in peers else 0
                colour = COLOURS[number % len(COLOURS)] if row.tool in peers else "#555555"
                known[row.tool] = axes.errorbar(
                    ratio.median, place, xerr=whiskers(ratio), color=colour, linewidth=1, markersize=6,
                    marker=MARKERS[number % len(MARKERS)] if row.tool in peers else "D" if row.tool == "floor" else "s",
                    markerfacecolor=colour if row.tool in peers else "white",
                )  # fmt: skip
        axes.axvline(1, color=OURS, linewidth=1.5)
        axes.set_yticks(range(len(groups)), [f"{ours.step}: {ours.work}" for ours, _ in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        low, high = axes.get_xlim()
        ticks(axes, [value for value in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= value <= high])
        axes.grid(visible=True)
        shown = [known[tool] for tool in tools]
        made.figure.legend(handles=shown, labels=tools, loc="outside lower center", ncols=min(6, len(tools)))
    return made.svg


def _takes(row: Row, ours: Row) -> Spread:
    ratio = row.ratio_to(ours, "wall")
    assert ratio  # both were timed in the same rounds
    return ratio


def _bounds(rows: Sequence[Row], cores: int) -> str | None:
    """What the cores did while syncer worked, and what it waited for while they were idle: a bar for each step."""
    found = [(row, bounds) for row in rows if row.tool == "syncer" and (bounds := bounds_of(row, cores))]
    if not found:
        return None
    counted: dict[str, int] = {}
    for _, bounds in found:
        counted[bounds.most] = counted.get(bounds.most, 0) + 1
    untold = counted.pop("", 0)
    ordered = sorted(counted.items(), key=lambda each: -each[1])
    causes = [f"{cause} bounds {number}" for cause, number in ordered] + ["nothing tells of " + str(untold)] * bool(
        untold
    )
    headline = f"Of {len(found)} works {_listed(causes)}"
    below = (
        f"The time of all {cores} cores while syncer worked, as the system counted it (medians of the rounds). Idle "
        "time is divided by syncer's own report: one thread had all the work, or requests and files waited."
    )
    with drawing(headline, below, lines=1.1 * len(found) + 3.5) as made:
        axes = made.figure.add_subplot()
        for place, (_, bounds) in enumerate(found):
            left = 0.0
            for part, (colour, hatch) in _PARTS.items():
                width = 100 * bounds.shares.get(part, 0.0)
                if width:
                    axes.barh(place, width, 0.75, left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
                left += width
        axes.set_yticks(range(len(found)), [f"{row.step}: {row.work}" for row, _ in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the cores' time")
        shown = [axes.barh(0, 0, color=colour, hatch=hatch, edgecolor="white") for colour, hatch in _PARTS.values()]
        made.figure.legend(handles=shown, labels=list(_PARTS), loc="outside lower center", ncols=5)
    return made.svg


_PARTS = dict(
    zip(
        PARTS,
        (
            (OURS, ""),
            ("#e69f00", ""),
            (QUIET, ""),
            ("#cfe3ef", ""),
            ("#56b4e9", "//"),
            ("#009e73", "//"),
            ("#000000", ""),
            ("#d55e00", ""),
            ("#f0f0f0", "xx"),
        ),
        strict=True,
    )
)


def _growth(rows: Sequence[Row], corpora: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Seconds by number of images, for each step of syncer over the corpora that grow."""
    series: dict[str, list[tuple[float, Spread]]] = {}
    for row in rows:
        wall = row.spread("wall")
        if row.tool == "syncer" and row.corpus.startswith("many") and wall:
            series.setdefault(row.step, []).append((corpora[row.corpus]["images"], wall))
    grown = {step: sorted(points, key=lambda point: point[0]) for step, points in series.items() if len(points) > 1}
    if not grown:
        return None
    (least, _), (most, _) = next(iter(grown.values()))[0], next(iter(grown.values()))[-1]
    costs = [f"{_growing(points):.2f} to {_AGAIN.get(step, step)}" for step, points in grown.items()]
    headline = f"Where an image among {least:,} costs 1, one among {most:,} costs {_listed(costs)}"
    below = f"Seconds of syncer by number of images, on logarithmic axes. {_SPREAD} Grey lines: time that is linear."
    with drawing(headline, below, lines=16) as made:
        axes = made.figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for number, (step, points) in enumerate(grown.items()):
            across, walls = [images for images, _ in points], [wall for _, wall in points]
            linear = [walls[0].median * images / across[0] for images in across]
            axes.plot(across, linear, color=QUIET, linewidth=1, linestyle=":")
            axes.errorbar(
                across, [wall.median for wall in walls], label=step, color=COLOURS[number], marker=MARKERS[number],
                yerr=[[wall.median - wall.low for wall in walls], [wall.high - wall.median for wall in walls]],
                capsize=3,
            )  # fmt: skip
        ticks(axes, sorted({images for points in grown.values() for images, _ in points}))
        low, high = axes.get_ylim()
        marks = [value * 10**power for power in range(-2, 5) for value in (1, 2, 5)]
        ticks(axes, [value for value in marks if low <= value <= high], across=False)
        axes.set_xlabel("images")
        axes.set_ylabel("seconds")
        axes.grid(visible=True, axis="y")
        axes.legend()
    return made.svg


def _growing(points: Sequence[tuple[float, Spread]]) -> float:
    (few, less), (many, more) = points[0], points[-1]
    return more.median / less.median * few / many


def _listed(words: Sequence[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)
