"""Moments at which a clock on the wall says something, also in the nights in which it is moved.

A time that is left out in spring is taken as the same distance later; of a time that comes twice
in autumn the first counts. A zone of None is that of this host.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo


def at(day: date, clock: time, zone: tzinfo | None) -> datetime:
    """When the clock says so on that day; in UTC, so that hours can be counted."""
    return datetime.combine(day, clock, tzinfo=zone).astimezone(UTC)


def next_time(clock: time, after: datetime, zone: tzinfo | None) -> datetime:
    """When the clock says so for the first time after that moment; in UTC."""
    today = after.astimezone(zone).date()
    moments = (at(today + timedelta(days=number), clock, zone) for number in range(3))
    return next(moment for moment in moments if moment > after)
