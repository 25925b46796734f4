"""Jobs: the list, one job's page, and the number in the navigation."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET

from disks.views.rendering import running_jobs


@require_GET
def running(request: HttpRequest) -> HttpResponse:
    """The number in the navigation: 204, no swap, while it is the one the page has."""
    count = running_jobs()
    if request.GET.get("seen") == str(count):
        return HttpResponse(status=204)
    return HttpResponse(
        render_to_string("components/_running.html", {"running_jobs": count}, request)
    )
