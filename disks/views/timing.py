"""The fold "When and how fast" of a plan: its time follows what is chosen there."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from disks.forms.timing import MeasureForm, TimingForm
from disks.services import estimates
from disks.views.rendering import render_page


@require_GET
def time_guess(request: HttpRequest) -> HttpResponse:
    """The time of a plan as chosen, and what its hours mean then; 204 while it is half typed."""
    rests_on, timed = MeasureForm(request.GET), TimingForm(request.GET)
    if not rests_on.is_valid() or not timed.is_valid():
        return HttpResponse(status=204)
    guess = estimates.chosen(rests_on.measure(), timed.choice())
    return render_page(request, "disks/_time_guess.html", {"guess": guess})
