"""How plots look, whatever they show: one style, colours that all can tell apart, the same bytes for the same figures.

matplotlib draws them.  It is imported when something is drawn, since that takes a second, and the extra ``bench``
brings it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from benchmarks.results import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAN_DRAW = find_spec("matplotlib") is not None

OURS, QUIET = "#0072b2", "#9a9a9a"
COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31", "#5e4fa2", "#66a61e")
"""Of the peers: the colours of Okabe and Ito (https://jfly.uni-koeln.de/color), and three more beyond them."""
MARKERS = "os^Dv<>Ph"

_WIDTH = 10.0  # inches
_LINE = 0.27  # inches of one row of a plot
_LETTERS = 92  # of a headline's line
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "syncer",  # or each drawing would name its parts anew
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid.axis": "x",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}


class Drawing:
    """A figure under construction; after the block ``svg`` is what became of it."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = ""


@contextmanager
def drawing(headline: str, below: str, *, lines: float) -> Iterator[Drawing]:
    """A figure of so many ``lines`` of content: a ``headline`` that says what it shows, and more ``below`` it."""
    import matplotlib as mpl  # noqa: PLC0415  see above
    from matplotlib.figure import Figure  # noqa: PLC0415

    said = textwrap.wrap(headline, _LETTERS)
    told = textwrap.wrap(below, 150)
    head = 0.25 + 0.23 * len(said) + 0.17 * len(told)
    height = head + 0.1 + _LINE * lines
    with mpl.rc_context(_STYLE):
        made = Drawing(Figure(figsize=(_WIDTH, height)))
        made.figure.set_layout_engine("constrained", rect=(0.008, 0, 0.984, 1 - head / height))
        top = 1 - 0.12 / height
        made.figure.text(0.012, top, "\n".join(said), size=12, weight="bold", va="top")
        below_head = top - 0.23 * len(said) / height
        made.figure.text(0.012, below_head, "\n".join(told), size=8.5, color="#555555", va="top")
        yield made
        text = io.StringIO()
        made.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    made.svg = "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def whiskers(spread: Spread) -> list[list[float]]:
    """How far the least and the most of the rounds lie from the median, as matplotlib takes the errors of one point."""
    return [[spread.median - spread.low], [spread.high - spread.median]]


def ticks(axes: Axes, at: Sequence[float], *, across: bool = True) -> None:
    """Label these values, in words as short as they can be, and no others."""
    axis = axes.xaxis if across else axes.yaxis
    axis.set_ticks(at, [f"{value:g}" for value in at])
    axis.set_ticks([], minor=True)
