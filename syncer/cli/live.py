"""The live view of a transfer or a fleet on a terminal."""

from __future__ import annotations

import os
import textwrap
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from msgspec import Struct
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncer.cli.display import figures, images_done
from syncer.report import Measurement, human_bytes, human_seconds, printable
from syncer.report.progress_meter import LEAST, FleetMeasurement, InFlight, SiteUnderWay
from syncer.report.summary import quantity

_BLOBS_SHOWN = 5
_WAITS_SHOWN = 3
_INDENT = 2  # columns
_GAP = 2
_NAME = 26  # columns that a name gets before figures do, if it is as long
_LEAST_BAR = 10
_LEAST_LINES = 8
_ERASE_BELOW = "\x1b[J"
_ERASE_RIGHT = "\x1b[K"
_CUT, _BREAK = "\x1b[?7l", "\x1b[?7h"  # lines that are too long (DECAWM), which a terminal breaks as a rule


class TerminalScreen:
    """A view in the last lines of a terminal, drawn in its own place; lines that stay go above it.

    The cursor rests where the view begins.  A terminal that breaks its lines anew when it narrows takes the cursor
    along, so the next view is drawn over all of the one before, however many lines that has become.
    """

    def __init__(self, stream: TextIO, size: Callable[[], os.terminal_size] | None = None) -> None:
        self._stream = stream
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._size = size or self._ask_size
        self._lock = threading.Lock()

    def _ask_size(self) -> os.terminal_size:
        """The size that the terminal has now, whatever ``COLUMNS`` said in the beginning."""
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(self._stream.fileno())
            if size.columns and size.lines:
                return size
        return os.terminal_size(self._console.size)

    def say(self, line: str, style: str = "") -> None:
        """Print a line above the view, which is drawn again the next time."""
        with self._console.capture() as captured:
            self._console.print(Text(line, style=style), soft_wrap=True)
        self._write(_ERASE_BELOW + captured.get())

    def show(self, measurement: Measurement | FleetMeasurement) -> None:
        """Draw the view of ``measurement``; a terminal of few lines gets its first ones."""
        size = self._size()
        width, height = max(1, size.columns - 1), max(1, size.lines - 1)  # a full line would wrap
        drawn = (
            sites_view(measurement, width, height)
            if isinstance(measurement, FleetMeasurement)
            else view(measurement, width, height)
        )
        with self._console.capture() as captured:
            self._console.print(drawn, width=width)
        lines = [line.rstrip() for line in captured.get().splitlines()][:height]
        up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        body = f"{_ERASE_RIGHT}\r\n".join(lines) + _ERASE_BELOW
        self._write(f"\r{_CUT}{body}{_BREAK}\r{up}")  # tmux says a quarter of a second late that it has narrowed

    def clear(self) -> None:
        """Leave nothing of the view."""
        self._write(f"\r{_ERASE_BELOW}")

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()


