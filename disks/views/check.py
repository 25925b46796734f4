"""Checks and other work for one disk or for the selected ones of a list."""

from __future__ import annotations

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_POST

from disks import tasks
from disks.models import Disk, Job
from disks.services import inspection, scanning
from disks.services.errors import Refusal
from disks.views import errors, listing, plans
from disks.views.guard import client_address

SELECTED_AT_MOST = 200


@require_POST
def check(request: HttpRequest, disk_id: int) -> HttpResponse:
    """Check one disk: a job that reads and changes nothing."""
    disk = get_object_or_404(Disk.objects.select_related("root"), pk=disk_id)
    return _to_job(request, [_check_job(request, [disk])])


@require_POST
def bulk(request: HttpRequest) -> HttpResponse:
    """What the buttons below a list do with its selected rows."""
    chosen = listing.numbers(request.POST.getlist("disk"), most=SELECTED_AT_MOST)
    disks = list(Disk.objects.select_related("root").filter(pk__in=chosen).order_by("name", "pk"))
    if not disks:
        messages.warning(request, "Choose at least one disk first.")
        return HttpResponseRedirect(reverse("disks"))
    action = request.POST.get("action", "")
    if action == "check":
        return _to_job(request, [_check_job(request, disks)])
    if action == "scan":
        return _scan(request, disks)
    if action == "compact":
        query = urlencode({"disk": [disk.pk for disk in disks]}, doseq=True)
        return HttpResponseRedirect(f"{reverse('compact-many')}?{query}")
    return errors.problem(
        request,
        400,
        "There is no such action",
        "The list offers to scan, to check and to compact the selected disks.",
    )


def _key(request: HttpRequest) -> str:
    """One job however often the button is pressed; a list's key serves all of its buttons."""
    return plans.form_key(request) if request.POST.get("key") else plans.new_key()


def _check_job(request: HttpRequest, disks: list[Disk]) -> Job:
    with transaction.atomic():
        job = inspection.request_check(
            disks,
            user=request.user,
            idempotency_key=_key(request),
            address=client_address(request),
        )
        tasks.enqueue(job)
    return job


def _scan(request: HttpRequest, disks: list[Disk]) -> HttpResponse:
    """A scan of each root that holds a selected disk: a root is the smallest thing scanned."""
    found: list[Job] = []
    for root in {disk.root_id: disk.root for disk in disks}.values():
        try:
            with transaction.atomic():
                job = scanning.request(
                    root,
                    user=request.user,
                    idempotency_key=f"{_key(request)}-{root.pk}",
                    address=client_address(request),
                )
                tasks.enqueue(job)
        except Refusal as error:
            messages.error(request, error.sentence)
        else:
            found.append(job)
    if not found:
        return HttpResponseRedirect(reverse("disks"))
    return _to_job(request, found)


def _to_job(request: HttpRequest, found: list[Job]) -> HttpResponse:
    if len(found) == 1:
        return HttpResponseRedirect(reverse("job", args=[found[0].pk]))
    messages.success(request, f"{len(found)} jobs are asked for.")
    return HttpResponseRedirect(reverse("jobs"))
