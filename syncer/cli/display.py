"""What a person sees while a transfer runs: a live view on a terminal, a plain line now and then elsewhere.

Nothing here is called by the transfer but ``Display.__call__``, which only counts; drawing happens in a
thread of its own, so that a terminal that is slow or held (Ctrl-S) holds up no transfer.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncer.report import Pace, Standing, human_bytes, human_seconds, printable
from syncer.report.pace import InFlight
from syncer.transfer.events import Event, ImageFailed

_BLOBS_SHOWN = 5
_LIVE_INTERVAL = 0.125  # seconds
_PLAIN_INTERVAL = 30.0  # seconds


class Mode(StrEnum):
    """How a transfer is shown."""

    AUTO = "auto"  # live on a terminal that can, else plain
    LIVE = "live"
    PLAIN = "plain"
    OFF = "off"


class Display(ABC):
    """An ``Emit`` that shows what it is told, sooner or later."""

    interval: float

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pace = Pace()
        self._failures: deque[ImageFailed] = deque()

    def __call__(self, event: Event) -> None:
        self._pace(event)
        if isinstance(event, ImageFailed):
            self._failures.append(event)

    def expect(self, images: int) -> None:
        """Announce that many images more than so far, so that the view can say "of how many"."""
        self._pace.expect(images)

    def draw(self) -> None:
        """Show the newest failures and how far the transfer is."""
        self._tell_failures()
        self._show(self._pace.look(self._clock()))

    def end(self) -> None:
        """Show what has not been shown; the summary that follows says how it ended."""
        self.draw()

    def _tell_failures(self) -> None:
        while self._failures:
            failed = self._failures.popleft()
            self._say(f"failed: {failed.item.source}: {printable(str(failed.error))}")

    @abstractmethod
    def _say(self, line: str) -> None: ...

    @abstractmethod
    def _show(self, standing: Standing) -> None: ...


class LiveDisplay(Display):
    """A few lines that are drawn over and over; failures scroll past above them."""

    interval = _LIVE_INTERVAL

    def __init__(self, console: Console, live: Live, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self._live = live

    def _say(self, line: str) -> None:
        self._console.print(Text(line, style="red"), soft_wrap=True)

    def _show(self, standing: Standing) -> None:
        self._live.update(view(standing), refresh=True)


class PlainDisplay(Display):
    """A line when there is news, rarely: for log files, pipes and cron."""

    interval = _PLAIN_INTERVAL

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._stream = stream
        self._last = ""

    def end(self) -> None:
        self._tell_failures()

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def _show(self, standing: Standing) -> None:
        line = plain_line(standing)
        if standing.images and line != self._last:
            self._say(line)
            self._last = line


class NoDisplay(Display):
    """Shows nothing."""

    interval = 3600.0

    def __call__(self, event: Event) -> None:
        pass

    def _say(self, line: str) -> None:
        pass

    def _show(self, standing: Standing) -> None:
        pass


@contextmanager
def open_display(stream: TextIO, *, mode: Mode = Mode.AUTO) -> Iterator[Display]:
    """The display writes to ``stream``, standard error as a rule, as long as the ``with`` block lasts.

    Colours follow ``NO_COLOR``; a dumb terminal gets plain lines.
    """
    if mode is Mode.AUTO:
        mode = Mode.LIVE if stream.isatty() and os.environ.get("TERM") != "dumb" else Mode.PLAIN
    if mode is Mode.LIVE:
        console = Console(file=stream, force_terminal=True, highlight=False)
        with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
            display: Display = LiveDisplay(console, live)
            with _drawn(display):
                yield display
    else:
        display = PlainDisplay(stream) if mode is Mode.PLAIN else NoDisplay()
        with _drawn(display):
            yield display


@contextmanager
def _drawn(display: Display) -> Iterator[None]:
    over = threading.Event()

    def draw() -> None:
        while not over.wait(display.interval):
            display.draw()

    thread = threading.Thread(target=draw, name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        display.end()


def plain_line(standing: Standing) -> str:
    """The transfer in one line of plain text."""
    return ", ".join([_images(standing), *_figures(standing)])


def view(standing: Standing) -> RenderableType:
    """The transfer as a bar with its figures, and the blobs with the most to come below it."""
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(no_wrap=True)
    head.add_column(ratio=1, min_width=8)
    head.add_column(no_wrap=True, justify="right")
    head.add_row(
        Text(_images(standing)),
        ProgressBar(total=max(1, standing.bytes), completed=standing.bytes_done),
        Text(" · ".join(_figures(standing))),
    )
    blobs = [_blob(blob) for blob in standing.in_flight[:_BLOBS_SHOWN]]
    if (more := len(standing.in_flight) - _BLOBS_SHOWN) > 0:
        blobs.append(Text(f"  and {more} more", style="dim"))
    return Group(head, *blobs)


def _images(standing: Standing) -> str:
    failed = f" ({standing.images_failed} failed)" if standing.images_failed else ""
    return f"{standing.images_done} of {standing.images} images{failed}"


def _figures(standing: Standing) -> list[str]:
    more = "+" if standing.growing else ""
    figures = [f"{human_bytes(standing.bytes_done)} of {human_bytes(standing.bytes)}{more}"]
    if standing.rate is not None:
        figures.append(f"{human_bytes(standing.rate)}/s")
    if standing.seconds_left is not None and standing.bytes_done < standing.bytes:
        figures.append(f"{human_seconds(standing.seconds_left)}{more} left")
    return figures


def _blob(blob: InFlight) -> Text:
    descriptor = blob.descriptor
    share = f"{100 * blob.done // descriptor.size if descriptor.size else 100:3} %"
    return Text(f"  {descriptor.digest.short}  {share} of {human_bytes(descriptor.size)}", style="dim", no_wrap=True)
