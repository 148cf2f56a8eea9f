"""The live view of a transfer on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncer.cli.display import Display, figures, images_done
from syncer.report import Measurement, human_bytes
from syncer.report.progress_meter import InFlight

_BLOBS_SHOWN = 5
_INTERVAL = 0.125  # seconds


class LiveDisplay(Display):
    """A few lines that are drawn again and again; failures scroll past above them."""

    interval = _INTERVAL

    def __init__(self, console: Console, live: Live, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self._live = live

    def _say(self, line: str) -> None:
        self._console.print(Text(line, style="red"), soft_wrap=True)

    def _show(self, measurement: Measurement) -> None:
        self._live.update(view(measurement), refresh=True)


@contextmanager
def open_live(stream: TextIO) -> Iterator[LiveDisplay]:
    """Draw on the terminal that ``stream`` is, as long as the ``with`` block lasts."""
    console = Console(file=stream, force_terminal=True, highlight=False)
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield LiveDisplay(console, live)


def view(measurement: Measurement) -> RenderableType:
    """A bar with the figures of the transfer, and below it the blobs with the most bytes to come."""
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(no_wrap=True)
    head.add_column(ratio=1, min_width=8)
    head.add_column(no_wrap=True, justify="right")
    head.add_row(
        Text(images_done(measurement)),
        ProgressBar(total=max(1, measurement.bytes), completed=measurement.bytes_done),
        Text(" · ".join(figures(measurement))),
    )
    blobs = [_blob(blob) for blob in measurement.in_flight[:_BLOBS_SHOWN]]
    if (more := len(measurement.in_flight) - _BLOBS_SHOWN) > 0:
        blobs.append(Text(f"  and {more} more", style="dim"))
    return Group(head, *blobs)


def _blob(blob: InFlight) -> Text:
    descriptor = blob.descriptor
    share = f"{100 * blob.done // descriptor.size if descriptor.size else 100:3} %"
    return Text(f"  {descriptor.digest.short}  {share} of {human_bytes(descriptor.size)}", style="dim", no_wrap=True)
