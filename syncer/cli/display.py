"""The display of a running transfer: a plain line now and then, or nothing; ``cli/live.py`` is the view on a terminal.

A transfer calls nothing but ``Display.__call__``, which only counts.  A thread of its own draws, so that a terminal
that is slow or stopped (Ctrl-S) holds up no transfer.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TextIO

from syncer.report import Measurement, ProgressMeter, human_bytes, human_seconds, printable
from syncer.transfer.events import Event, ImageFailed

_PLAIN_INTERVAL = 30.0  # seconds


class Mode(StrEnum):
    """The kinds of display."""

    AUTO = "auto"  # live on a terminal that can, else plain
    LIVE = "live"
    PLAIN = "plain"
    OFF = "off"


class Display(ABC):
    """An ``Emit`` that counts events, and shows the counts at its next drawing."""

    interval: float

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._meter = ProgressMeter()
        self._failures: deque[ImageFailed] = deque()

    def __call__(self, event: Event) -> None:
        self._meter(event)
        if isinstance(event, ImageFailed):
            self._failures.append(event)

    def expect(self, images: int) -> None:
        """Announce that many images more than so far, so that the view can say how many there are."""
        self._meter.expect(images)

    def draw(self) -> None:
        """Show the newest failures, and the counts."""
        self._show_failures()
        self._show(self._meter.measure(self._clock()))

    def end(self) -> None:
        """Show what has not been shown yet; a summary follows."""
        self.draw()

    def _show_failures(self) -> None:
        while self._failures:
            failed = self._failures.popleft()
            self._say(f"failed: {failed.item.source}: {printable(str(failed.error))}")

    @abstractmethod
    def _say(self, line: str) -> None: ...

    @abstractmethod
    def _show(self, measurement: Measurement) -> None: ...


class PlainDisplay(Display):
    """A line every 30 seconds if there is news: for log files, pipes and cron."""

    interval = _PLAIN_INTERVAL

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._stream = stream
        self._last = ""

    def end(self) -> None:
        self._show_failures()

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def _show(self, measurement: Measurement) -> None:
        line = plain_line(measurement)
        if measurement.images and line != self._last:
            self._say(line)
            self._last = line


class NoDisplay(Display):
    """Nothing at all."""

    interval = 3600.0

    def __call__(self, event: Event) -> None:
        pass

    def _say(self, line: str) -> None:
        pass

    def _show(self, measurement: Measurement) -> None:
        pass


def plain_line(measurement: Measurement) -> str:
    """The transfer in one line of plain text."""
    return ", ".join([images_done(measurement), *figures(measurement)])


def images_done(measurement: Measurement) -> str:
    failed = f" ({measurement.images_failed} failed)" if measurement.images_failed else ""
    return f"{measurement.images_done} of {measurement.images} images{failed}"


def figures(measurement: Measurement) -> list[str]:
    more = "+" if measurement.growing else ""
    said = [f"{human_bytes(measurement.bytes_done)} of {human_bytes(measurement.bytes)}{more}"]
    if measurement.rate is not None:
        said.append(f"{human_bytes(measurement.rate)}/s")
    if measurement.seconds_left is not None and measurement.bytes_done < measurement.bytes:
        said.append(f"{human_seconds(measurement.seconds_left)}{more} left")
    return said
