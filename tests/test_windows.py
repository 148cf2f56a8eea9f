"""Windows of time: over midnight, several, and on the nights on which clocks are changed."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import UsageError
from syncer.formats.windows import Window, closes_after, opens_after

NIGHT = Window.parse("22:00-05:00 Europe/Berlin")
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


@pytest.mark.parametrize(
    ("window", "now", "opens", "closes"),
    [
        (NIGHT, "2024-01-15 12:00", "2024-01-15 21:00", "2024-01-16 04:00"),
        (NIGHT, "2024-01-15 21:00", "2024-01-15 21:00", "2024-01-16 04:00"),
        (NIGHT, "2024-01-16 03:59", "2024-01-16 03:59", "2024-01-16 04:00"),
        (NIGHT, "2024-01-16 04:00", "2024-01-16 21:00", "2024-01-17 04:00"),
        (NIGHT, "2024-07-15 12:00", "2024-07-15 20:00", "2024-07-16 03:00"),
        # the night that is an hour shorter, and the one that is longer
        (NIGHT, "2024-03-30 12:00", "2024-03-30 21:00", "2024-03-31 03:00"),
        (NIGHT, "2024-10-26 12:00", "2024-10-26 20:00", "2024-10-27 04:00"),
        # in the hour that is left out: the change is at 01:00 UTC
        (Window.parse("02:30-04:00 Europe/Berlin"), "2024-03-30 20:00", "2024-03-31 01:00", "2024-03-31 02:00"),
        (Window.parse("01:30-02:30 Europe/Berlin"), "2024-03-30 20:00", "2024-03-31 00:30", "2024-03-31 01:00"),
        (Window.parse("02:10-02:50 Europe/Berlin"), "2024-03-30 20:00", "2024-04-01 00:10", "2024-04-01 00:50"),
        # in the hour that comes twice
        (Window.parse("02:30-04:00 Europe/Berlin"), "2024-10-26 20:00", "2024-10-27 01:30", "2024-10-27 03:00"),
        (Window.parse("01:30-02:30 Europe/Berlin"), "2024-10-26 20:00", "2024-10-26 23:30", "2024-10-27 00:30"),
        # far from Greenwich, where it is another day
        (Window.parse("23:00-24:00 Pacific/Auckland"), "2024-01-15 12:00", "2024-01-16 10:00", "2024-01-16 11:00"),
        (Window.parse("00:00-01:00 Pacific/Pago_Pago"), "2024-01-15 12:00", "2024-01-16 11:00", "2024-01-16 12:00"),
    ],
)
def test_a_window_opens_and_closes_by_the_clocks_of_its_zone(window: Window, now: str, opens: str, closes: str) -> None:
    assert opens_after([window], at(now)) == at(opens)
    assert closes_after([window], at(now)) == at(closes)
    assert window.is_open(at(opens))
    assert not window.is_open(at(closes))


def test_of_several_windows_the_first_opens_and_the_last_closes() -> None:
    windows = [NIGHT, Window.parse("12:00-13:00 UTC"), Window.parse("12:30-14:00 UTC"), Window.parse("14:00-15:00 UTC")]

    assert opens_after(windows, at("2024-01-15 05:00")) == at("2024-01-15 12:00")
    assert closes_after(windows, at("2024-01-15 05:00")) == at("2024-01-15 15:00")
    assert closes_after(windows, at("2024-01-15 20:00")) == at("2024-01-16 04:00")


@pytest.mark.parametrize("texts", [[], ["00:00-24:00 UTC"], ["06:00-18:00 UTC", "18:00-6:00 UTC"]])
def test_what_is_always_open_never_closes(texts: list[str]) -> None:
    windows = [Window.parse(text) for text in texts]
    now = datetime(2024, 1, 15, 12, tzinfo=BERLIN)

    assert opens_after(windows, now) == now
    assert closes_after(windows, now) is None


@given(
    st.integers(0, 1439),
    st.integers(1, 1440),
    st.sampled_from(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
    st.integers(0, 3 * 365 * 24 * 60),
)
def test_what_is_open_is_open_by_its_clocks(begin: int, end: int, zone: str, minutes: int) -> None:
    """Whatever the day: a window is never open at a time that is outside it on the wall, and is open every few days."""
    if begin == end:
        return
    window, now = Window(begin, end, zone), at("2023-01-01 00:00") + timedelta(minutes=minutes)
    opens, closes = window.opens_after(now), window.closes_after(now)

    assert now <= opens < closes
    assert opens - now < timedelta(days=2, hours=2)
    for moment in (opens, closes - timedelta(seconds=1)):
        shown = moment.astimezone(ZoneInfo(zone))
        clock = shown.hour * 60 + shown.minute
        assert begin <= clock < end if begin < end else clock >= begin or clock < end


@pytest.mark.parametrize("text", ["22:00-05:00 Europe/Berlin", "00:00-24:00 UTC", "9:05 - 17:30 Asia/Kathmandu"])
def test_a_window_is_written_as_it_is_read(text: str) -> None:
    assert Window.parse(str(Window.parse(text))) == Window.parse(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("22:00-22:00 UTC", "'22:00-22:00 UTC' never opens"),
        ("22:00-05:00", "names no zone"),
        ("22:00-05:00 Europe/Berln", "'Europe/Berln' is not a zone"),
        ("22:00-05:00 Europe", "'Europe' is not a zone"),
        ("22:00-05:00 ../../etc/passwd", "is not a zone"),
        ("24:00-05:00 UTC", "names a time that no clock shows"),
        ("22:60-05:00 UTC", "names a time that no clock shows"),
        ("22:00-24:01 UTC", "names a time that no clock shows"),
        ("nights", "'nights' is not a window of time"),
        ("", "'' is not a window of time"),
    ],
)
def test_what_is_no_window_is_refused_with_what_to_do(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        Window.parse(text)
    assert problem in str(raised.value)
    assert raised.value.hint
