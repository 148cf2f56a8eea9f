import contextlib
import io
import os
import pty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from syncer.cli.display import Mode, PlainDisplay
from syncer.cli.live import TerminalScreen, shortened, sites_view, view
from syncer.cli.output import open_display
from syncer.content import FileProgress, Item, Progress
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.report.progress_meter import FleetMeasurement, InFlight, Measurement, SiteUnderWay, TargetUnderWay
from syncer.transfer.events import (
    Compacting,
    Copied,
    Found,
    ImageCopied,
    ImageFailed,
    Paused,
    Retried,
    Stalled,
    Started,
)
from tests.support.terminal import Terminal

ROOT = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"root"), 400)
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(b"layer"), 2_000_000)
ALPHA = Item(Reference.parse("quay.io/alpha:1"), Reference.parse("t.io/alpha:1"))
BETA = Item(Reference.parse("quay.io/beta:1"), Reference.parse("t.io/beta:1"))


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def measurement(**figures: object) -> Measurement:
    common: dict[str, object] = {
        "images": 60,
        "images_done": 12,
        "images_failed": 0,
        "bytes": 3_400_000_000,
        "bytes_done": 1_200_000_000,
        "growing": False,
        "rate": 85_000_000.0,
        "seconds_left": 25.9,
        "in_flight": (),
    }
    return Measurement(**(common | figures))  # type: ignore[arg-type]  # a mapping's values have one type


