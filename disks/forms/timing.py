"""When a job runs and how fast: the fold that every form of long work has."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone

from disks.engine.units import MIB
from disks.operations.wall_clock import next_time
from disks.services.estimates import Measure
from disks.services.timing import Choice

NOW, LATER = "now", "later"
AS_THE_ROOT_SAYS, NONE, OWN = "root", "none", "own"
_LIMITS = [
    (AS_THE_ROOT_SAYS, "As the storage root says"),
    (NONE, "No limit"),
    (OWN, "At most"),
]
MOST_AHEAD = timedelta(days=366)
MOST_MB_PER_SECOND = 1_000_000
MOST_SECONDS = 1e10
MOST_BYTES = 1e18


class RateField(forms.IntegerField):
    """Whole MB a second."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            min_value=1,
            max_value=MOST_MB_PER_SECOND,
            widget=forms.NumberInput(attrs={"class": "form-control", "inputmode": "numeric"}),
            **options,
        )


class ClockField(forms.TimeField):
    """A time of the day, as the console's clock has it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            input_formats=["%H:%M", "%H:%M:%S"],
            widget=forms.TimeInput(attrs={"class": "form-control", "type": "time"}, format="%H:%M"),
            error_messages={"invalid": "Give a time like 22:00."},
            **options,
        )


class MeasureForm(forms.Form):
    """What the time of a plan rests on, as the fold sends it along; see estimates.Measure."""

    seconds = forms.FloatField(min_value=0, max_value=MOST_SECONDS, required=False)
    bytes = forms.FloatField(min_value=0, max_value=MOST_BYTES)
    roots = forms.RegexField(r"^[0-9]{1,18}(,[0-9]{1,18}){0,99}$", required=False)
    in_place = forms.BooleanField(required=False)

    def measure(self) -> Measure:
        """Only of a valid form."""
        said = self.cleaned_data
        roots = [int(number) for number in said["roots"].split(",") if number]
        return Measure(said["seconds"], said["bytes"], roots, said["in_place"])


class TimingForm(forms.Form):
    """What was chosen for one job; nothing chosen is how it usually runs.

    Dates and times are those of the console's time zone.
    """

    start = forms.ChoiceField(choices=[(NOW, "Now"), (LATER, "Not before")], required=False)
    not_before = forms.DateTimeField(
        required=False, error_messages={"invalid": "Give a date and a time that exist."}
    )
    stop_by = ClockField(required=False)
    outside_hours = forms.BooleanField(required=False)
    limit = forms.ChoiceField(choices=_LIMITS, required=False)
    limit_mb = RateField(required=False)

    def clean_not_before(self) -> datetime | None:
        when: datetime | None = self.cleaned_data["not_before"]
        if when is not None and when > timezone.now() + MOST_AHEAD:
            raise forms.ValidationError("That is more than a year ahead.")
        return when

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("start") != LATER:
            self.errors.pop("not_before", None)
        elif not cleaned.get("not_before") and "not_before" not in self.errors:
            self.add_error("not_before", "Say when the job may start.")
        if cleaned.get("limit") != OWN:
            self.errors.pop("limit_mb", None)
        elif not cleaned.get("limit_mb") and "limit_mb" not in self.errors:
            self.add_error("limit_mb", "Say how many MB a second the job may move.")
        return cleaned

    def choice(self) -> Choice:
        """Only of a valid form."""
        now = timezone.now()
        said = self.cleaned_data
        later = said["not_before"] if said.get("start") == LATER else None
        stop_by = said.get("stop_by")
        zone = timezone.get_current_timezone()
        return Choice(
            limit_bytes_per_second=self._limit(),
            not_before=later if later and later > now else None,
            stop_by=next_time(stop_by, max(now, later or now), zone) if stop_by else None,
            outside_hours=said["outside_hours"],
        )

    def _limit(self) -> int | None:
        chosen = self.cleaned_data.get("limit") or AS_THE_ROOT_SAYS
        if chosen == OWN:
            return int(self.cleaned_data["limit_mb"]) * MIB
        return 0 if chosen == NONE else None
