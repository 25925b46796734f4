"""Repair headers and Replay log: the plan as a table of fields, then the job."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm, needs_offline, sealed
from disks.models import Disk
from disks.services import mending
from disks.services.errors import Refusal
from disks.services.mending import MENDINGS, Mending
from disks.views import plans
from disks.views.guard import client_address
from disks.views.rendering import render_page

PAGE = "disks/mend.html"


@require_http_methods(["GET", "POST"])
def repair_headers(request: HttpRequest, disk_id: int) -> HttpResponse:
    return _mend(request, disk_id, MENDINGS["repair-headers"])


@require_http_methods(["GET", "POST"])
def replay_log(request: HttpRequest, disk_id: int) -> HttpResponse:
    return _mend(request, disk_id, MENDINGS["replay-log"])


def _mend(request: HttpRequest, disk_id: int, what: Mending) -> HttpResponse:
    """GET reads the disk and shows the plan; POST starts the job."""
    disk = get_object_or_404(Disk.objects.select_related("root"), pk=disk_id)
    sent = request.POST if request.method == "POST" else None
    if sent is not None and (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    context = _context(what, disk, sent)
    if sent is None:
        return render_page(request, PAGE, context)
    return plans.start(
        request,
        PAGE,
        None,
        context,
        fingerprint=context["plan"] and context["plan"]["fingerprint"],
        ask=lambda said, key: mending.request(
            what,
            disk,
            user=request.user,
            fingerprint=said.cleaned_data["seen"],
            declared_offline=said.declared,
            idempotency_key=key,
            address=client_address(request),
        ),
    )


def _context(what: Mending, disk: Disk, sent: Any) -> dict[str, Any]:
    words = what.words_for(disk)
    context: dict[str, Any] = {
        "disk": disk,
        "what": what,
        "words": words,
        "promise": words.promise.split("{}"),
        "plan": None,
        "refused": None,
        "stale": False,
        "declaration": None,
    }
    try:
        plan = mending.plan(what, disk)
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    document = plan.as_dict()
    return context | {
        "plan": document,
        "managers": document["managers"],
        "declaration": DeclarationForm(
            sent,
            needs_offline=needs_offline([disk]),
            needs_unmanaged=bool(document["managers"]),
        ),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(document["fingerprint"]),
    }