def rendered(look: Measurement, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(view(look, width, 24))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_view_says_images_time_bytes_rate_and_time_left() -> None:
    head, figures = rendered(measurement(seconds=42.0))

    assert head.startswith("12 of 60 images ━")
    assert head.endswith(" 42 s")
    assert figures == "35 % · 1.20 GB of 3.40 GB · 85.0 MB/s · 26 s left"


def test_while_discovery_runs_totals_are_marked_as_growing() -> None:
    head, figures = rendered(measurement(growing=True, images_failed=2))

    assert head.startswith("12 of 60 images (2 failed) ━")
    assert figures == "1.20 GB of 3.40 GB+ · 85.0 MB/s · 26 s+ left"


def test_the_view_lists_the_images_whose_blobs_have_the_most_to_come() -> None:
    still = InFlight(LAYER, 500_000, "quay.io/team/app:1", still=40.2)
    lines = rendered(measurement(in_flight=(still, *(InFlight(LAYER, 500_000, "quay.io/team/b:1"),) * 6)))

    assert lines[2] == "  quay.io/team/app:1   25 % of 2.00 MB, no bytes for 40 s"
    assert lines[3] == "  quay.io/team/b:1   25 % of 2.00 MB"
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 8


def test_the_view_says_what_holds_a_run_up_and_has_a_row_for_each_target() -> None:
    waits = ("registry-1.docker.io asks to wait (429 Too Many Requests): 12 s left", "quay.io: retry 3 of 5: 503")
    targets = (TargetUnderWay("a.example.com", 30, 12, 0), TargetUnderWay("b.example.com:5000", 30, 30, 2))

    lines = rendered(measurement(waits=waits, targets=targets), 79)

    assert tuple(lines[2:4]) == waits
    assert lines[4].startswith("  a.example.com ━")
    assert lines[4].endswith(" 12 of 30 images")
    assert lines[5].endswith("━ 30 of 30 images (2 failed)")


@pytest.mark.parametrize("width", [20, 40, 79, 200])
def test_the_view_fits_any_terminal(width: int) -> None:
    """Nothing of what it says is cut, but names in their middle."""
    look = measurement(
        in_flight=(InFlight(LAYER, 1, "東京" * 30, still=9.0),) * 3,
        waits=(f"{'registry.' * 4}com asks to wait (503 Service Unavailable): 12 s left",),
        targets=(TargetUnderWay("edge." * 20, 3, 1, 0), TargetUnderWay("b", 3, 1, 0)),
    )

    lines = rendered(look, width)

    assert all(cell_len(line) <= width for line in lines)
    text = " ".join(" ".join(lines).split())
    for said in (
        "12 of 60 images",
        "1.20 GB of 3.40 GB",
        "26 s left",
        "12 s left",
        *(["1 of 3 images"] if width > 40 else []),
    ):
        assert said in text


def test_elsewhere_a_line_is_written_only_when_there_is_news() -> None:
    stream, clock = io.StringIO(), Clock()
    display = PlainDisplay(stream, clock)
    display.draw()
    display.expect(2)
    progress = Progress(LAYER)
    display(Found(ALPHA, ROOT, 1, LAYER.size, 0))
    display(Started(progress))
    display.draw()
    progress.done, clock.seconds = 500_000, 10.0
    display(Paused("quay.io", 20.0, "429 Too Many Requests"))
    display(Paused("quay.io", 2.0, "429 Too Many Requests"))
    display(Retried("quay.io", 1, 5, 0.1, "503 Service Unavailable"))
    display(Retried("quay.io", 3, 5, 0.1, "GET http://quay.io/v2/: the answer was cut off"))
    display(Stalled(LAYER, ALPHA.source, 40.0))
    display.draw()
    progress.done, clock.seconds = 1_500_000, 30.0
    display.draw()
    display(Copied(LAYER, "alpha", 1.0))
    display(ImageCopied(ALPHA, ROOT))
    display(ImageFailed(BETA, SyncerError("gone\x1b[2J\nfor good")))
    clock.seconds = 60.0
    display.draw()
    display.draw()
    display(Compacting(Path("/out/edge.tar.zst"), FileProgress(4_000_000, done=1_000_000)))
    clock.seconds = 90.0
    display.draw()

    copied = "edge.tar.zst is copied without what is not wanted of it"
    assert stream.getvalue().splitlines() == [
        "0 of 2 images, 0 B of 2.00 MB+",
        "quay.io asks to wait for 20 s: 429 Too Many Requests",
        "quay.io: retry 3 of 5: the answer was cut off",
        f"quay.io/alpha:1: no bytes of {LAYER.digest.short} for 40 s",
        "0 of 2 images, 1.50 MB of 2.00 MB+, 50.0 kB/s, 10 s+ left",
        "failed: quay.io/beta:1: gone [2J for good",
        "2 of 2 images (1 failed), 100 %, 2.00 MB of 2.00 MB, 16.7 kB/s",
        f"2 of 2 images (1 failed), {copied}: 1.00 MB of 4.00 MB, 25 %",
    ]


def test_without_a_terminal_a_short_run_says_only_what_failed() -> None:
    stream = io.StringIO()
    with open_display(stream) as display:
        display(Found(ALPHA, ROOT, 1, LAYER.size, 0))
        display(ImageFailed(BETA, SyncerError("gone")))

    assert stream.getvalue() == "failed: quay.io/beta:1: gone\n"


def test_switched_off_it_is_silent() -> None:
    stream = io.StringIO()
    with open_display(stream, mode=Mode.OFF) as display:
        display(ImageFailed(BETA, SyncerError("gone")))
    assert stream.getvalue() == ""


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w", encoding="utf-8") as terminal, open_display(terminal) as display:
            display.expect(2)
            display(Found(ALPHA, ROOT, 1, LAYER.size, 0))
            display(Started(Progress(LAYER, 500_000)))
            display(ImageFailed(BETA, SyncerError("gone")))
        return b"".join(everything(ours)).decode()
    finally:
        os.close(ours)


def everything(terminal: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while piece := os.read(terminal, 65536):
            yield piece


def test_on_a_terminal_the_view_is_drawn_and_failures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = on_a_terminal(monkeypatch)

    assert "failed: quay.io/beta:1: gone" in seen
    assert "1 of 2 images (1 failed)" in seen
    assert LAYER.digest.short in seen
    assert "\x1b[31m" in seen
    assert "\x1b[?25l" not in seen  # a process that is killed hides no cursor for ever
    assert seen.endswith("\r\x1b[J")  # nothing of the view is left


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31m" not in on_a_terminal(monkeypatch, NO_COLOR="1")


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in on_a_terminal(monkeypatch, TERM="dumb")


def site(number: int, **figures: object) -> SiteUnderWay:
    return SiteUnderWay(f"edge-{number}.berlin.example.com", 125.0, measurement(**figures))


def fleet(count: int, *causes: tuple[str, tuple[str, ...]], **figures: object) -> FleetMeasurement:
    common: dict[str, object] = {
        "sites": 1000,
        "ended": 612,
        "failed": sum(len(names) for _, names in causes),
        "bytes_moved": 1_840_000_000_000,
        "rate": 850_000_000.0,
        "seconds_left": 725.0,
        "under_way": tuple(map(site, range(1, count + 1))),
        "causes": causes,
    }
    return FleetMeasurement(**(common | figures))  # type: ignore[arg-type]  # a mapping's values have one type


def sites_rendered(look: FleetMeasurement, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(sites_view(look, width, height))
    return [line.rstrip() for line in capture.get().splitlines()]


DEAD = tuple(f"edge {number}" for number in range(12))
REFUSED = "refused the connection"


def test_the_view_of_a_fleet_has_totals_causes_and_the_sites_that_began_first() -> None:
    head, *lines = sites_rendered(fleet(64, (REFUSED, DEAD), ("507 no space left", ("full",))), 79, 24)

    assert head.startswith("612 of 1,000 sites (13 failed) ━")
    assert head.endswith(" 1.84 TB · 850 MB/s · 12 min 05 s left")
    assert lines == [
        "failed: refused the connection: 12 sites: edge 0, edge 1, edge 2 and 9 more",
        "failed: 507 no space left: 1 site: full",
        "  site                         done               bytes       rate    time left",
        *(
            f"  {f'edge-{number}.berlin.example.com':28} 35 %  1.20 GB of 3.40 GB  85.0 MB/s         26 s"
            for number in range(1, 8)
        ),
        "  and 57 more under way",
    ]


@pytest.mark.parametrize("width", [20, 39, 60, 79, 119, 200])
@pytest.mark.parametrize("height", [5, 24, 40])
def test_the_view_of_a_fleet_takes_half_of_any_terminal(width: int, height: int) -> None:
    causes = [(f"cannot be reached: {number} is the reason why", DEAD) for number in range(20)]
    named = (SiteUnderWay("東京" * 30, 1.0, measurement()),)

    lines = sites_rendered(fleet(64, *causes, under_way=named * 64), width, height)

    assert all(cell_len(line) <= width for line in lines)
    assert len(lines) <= max(8, height // 2)
    assert " more under" in lines[-1]


def test_a_site_of_which_no_bytes_are_known_says_how_long_it_is_asked() -> None:
    asked = (SiteUnderWay("edge", 42.0, measurement(bytes=0, bytes_done=0, rate=None, seconds_left=None)),)

    lines = sites_rendered(fleet(0, under_way=asked), 79, 24)

    assert [line.split() for line in lines[1:]] == [["site", "so", "far"], ["edge", "42", "s"]]


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [("edge", 4, "edge"), ("edge-1.example.com/base", 12, "edge-1…/base"), ("東京都", 5, "東…都"), ("東京", 1, "…")],
)
def test_a_long_name_keeps_its_beginning_and_its_end(name: str, width: int, short: str) -> None:
    assert shortened(name, width) == short


def test_nothing_is_left_of_a_view_that_was_drawn_before_a_narrower_window_was_heard_of() -> None:
    """Tmux tells a program a quarter of a second after it has broken the lines anew."""
    stream, terminal = io.StringIO(), Terminal(50)
    known = [80]
    screen = TerminalScreen(stream, lambda: os.terminal_size((known[0], 24)))
    look = measurement(in_flight=(InFlight(LAYER, 1, "quay.io/a/very/long/name/of/an/application:1.2.3"),) * 3)

    screen.show(look)
    known[0] = 50
    screen.show(look)
    terminal.feed(stream.getvalue())

    assert len(terminal.lines) == 5
    assert terminal.lines[0].startswith("12 of 60 images")


@pytest.mark.parametrize(
    "look",
    [
        measurement(in_flight=(InFlight(LAYER, 1, "quay.io/a/very/long/name/of/an/application:1.2.3"),) * 3),
        fleet(64, (REFUSED, DEAD)),
    ],
)
def test_nothing_is_left_of_a_view_when_the_window_narrows(look: Measurement | FleetMeasurement) -> None:
    """The terminal breaks the lines anew, and the next view is drawn over all of them."""

    def show() -> None:
        screen.show(look)
        terminal.feed(stream.getvalue())
        stream.seek(0)
        stream.truncate()

    def alone(width: int) -> list[str]:
        drawn, fresh = io.StringIO(), Terminal(width)
        TerminalScreen(drawn, lambda: os.terminal_size((width, 24))).show(look)
        fresh.feed(drawn.getvalue())
        return fresh.lines

    stream, terminal = io.StringIO(), Terminal(80)
    screen = TerminalScreen(stream, lambda: os.terminal_size((terminal.width, 24)))
    terminal.feed("$ syncer push\r\n")
    show()
    terminal.resize(50)
    assert len(terminal.lines) > len(alone(80)) + 1
    show()
    assert terminal.lines == ["$ syncer push", *alone(50)]
    terminal.resize(80)
    screen.say("warning: odd")
    show()
    assert terminal.lines == ["$ syncer push", "warning: odd", *alone(80)]
    screen.clear()
    terminal.feed(stream.getvalue())
    assert terminal.lines == ["$ syncer push", "warning: odd"]
