"""When a job runs and how fast: the fold that every form of long work has."""

from __future__ import annotations

from typing import Any

from django import forms

from disks.engine.units import MIB
from disks.services.timing import Choice

AS_THE_ROOT_SAYS, NONE, OWN = "root", "none", "own"
_LIMITS = [
    (AS_THE_ROOT_SAYS, "As the storage root says"),
    (NONE, "No limit"),
    (OWN, "At most"),
]
MOST_MB_PER_SECOND = 1_000_000


class RateField(forms.IntegerField):
    """Whole MB a second."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            min_value=1,
            max_value=MOST_MB_PER_SECOND,
            widget=forms.NumberInput(attrs={"class": "form-control", "inputmode": "numeric"}),
            **options,
        )


class TimingForm(forms.Form):
    """What was chosen for one job; nothing chosen is how it usually runs."""

    limit = forms.ChoiceField(choices=_LIMITS, required=False)
    limit_mb = RateField(required=False)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("limit") != OWN:
            self.errors.pop("limit_mb", None)
        elif not cleaned.get("limit_mb") and "limit_mb" not in self.errors:
            self.add_error("limit_mb", "Say how many MB a second the job may move.")
        return cleaned

    def choice(self) -> Choice:
        """Only of a valid form."""
        return Choice(limit_bytes_per_second=self._limit())

    def _limit(self) -> int | None:
        chosen = self.cleaned_data.get("limit") or AS_THE_ROOT_SAYS
        if chosen == OWN:
            return int(self.cleaned_data["limit_mb"]) * MIB
        return 0 if chosen == NONE else None
