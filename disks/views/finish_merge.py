"""Finish a merge in place that no job of this console has begun: what it is, then the job."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.forms.declarations import TouchedDeclarationForm, needs_offline, sealed
from disks.models import Disk
from disks.services import half_merged, leases
from disks.services.half_merged import Begun
from disks.views import errors, plans
from disks.views.guard import client_address
from disks.views.rendering import render_page

PAGE = "disks/finish_merge.html"


@require_http_methods(["GET", "POST"])
def finish_merge(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET says what was begun; POST starts the job that finishes it."""
    disk = get_object_or_404(Disk.objects.select_related("root"), pk=disk_id)
    if request.method == "POST" and (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    begun = half_merged.merge_of(disk)
    if begun is None:
        return _nothing_to_finish(request, disk)
    sent = request.POST if request.method == "POST" else None
    context = _context(disk, begun, sent)
    if sent is None:
        return render_page(request, PAGE, context)
    return plans.start(
        request,
        PAGE,
        None,
        context,
        fingerprint=begun.fingerprint,
        ask=lambda said, key: half_merged.request(
            disk,
            user=request.user,
            seen=said.cleaned_data["seen"],
            declared_offline=said.declared,
            only_touched=said.cleaned_data["only_touched"],
            idempotency_key=key,
            address=client_address(request),
        ),
    )


def _nothing_to_finish(request: HttpRequest, disk: Disk) -> HttpResponse:
    """It was finished meanwhile, or a job has it: there it is paused and resumed."""
    job = leases.at_work_on(disk.path) or leases.first_waiting_for(disk.path)
    if job is not None:
        return redirect("job", job.pk)
    return errors.problem(
        request,
        409,
        "There is no merge to finish",
        "No unfinished merge lies beside this disk: it has ended, or a job here goes on with it.",
        links=[(reverse("disk", args=[disk.pk]), "Back to the disk"), (reverse("jobs"), "Jobs")],
    )


def _context(disk: Disk, begun: Begun, sent: Any) -> dict[str, Any]:
    rows = [row["disk"] for row in plans.known([*begun.levels, begun.base]) if row["disk"]]
    return {
        "disk": disk,
        "begun": begun,
        "levels": plans.known(list(begun.levels)),
        "base": plans.known([begun.base])[0],
        "refused": plans.as_error(begun.in_the_way),
        "stale": False,
        "declaration": TouchedDeclarationForm(
            sent,
            needs_offline=needs_offline(rows or [disk]),
            needs_untouched=begun.touched is not None,
        ),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(begun.fingerprint),
    }
