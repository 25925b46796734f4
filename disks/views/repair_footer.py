"""Repair footer: the plan as a table of fields, then the job."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks import tasks
from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm, needs_offline, sealed
from disks.models import Disk
from disks.services import repairing
from disks.services.errors import Refusal
from disks.views import plans
from disks.views.guard import client_address
from disks.views.rendering import render_page

PAGE = "disks/repair_footer.html"


@require_http_methods(["GET", "POST"])
def repair_footer(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET reads the disk and shows the plan; POST starts the job."""
    disk = get_object_or_404(Disk.objects.select_related("root"), pk=disk_id)
    sent = request.POST if request.method == "POST" else None
    context = _context(disk, sent)
    if sent is None:
        return render_page(request, PAGE, context)
    declaration: DeclarationForm | None = context["declaration"]
    if declaration is None or not declaration.is_valid():
        return render_page(request, PAGE, context, status=422)
    if declaration.cleaned_data["seen"] != context["plan"]["fingerprint"]:
        context |= {"stale": True, "key": plans.new_key()}
        return render_page(request, PAGE, context, status=409)
    try:
        with transaction.atomic():
            job = repairing.request(
                disk,
                user=request.user,
                fingerprint=context["plan"]["fingerprint"],
                declared_offline=declaration.declared,
                idempotency_key=declaration.cleaned_data["key"],
                address=client_address(request),
            )
            tasks.enqueue(job)
    except (ImageError, Refusal) as error:
        context |= {"refused": plans.as_error(error), "key": plans.new_key()}
        return render_page(request, PAGE, context, status=409)
    return HttpResponseRedirect(reverse("job", args=[job.pk]))


def _context(disk: Disk, sent: Any) -> dict[str, Any]:
    context: dict[str, Any] = {
        "disk": disk,
        "plan": None,
        "refused": None,
        "stale": False,
        "declaration": None,
    }
    try:
        plan = repairing.plan(disk)
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
