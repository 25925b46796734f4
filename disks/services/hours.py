"""The hours of a storage root in which long jobs run: from one time of the day until another.

Times are what the clock on the wall says in the console's time zone, also in the nights in which
it is moved (operations/wall_clock.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

from disks.operations.wall_clock import at

_HOURS = re.compile(r"(\d{1,2}):(\d{2})\s*[-–]\s*(\d{1,2}):(\d{2})", re.ASCII)


@dataclass(frozen=True)
class Hours:
    """From a time of the day until another; across midnight where until is not later."""

    begin: time
    end: time
    zone: tzinfo

    def opens(self, now: datetime) -> datetime:
        """now, if it lies within the hours; else when they begin next."""
        now = now.astimezone(UTC)  # of two zones, moments of the hour that comes twice never equal
        spans = self._spans(now)
        if any(begin <= now < end for begin, end in spans):
            return now
        return min(begin for begin, _ in spans if begin > now)

    def closes(self, now: datetime) -> datetime | None:
        """When the hours end that now lies within; None: it lies outside."""
        now = now.astimezone(UTC)
        return next((end for begin, end in self._spans(now) if begin <= now < end), None)

    def _spans(self, now: datetime) -> list[tuple[datetime, datetime]]:
        """Those of yesterday to the day after tomorrow, one for each day."""
        today = now.astimezone(self.zone).date()
        crosses = timedelta(days=1 if self.end <= self.begin else 0)
        days = [today + timedelta(days=number) for number in range(-1, 3)]
        return [
            (at(day, self.begin, self.zone), at(day + crosses, self.end, self.zone)) for day in days
        ]

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}–{self.end:%H:%M}"


def parsed(text: str) -> tuple[time, time] | None:
    """`22:00-06:00` as two times; None for an empty text. Raises ValueError for anything else."""
    if not text.strip():
        return None
    found = _HOURS.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"“{text}” are no hours like 22:00-06:00.")
    hour, minute, end_hour, end_minute = (int(part) for part in found.groups())
    begin, end = time(hour, minute), time(end_hour, end_minute)  # ValueError for 25:00
    if begin == end:
        raise ValueError("Hours that begin and end at the same time would be none, or all.")
    return begin, end
