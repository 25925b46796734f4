"""Compact several selected disks: one dry run and one job for each."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm, needs_offline, sealed
from disks.forms.timing import TimingForm
from disks.models import Disk
from disks.services import compacting
from disks.services.errors import Refusal
from disks.views import listing, plans
from disks.views.actions import action
from disks.views.guard import client_address
from disks.views.rendering import render_page

DISKS_AT_MOST = 25  # each is read for its estimate while the page is made
PLAN_SECONDS = 0.1


@require_http_methods(["GET", "POST"])
def compact_many(request: HttpRequest) -> HttpResponse:
    """GET estimates what each disk would give back; POST starts a job for each."""
    sent = request.POST if request.method == "POST" else request.GET
    chosen = listing.numbers(sent.getlist("disk"), most=200)
    found = Disk.objects.select_related("root").filter(pk__in=chosen).order_by("name", "pk")
    disks = list(found[: DISKS_AT_MOST + 1])
    context = _context(disks[:DISKS_AT_MOST], request.POST if request.method == "POST" else None)
    context["left_out"] = len(disks) > DISKS_AT_MOST
    if request.method == "GET":
        return render_page(request, "disks/compact_many.html", context)
    declaration: DeclarationForm = context["declaration"]
    possible = [row["disk"] for row in context["rows"] if not row["reason"]]
    timed = context["timing"] = TimingForm(request.POST)
    if not declaration.is_valid() or not timed.is_valid() or not possible:
        return render_page(request, "disks/compact_many.html", context, status=422)
    started = 0
    for disk in possible:
        try:
            with transaction.atomic():
                job = compacting.request(
                    disk,
                    user=request.user,
                    declared_offline=declaration.declared,
                    idempotency_key=f"{plans.form_key(request)}-{disk.pk}",
                    address=client_address(request),
                )
                plans.enqueue(request, job, timed)
        except (ImageError, Refusal) as error:
            messages.error(request, error.sentence)
        else:
            started += 1
    if started:
        messages.success(request, f"{started} {'jobs are' if started > 1 else 'job is'} asked for.")
    return HttpResponseRedirect(reverse("jobs"))


def _context(disks: list[Disk], sent: Any) -> dict[str, Any]:
    rows = [_row(disk) for disk in disks]
    possible = [row["disk"] for row in rows if not row["reason"]]
    managed = sorted({disk.managed_by for disk in possible if disk.managed_by})
    return {
        "rows": rows,
        "possible": len(possible),
        "gain": sum(row["gain"] or 0 for row in rows),
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
        "seen": sealed([disk.pk for disk in disks]),
    }


def _row(disk: Disk) -> dict[str, Any]:
    """The disk, what it would give back, or why it cannot be compacted."""
    reason = action(disk, "compact", may_operate=True).reason
    row: dict[str, Any] = {"disk": disk, "reason": reason, "gain": None, "estimated": False}
    if reason:
        return row
    try:
        plan = compacting.plan(disk, time_budget_seconds=PLAN_SECONDS)
    except (ImageError, Refusal) as error:
        return row | {"reason": error.message}
    if plan.refused is not None:
        return row | {"reason": plan.refused.message}
    gain = max(0, plan.file_size_bytes - plan.predicted_size_bytes)
    return row | {
        "gain": gain,
        "estimated": plan.estimated,
        "why": plan.why,
        "warnings": plan.warnings,
    }