def view(measurement: Measurement, width: int, height: int) -> RenderableType:
    """Bars of all and of each target, what holds the run up, and the blobs with the most bytes to come.

    The view takes half of the ``height`` at most, as ``sites_view`` does.
    """
    room = max(_LEAST_LINES, height // 2)
    so_far = human_seconds(measurement.seconds) if measurement.seconds >= 1 else ""
    lines = _bar(images_done(measurement), so_far, measurement.bytes, measurement.bytes_done, width)
    lines += _wrapped(printable(measurement.step or " · ".join(figures(measurement))), width, "")
    lines += [line for wait in measurement.waits[:_WAITS_SHOWN] for line in _wrapped(printable(wait), width, "yellow")]
    for target in measurement.targets[: max(0, room - len(lines) - 2)]:
        failed = f" ({target.images_failed} failed)" if target.images_failed else ""
        done = f"{target.images_done} of {target.images} images{failed}"
        name = shortened(printable(target.name), max(1, width - len(done) - _LEAST_BAR - _INDENT - _GAP))
        lines += _bar(f"  {name}", done, target.images, target.images_done, width)
    room -= len(lines) + 1
    shown = measurement.in_flight[: max(0, min(_BLOBS_SHOWN, room))]
    lines += [Text(_blob(blob, width), style="dim", no_wrap=True, overflow="ellipsis") for blob in shown]
    if shown and (more := len(measurement.in_flight) - len(shown)) > 0:
        lines.append(Text(f"  and {more} more", style="dim"))
    return Group(*lines)


def _bar(left: str, right: str, total: int, done: int, width: int) -> list[RenderableType]:
    """A line of a bar between two texts; the texts alone where there is no room for one."""
    if cell_len(left) + cell_len(right) + _LEAST_BAR > width:
        return _wrapped(f"{left} · {right}" if right else left, width, "")
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(Text(left), ProgressBar(total=max(1, total), completed=done), Text(right))
    return [row]


def _wrapped(text: str, width: int, style: str) -> list[RenderableType]:
    return [Text(line, style) for line in textwrap.wrap(text, width)]


def _blob(blob: InFlight, width: int) -> str:
    """The name of a blob's image, and its figures; in a narrow window the figures go first."""
    size = blob.descriptor.size
    lacking = "answer" if blob.done >= size else "bytes"
    still = f", no {lacking} for {blob.still:.0f} s" if blob.still is not None else ""
    told = f"{100 * blob.done // size if size else 100:3} % of {human_bytes(size)}{still}"
    room = width - len(told) - _INDENT - _GAP
    name = shortened(printable(blob.name), room) if room >= _LEAST_BAR else ""
    return f"  {name}  {told}" if name else f"  {told}"


def sites_view(measurement: FleetMeasurement, width: int, height: int) -> RenderableType:
    """A bar with the figures of all sites, why some failed, and the sites under way that began first.

    The view takes half of the ``height`` at most: when the window narrows, a line becomes two, and what does not fit
    any more is out of reach.
    """
    height = max(_LEAST_LINES, height // 2)
    head = _fleet_head(measurement, width)
    causes = _cause_lines(measurement.causes, width, height // 3)
    waits = [wait for site in measurement.under_way for wait in site.transfer.waits][:_WAITS_SHOWN]
    causes += [Text(line, "yellow") for wait in waits for line in textwrap.wrap(printable(wait), width)][: height // 4]
    room = height - len(head) - len(causes) - 2  # the heading, and how many more there are
    shown = measurement.under_way[: max(0, room)]
    parts: list[RenderableType] = [*head, *causes]
    if shown:
        parts.append(_sites_table(shown, width))
    if more := len(measurement.under_way) - len(shown):
        parts.append(Text(f"  and {more:,} more under way", style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _fleet_head(measurement: FleetMeasurement, width: int) -> list[RenderableType]:
    failed = f" ({measurement.failed:,} failed)" if measurement.failed else ""
    done = f"{measurement.ended:,} of {quantity(measurement.sites, 'site')}{failed}"
    said = [human_bytes(measurement.bytes_moved)] if measurement.bytes_moved else []
    if said and measurement.rate is not None:
        said.append(f"{human_bytes(measurement.rate)}/s")
    if measurement.seconds_left is not None and measurement.seconds_left >= 1:
        said.append(f"{human_seconds(measurement.seconds_left)} left")
    told = " · ".join(said)
    if len(done) + len(told) + _LEAST_BAR > width:
        return [Text(line) for part in (done, told) for line in textwrap.wrap(part, width)]
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True, justify="right")
    head.add_row(Text(done), ProgressBar(total=max(1, measurement.sites), completed=measurement.ended), Text(told))
    return [head]


def _cause_lines(causes: Sequence[tuple[str, Sequence[str]]], width: int, room: int) -> list[Text]:
    """One line for each cause with as many sites as fit into it; a cause that fills a line has more of them."""
    lines: list[str] = []
    for number, (cause, names) in enumerate(causes):
        told = textwrap.wrap(_cause_text(cause, names, width), width)
        is_last = number == len(causes) - 1
        if len(lines) + len(told) > room - (not is_last):
            left = causes[number:]
            sites = sum(len(names) for _, names in left)
            lines.append(f"failed: for {quantity(len(left), 'more cause')}: {quantity(sites, 'site')}"[:width])
            break
        lines += told
    return [Text(line, "red") for line in lines]


def _cause_text(cause: str, names: Sequence[str], width: int) -> str:
    said = f"failed: {printable(cause)}: {quantity(len(names), 'site')}"
    for count in range(len(names), 0, -1):
        more = f" and {len(names) - count:,} more" if count < len(names) else ""
        line = f"{said}: {printable(', '.join(names[:count]))}{more}"
        if cell_len(line) <= width:
            return line
    return said


class _Column(Struct, frozen=True):
    title: str
    width: int  # of the longest text, so that no column moves while figures change
    text: Callable[[SiteUnderWay], str]


def _share(site: SiteUnderWay) -> str:
    transfer = site.transfer
    return f"{100 * transfer.bytes_done // transfer.bytes} %" if transfer.bytes else ""


def _bytes(site: SiteUnderWay) -> str:
    transfer = site.transfer
    return f"{human_bytes(transfer.bytes_done)} of {human_bytes(transfer.bytes)}" if transfer.bytes else ""


def _rate(site: SiteUnderWay) -> str:
    transfer = site.transfer
    return f"{human_bytes(transfer.rate)}/s" if transfer.bytes and transfer.rate is not None else ""


def _left(site: SiteUnderWay) -> str:
    transfer = site.transfer
    is_known = transfer.seconds_left is not None and transfer.bytes_done < transfer.bytes and site.seconds >= LEAST
    return human_seconds(transfer.seconds_left or 0.0) if is_known else ""


_COLUMNS = (
    _Column("done", 5, _share),
    _Column("bytes", 18, _bytes),
    _Column("rate", 9, _rate),
    _Column("time left", 11, _left),
    _Column("so far", 11, lambda site: human_seconds(site.seconds)),
)
_WANTED = (0, 3, 1, 2, 4)  # the columns, the most useful one first


def _sites_table(sites: Sequence[SiteUnderWay], width: int) -> Table:
    """A row a site, with as many of the columns as leave room for the names; those without a figure are left out."""
    room = width - _INDENT
    least = min(_NAME, max(cell_len(printable(site.name)) for site in sites))
    chosen: dict[int, list[str]] = {}
    for number in _WANTED:
        column = _COLUMNS[number]
        texts = [column.text(site) for site in sites]
        if room - column.width - _GAP >= least and any(texts):
            chosen[number] = texts
            room -= column.width + _GAP
    table = Table.grid()
    table.add_column(no_wrap=True, min_width=_INDENT + room)
    for number in sorted(chosen):
        table.add_column(no_wrap=True, min_width=_COLUMNS[number].width + _GAP, justify="right")
    table.add_row("  site", *(_COLUMNS[number].title for number in sorted(chosen)), style="dim")
    for at, site in enumerate(sites):
        cells = [Text(chosen[number][at]) for number in sorted(chosen)]
        table.add_row(Text("  " + shortened(printable(site.name), room)), *cells)
    return table


def shortened(name: str, width: int) -> str:
    """``name`` in ``width`` columns at most: its beginning and its end, which tell more than its middle."""
    if cell_len(name) <= width:
        return name
    end = ""
    for character in reversed(name):
        if cell_len(end) + cell_len(character) > (width - 1) // 2:
            break
        end = character + end
    return f"{set_cell_size(name, max(0, width - 1 - cell_len(end))).rstrip()}…{end}"
