"""Hours of a storage root: across midnight, and in the nights in which the clock is moved."""

from __future__ import annotations

import time as time_module
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from disks.operations.wall_clock import at, next_time
from disks.services.hours import Hours, parsed

BERLIN = ZoneInfo("Europe/Berlin")


def hours(text: str, zone: str = "Europe/Berlin") -> Hours:
    both = parsed(text)
    assert both is not None
    return Hours(*both, ZoneInfo(zone))


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


NIGHT, NOON = hours("22:00-06:00"), hours("12:00-13:30")


@pytest.mark.parametrize(
    ("one", "now", "opens", "closes"),
    [
        (NIGHT, "2026-05-04 21:59:59", "2026-05-04 22:00", None),
        (NIGHT, "2026-05-04 22:00", "2026-05-04 22:00", "2026-05-05 06:00"),
        (NIGHT, "2026-05-05 00:00", "2026-05-05 00:00", "2026-05-05 06:00"),
        (NIGHT, "2026-05-05 05:59:59", "2026-05-05 05:59:59", "2026-05-05 06:00"),
        (NIGHT, "2026-05-05 06:00", "2026-05-05 22:00", None),
        (NOON, "2026-05-05 11:00", "2026-05-05 12:00", None),
        (NOON, "2026-05-05 13:29", "2026-05-05 13:29", "2026-05-05 13:30"),
        (NOON, "2026-05-05 13:30", "2026-05-06 12:00", None),
        (hours("00:00-01:00"), "2026-12-31 23:00", "2027-01-01 00:00", None),
        (hours("22:00-21:59"), "2026-05-05 21:59", "2026-05-05 22:00", None),
    ],
)
def test_hours_open_and_close_also_across_midnight(
    one: Hours, now: str, opens: str, closes: str | None
) -> None:
    assert one.opens(berlin(now)) == berlin(opens)
    assert one.closes(berlin(now)) == (berlin(closes) if closes else None)


def test_the_night_in_which_the_clock_goes_forward_has_an_hour_less() -> None:
    """29 March 2026: 02:00 becomes 03:00."""
    began = NIGHT.opens(berlin("2026-03-28 20:00"))
    ended = NIGHT.closes(began)
    assert ended == berlin("2026-03-29 06:00")
    assert ended is not None
    assert ended - began == timedelta(hours=7)
    left_out = hours("02:30-05:00")  # there is no 02:30 that night
    assert left_out.opens(berlin("2026-03-29 00:00")) == berlin("2026-03-29 03:30")
    gone = hours("02:15-02:45")
    assert gone.opens(berlin("2026-03-29 00:00")) == berlin("2026-03-29 03:15")
    assert gone.closes(berlin("2026-03-29 03:20")) == berlin("2026-03-29 03:45")


def test_the_night_in_which_the_clock_goes_back_has_an_hour_more() -> None:
    """25 October 2026: 03:00 becomes 02:00, so that half past two comes twice."""
    began = NIGHT.opens(berlin("2026-10-24 20:00"))
    ended = NIGHT.closes(began)
    assert ended == berlin("2026-10-25 06:00")
    assert ended is not None
    assert ended - began == timedelta(hours=9)
    until = hours("22:00-02:30")  # the storage is free when the clock says so for the first time
    assert until.closes(berlin("2026-10-25 01:00")) == berlin("2026-10-25 02:30", fold=0)
    assert until.closes(berlin("2026-10-25 02:45", fold=0)) is None
    assert until.opens(berlin("2026-10-25 02:15", fold=1)) == berlin("2026-10-25 22:00")
    since = hours("02:30-05:00")
    assert since.opens(berlin("2026-10-25 01:00")) == berlin("2026-10-25 02:30", fold=0)
    within = berlin("2026-10-25 02:10", fold=1)  # after that the clock says less for a while
    assert since.opens(within) == within


def test_every_hour_of_two_years_is_within_or_before_the_hours() -> None:
    """The next opening is never in the past, a closing never, and both are what the clock says."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    while now.year < 2028:
        closes = NIGHT.closes(now)
        assert (NIGHT.opens(now) == now) == (closes is not None)
        assert timedelta(0) <= NIGHT.opens(now) - now <= timedelta(hours=17)
        assert closes is None or timedelta(0) < closes - now <= timedelta(hours=9)
        assert closes is None or closes.astimezone(BERLIN).time() == time(6)
        local = now.astimezone(BERLIN).time()
        assert (closes is not None) == (local >= time(22) or local < time(6))
        now += timedelta(minutes=487)


def test_a_time_of_the_day_is_the_next_one() -> None:
    assert next_time(time(6), berlin("2026-05-05 05:00"), BERLIN) == berlin("2026-05-05 06:00")
    assert next_time(time(6), berlin("2026-05-05 06:00"), BERLIN) == berlin("2026-05-06 06:00")
    assert at(berlin("2026-03-29 00:00").date(), time(2, 30), BERLIN).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    ["22-06", "22:00", "25:00-06:00", "22:60-06:00", "6-7-8", "x", "22:00-22:00", "٢2:00-1:00"],
)
def test_what_are_no_hours_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"[Hh]ours?|minute"):
        parsed(text)


def test_no_hours_are_none() -> None:
    assert parsed("  ") is None
    assert parsed("22:00–6:00") == (time(22), time(6))


def test_without_a_zone_it_is_the_hosts_clock_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time_module.tzset()
    try:
        for day in ("2026-03-28", "2026-05-05", "2026-10-24"):  # before and after it is moved
            after = berlin(f"{day} 23:00")
            assert next_time(time(6), after, None) == next_time(time(6), after, BERLIN)
    finally:
        monkeypatch.undo()
        time_module.tzset()
