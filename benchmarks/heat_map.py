"""A sweep as a heat map: a cell for each pair of settings, the best one and that of no flag marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.plot import drawing
from benchmarks.sweep import FOUND_OUT, Trial, best, default

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BEST = "#d55e00"
_DARK = 0.55  # of the colours, from which on what is written on them is white


def heat_map(trials: Sequence[Trial], title: str) -> str:
    """Throughput by concurrency and by size of chunks, as SVG."""
    across = sorted({trial.concurrency for trial in trials})
    up = sorted({trial.chunk_mib for trial in trials})
    rates = {(trial.concurrency, trial.chunk_mib): trial.rates for trial in trials}
    spread = "the median, and the least and the most of the rounds" if trials[0].rounds else "one push each"
    below = f"{title}: MB/s of {spread}, by --concurrency (across) and --chunk-size (up)."
    with drawing(headline(trials), below, lines=2.2 * len(up) + 2.5) as made:
        axes = made.figure.add_subplot()
        medians = [[rates[x, y].median if (x, y) in rates else math.nan for x in across] for y in up]
        drawn = axes.imshow(medians, aspect="auto", origin="lower", cmap="Blues", vmin=0)
        for row, y in enumerate(up):
            for column, x in enumerate(across):
                if found := rates.get((x, y)):
                    least, most = found.spread
                    more = f"\n{least:.3g} to {most:.3g}" if len(found.values) > 1 else ""
                    is_dark = found.median > _DARK * max(each.median for each in rates.values())
                    axes.text(
                        column, row, f"{found.median:.3g}{more}",
                        ha="center", va="center", color="white" if is_dark else "black",
                    )  # fmt: skip
        axes.set_xticks(range(len(across)), ["no flag" if x == FOUND_OUT else str(x) for x in across])
        axes.set_yticks(range(len(up)), [f"{y} MiB" for y in up])
        axes.set_xlabel("--concurrency")
        axes.set_ylabel("--chunk-size")
        axes.spines[:].set_visible(False)
        marks = [(best(trials), _BEST, "best"), (default(trials), "black", "no flag")]
        for trial, colour, name in marks:
            if trial:
                _mark(axes, (across.index(trial.concurrency), up.index(trial.chunk_mib)), colour, name)
        made.figure.colorbar(drawn, ax=axes, label="MB/s", pad=0.01)
    return made.svg


def _mark(axes: Axes, place: tuple[int, int], colour: str, name: str) -> None:
    """A frame within the cell at ``place``, and its name in a corner; the best one's is the outer frame."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415  see plot.py

    is_best = name == "best"
    side = 0.94 if is_best else 0.84
    corner = place[0] - side / 2, place[1] - side / 2
    for edge, width, style in (("white", 4.5, "-"), (colour, 2.5, "-" if is_best else "--")):
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=edge, linewidth=width, linestyle=style))
    axes.text(
        place[0] + (-0.44 if is_best else 0.44), place[1] + 0.44, name,
        ha="left" if is_best else "right", va="top", size=8, weight="bold", color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def headline(trials: Sequence[Trial]) -> str:
    """Say which flags to use, as far as the rounds prove it."""
    chosen, without = best(trials), default(trials)
    slowest = min(trials, key=lambda trial: trial.rates.median)
    if chosen is without:
        return (
            "No flag is needed: nothing that was tried is faster than the default by more than the spread of the rounds"
        )
    if without is None:
        times = chosen.rates.median / slowest.rates.median
        return f"{chosen.flags} pushes {times:.2f} times as fast as {slowest.flags or 'no flag'}, the slowest setting"
    return f"{chosen.flags} pushes {chosen.rates.median / without.rates.median:.2f} times as fast as no flag"
