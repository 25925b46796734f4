"""Compact several selected disks: one dry run, and one job for each that gives something back."""

from __future__ import annotations

import hashlib
from typing import Any

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm, needs_offline, sealed
from disks.forms.timing import TimingForm
from disks.models import Disk, Job
from disks.services import compacting
from disks.services.errors import Refusal
from disks.views import listing, plans
from disks.views.actions import action
from disks.views.guard import client_address
from disks.views.rendering import render_page

DISKS_AT_MOST = 25  # each is read for its estimate while the page is made
PLAN_SECONDS = 0.1
WORTH_A_JOB_BYTES = 64 * 1024
_ROOM_BETWEEN = "room between the blocks; "


@require_http_methods(["GET", "POST"])
def compact_many(request: HttpRequest) -> HttpResponse:
    """GET estimates what each disk would give back; POST starts a job for each that was shown
    to give something.
    """
    sent = request.POST if request.method == "POST" else request.GET
    chosen = listing.numbers(sent.getlist("disk"), most=200)
    found = Disk.objects.select_related("root").filter(pk__in=chosen)
    disks = list(found.order_by("name", "pk")[: DISKS_AT_MOST + 1])
    if request.method == "POST" and _was_sent_before(request, disks):
        return HttpResponseRedirect(reverse("jobs"))
    context = _context(disks[:DISKS_AT_MOST], request.POST if request.method == "POST" else None)
    context["left_out"] = len(disks) > DISKS_AT_MOST
    if request.method == "GET":
        return render_page(request, "disks/compact_many.html", context)
    declaration: DeclarationForm = context["declaration"]
    timed = context["timing"] = TimingForm(request.POST)
    if not declaration.is_valid() or not timed.is_valid() or not context["possible"]:
        return render_page(request, "disks/compact_many.html", context, status=422)
    wanted = set(declaration.cleaned_data["seen"])
    _begin(request, [disk for disk in context["possible"] if disk.pk in wanted], timed, declaration)
    return HttpResponseRedirect(reverse("jobs"))


def _begin(
    request: HttpRequest, disks: list[Disk], timed: TimingForm, declaration: DeclarationForm
) -> None:
    """A job for each, a child's before its parent's: a parent that is compacted is another file
    than the one that the child's plan has seen.
    """
    started = 0
    for disk in sorted(disks, key=lambda disk: -disk.chain_position):
        try:
            with transaction.atomic():
                job = compacting.request(
                    disk,
                    user=request.user,
                    declared_offline=declaration.declared,
                    idempotency_key=_key(request, disk),
                    address=client_address(request),
                )
                plans.enqueue(request, job, timed)
        except (ImageError, Refusal) as error:
            messages.error(request, error.sentence)
        else:
            started += 1
    if started:
        messages.success(request, f"{started} {'jobs are' if started > 1 else 'job is'} asked for.")


def _key(request: HttpRequest, disk: Disk) -> str:
    return hashlib.sha256(f"{plans.form_key(request)}-{disk.pk}".encode()).hexdigest()


def _was_sent_before(request: HttpRequest, disks: list[Disk]) -> bool:
    """A double click: the disks may be at work by now, and plan otherwise."""
    keys = [_key(request, disk) for disk in disks]
    return Job.objects.filter(idempotency_key__in=keys).exists()


def _context(disks: list[Disk], sent: Any) -> dict[str, Any]:
    compacting_now = {
        job.disk_id: job
        for job in Job.objects.filter(
            kind=Job.Kind.COMPACT, disk__in=disks, status__in=Job.OPEN
        ).order_by("-pk")
    }
    rows = [_row(disk, compacting_now.get(disk.pk)) for disk in disks]
    possible = [row["disk"] for row in rows if row["gain"] >= WORTH_A_JOB_BYTES]
    managed = sorted({disk.managed_by for disk in possible if disk.managed_by})
    return {
        "rows": rows,
        "possible": possible,
        "left_alone": len(rows) - len(possible),
        "gain": sum(row["gain"] for row in rows if row["gain"] >= WORTH_A_JOB_BYTES),
        "declaration": DeclarationForm(
            sent, needs_offline=needs_offline(possible), needs_unmanaged=bool(managed)
        ),
        "managers": [
            {
                "sentence": f"Some of these disks are managed by: {', '.join(managed)}.",
                "way_out": "",
            }
        ]
        if managed
        else [],
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed([disk.pk for disk in possible]),
    }


def _row(disk: Disk, job: Job | None) -> dict[str, Any]:
    """The disk, what it would give back, or why no job is begun for it.

    job: one that compacts it already
    """
    row: dict[str, Any] = {"disk": disk, "gain": 0, "estimated": False, "job": job}
    reason = action(disk, "compact", may_operate=True).reason
    if reason or job is not None:
        return row | {"reason": reason}
    try:
        plan = compacting.plan(disk, time_budget_seconds=PLAN_SECONDS)
    except (ImageError, Refusal) as error:
        return row | {"reason": error.message}
    if plan.refused is not None:
        return row | {"reason": plan.refused.message}
    gain = max(0, plan.file_size_bytes - plan.predicted_size_bytes)
    return row | {
        "gain": gain,
        "too_little": 0 < gain < WORTH_A_JOB_BYTES,
        "estimated": plan.estimated,
        "blocks_read": plan.blocks_read,
        "why": plan.why if plan.blocks_kept < plan.blocks or not gain else _ROOM_BETWEEN + plan.why,
        "warnings": plan.warnings if gain else [],
    }
