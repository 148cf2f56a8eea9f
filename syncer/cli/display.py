"""The display of a running transfer or fleet: a view on a terminal, a plain line now and then, or nothing.

A transfer calls nothing but ``Display.__call__``, which only counts.  A thread of its own draws, so that a terminal
that is slow or stopped (Ctrl-S) holds up no transfer.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol, TextIO

from syncer.report import Measurement, ProgressMeter, human_bytes, human_seconds, printable
from syncer.report.progress_meter import FleetMeasurement, FleetMeter, short_reason
from syncer.report.summary import NO_NAMES, cause_in, first_line, with_names
from syncer.transfer.events import CameBack, Emit, Event, ImageFailed, Paused, Postponed, Retried, Stalled, WentAway

_PLAIN_INTERVAL = 30.0  # seconds between two lines about how far a run is
_SOON = 1.0  # seconds within which a line about a failure or a wait is written
_WORTH_A_LINE = 5.0  # seconds of a wait
_LIVE_INTERVAL = 0.125
_SITES_INTERVAL = 0.25
_MOST_CAUSES = 20  # of failures, that are told while a transfer runs


class Mode(StrEnum):
    """The kinds of display."""

    AUTO = "auto"  # live on a terminal that can, else plain
    LIVE = "live"
    PLAIN = "plain"
    OFF = "off"


class Screen(Protocol):
    """A terminal with a view that is drawn again and again, as ``cli.live`` does it; any thread may call it."""

    def say(self, line: str, style: str = "") -> None:
        """Print a line that stays, above the view."""
        ...

    def show(self, measurement: Measurement | FleetMeasurement) -> None:
        """Draw the view of ``measurement`` in the place of the one before."""
        ...


class Drawn(Protocol):
    """Something that a thread draws every ``interval`` seconds, and for the last time by ``end``."""

    @property
    def interval(self) -> float: ...

    def draw(self) -> None: ...

    def end(self) -> None: ...


class Display(ABC):
    """An ``Emit`` that counts events, and shows the counts at its next drawing."""

    interval: float
    screen: Screen | None = None

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._meter = ProgressMeter()
        self._failures: deque[ImageFailed | Postponed] = deque()
        self._told: set[str] = set()  # causes of failures
        self._waits: deque[str] = deque()
        self.names: Mapping[str, str] = NO_NAMES  # of hosts

    def __call__(self, event: Event) -> None:
        self._meter(event)
        if isinstance(event, ImageFailed | Postponed):
            self._failures.append(event)
        elif line := wait_line(event):
            self._waits.append(line)

    def expect(self, images: int) -> None:
        """Announce more images, so that the view can show how many there are."""
        self._meter.expect(images)

    def draw(self) -> None:
        """Show the newest failures, and the counts."""
        self._show_failures()
        self._show(self._meter.measure(self._clock()))

    def end(self) -> None:
        """Show what has not been shown yet; a summary follows."""
        self.draw()

    def _show_failures(self) -> None:
        """Say the first failure of each cause; the summary counts the others."""
        while self._failures:
            failed = self._failures.popleft()
            cause = cause_in(failed.error, failed.item.source, failed.item.target)
            if cause in self._told or len(self._told) > _MOST_CAUSES:
                continue
            self._told.add(cause)
            if len(self._told) > _MOST_CAUSES:
                self._say("failed: for more causes, which the summary tells")
                continue
            again = " (it is tried once more at the end)" if isinstance(failed, Postponed) else ""
            line = first_line(failed.error, failed.item.source, failed.item.target)
            self._say(f"failed: {with_names(line, self.names)}{again}")

    @abstractmethod
    def _say(self, line: str) -> None: ...

    @abstractmethod
    def _show(self, measurement: Measurement) -> None: ...


class LiveDisplay(Display):
    """A view on a terminal; failures scroll past above it."""

    interval = _LIVE_INTERVAL

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self.screen: Screen = screen

    def _say(self, line: str) -> None:
        self.screen.say(line, style="red")

    def _show(self, measurement: Measurement) -> None:
        self.screen.show(measurement)


class PlainDisplay(Display):
    """A line every 30 seconds if there is news, and one for each wait: for log files, pipes and cron."""

    interval = _SOON

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._stream = stream
        self._last = ""
        self._due = clock()  # when the next line about how far it is may be written

    def end(self) -> None:
        self._show_failures()

    def draw(self) -> None:
        """Write what has not been written yet."""
        while self._waits:
            self._say(self._waits.popleft())
        super().draw()

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def _show(self, measurement: Measurement) -> None:
        if self._clock() < self._due or not measurement.images:
            return
        line = plain_line(measurement)
        if line != self._last:
            self._say(line)
            self._last, self._due = line, self._clock() + _PLAIN_INTERVAL


class NoDisplay(Display):
    """A display that shows nothing."""

    interval = 3600.0

    def __call__(self, event: Event) -> None:
        pass

    def _say(self, line: str) -> None:
        pass

    def _show(self, measurement: Measurement) -> None:
        pass


class SitesDisplay:
    """The display of a fleet: a table of the sites under way on a ``screen``, else a line for each site that ends."""

    interval = _SITES_INTERVAL

    def __init__(
        self, sites: int, screen: Screen | None, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sites = sites
        self._screen = screen
        self._stream = stream
        self._clock = clock
        self._meter = FleetMeter(sites, clock())
        self._lines: deque[str] = deque()
        self._told: set[str] = set()  # sites that have their line

    def begin(self, name: str) -> Emit | None:
        """Note that a site begins; returns who hears of the events there."""
        meter = self._meter.begin(name, self._clock())
        return meter if self._screen else None

    def tell(self, name: str, line: str, cause: str | None) -> None:
        """Note that a site has ended, of which ``line`` tells, and the cause for which it failed.

        Of a site that is visited twice the first end is told, and the summary tells how it ended at last.
        """
        self._meter.end(name, self._clock(), cause)
        if self._screen is None and name not in self._told:
            self._told.add(name)
            self._lines.append(f"{self._meter.ended} of {self._sites}: {line}")

    def draw(self) -> None:
        """Show the table, or the newest lines."""
        if self._screen:
            self._screen.show(self._meter.measure(self._clock()))
            return
        while self._lines:
            print(self._lines.popleft(), file=self._stream, flush=True)

    def end(self) -> None:
        """Show what has not been shown yet; a summary follows."""
        self.draw()


@contextmanager
def drawing(display: Drawn) -> Iterator[None]:
    """Let a thread draw ``display`` as long as the ``with`` block lasts."""
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


def wait_line(event: Event) -> str | None:
    """A line about something that holds a run up for long; None for other events."""
    match event:
        case Paused(host, seconds, reason) if seconds >= _WORTH_A_LINE:
            return printable(f"{host} asks to wait for {human_seconds(seconds)}: {reason}")
        case Retried(host, number, most, _, reason) if number > 1:
            return printable(f"{host}: retry {number} of {most}: {short_reason(reason)}")
        case WentAway(host, reason):
            return printable(f"{host} is away, and is asked again: {short_reason(reason)}")
        case CameBack(host):
            return printable(f"{host} is back, or is not waited for any more")
        case Stalled(descriptor, image, seconds):
            return printable(
                f"{str(image).partition('@')[0]}: no bytes of {descriptor.digest.short} for {seconds:.0f} s"
            )
        case _:
            return None


def plain_line(measurement: Measurement) -> str:
    """The transfer in one line of plain text."""
    told = [printable(measurement.step)] if measurement.step else figures(measurement)
    return ", ".join([images_done(measurement), *told])


def images_done(measurement: Measurement) -> str:
    failed = f" ({measurement.images_failed} failed)" if measurement.images_failed else ""
    return f"{measurement.images_done} of {measurement.images} images{failed}"


def share_done(measurement: Measurement) -> str:
    """The share of the bytes that is there; nothing while nobody knows how many there will be."""
    if measurement.growing or not measurement.bytes:
        return ""
    return f"{100 * measurement.bytes_done // measurement.bytes} %"


def figures(measurement: Measurement) -> list[str]:
    if not measurement.bytes:
        return []  # nothing is known yet, or there is nothing to bring
    more = "+" if measurement.growing else ""
    said = [share] if (share := share_done(measurement)) else []
    said += [f"{human_bytes(measurement.bytes_done)} of {human_bytes(measurement.bytes)}{more}"]
    if measurement.rate is not None:
        said.append(f"{human_bytes(measurement.rate)}/s")
    if measurement.seconds_left is not None and measurement.bytes_done < measurement.bytes:
        said.append(f"{human_seconds(measurement.seconds_left)}{more} left")
    return said
