"""The repair plan: many broken parent links, mended by one job and undone by another."""

from __future__ import annotations

import re
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from disks import tasks
from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm, needs_offline, sealed
from disks.models import Job, LinkUndo
from disks.services import overview, repair_plans
from disks.services.errors import Refusal
from disks.views import listing, plans
from disks.views.guard import client_address
from disks.views.rendering import render_page

PAGE = "disks/repair.html"
REPAIRS_SHOWN = 5
MOST_ROWS = 1_000  # of one page, and of one job
_ROW = re.compile(r"[0-9]{1,18}:[0-9]{1,18}")


@require_GET
def repair(request: HttpRequest) -> HttpResponse:
    """Every broken link by cause, each with its proposed parent or with why there is none.

    all: the cause of which every row is chosen, not only the certain ones.
    """
    cause = listing.words(request.GET, "cause")
    return render_page(request, PAGE, _context(cause, all_of=listing.words(request.GET, "all")))


@require_POST
def apply(request: HttpRequest) -> HttpResponse:
    """One job for the chosen rows; each is planned and checked again when its turn comes."""
    cause = listing.words(request.POST, "cause")
    if (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    rows = repair_plans.chosen_rows(_rows_sent(request))
    context = _context(cause, sent=request.POST, chosen=set(request.POST.getlist("row")))
    declaration: DeclarationForm = context["declaration"]
    if not rows or not declaration.is_valid():
        context["nothing_chosen"] = not rows
        return render_page(request, PAGE, context, status=422)
    try:
        with transaction.atomic():
            job = repair_plans.request_repair(
                rows,
                user=request.user,
                declared_offline=declaration.declared,
                idempotency_key=plans.form_key(request),
                address=client_address(request),
            )
            tasks.enqueue(job)
    except (ImageError, Refusal) as error:
        context |= {"refused": plans.as_error(error), "key": plans.new_key()}
        return render_page(request, PAGE, context, status=409)
    return HttpResponseRedirect(reverse("job", args=[job.pk]))


@require_http_methods(["GET", "POST"])
def undo(request: HttpRequest, job_id: int) -> HttpResponse:
    """Take back everything that one repair did."""
    job = get_object_or_404(Job, pk=job_id, kind=Job.Kind.REPAIR_PLAN)
    if request.method == "POST" and (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    disks = [row.disk for row in repair_plans.undoable(job)]
    sent = request.POST if request.method == "POST" else None
    declaration = DeclarationForm(
        sent,
        needs_offline=needs_offline(disks),
        needs_unmanaged=any(disk.managed_by for disk in disks),
    )
    context: dict[str, Any] = {
        "job": job,
        "count": len(disks),
        "refused": None,
        "declaration": declaration,
        "managers": _managers(disks),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(job.pk),
    }
    if not disks:
        context["refused"] = {
            "code": "E_NOTHING_TO_UNDO",
            "message": "Nothing of this repair can be undone any more.",
        }
    page = "disks/repair_undo.html"
    if sent is None:
        return render_page(request, page, context)
    if not disks or not declaration.is_valid():
        return render_page(request, page, context, status=422)
    try:
        with transaction.atomic():
            undoing = repair_plans.request_undo_plan(
                job,
                user=request.user,
                declared_offline=declaration.declared,
                idempotency_key=plans.form_key(request),
                address=client_address(request),
            )
            tasks.enqueue(undoing)
    except (ImageError, Refusal) as error:
        context |= {"refused": plans.as_error(error), "key": plans.new_key()}
        return render_page(request, page, context, status=409)
    return HttpResponseRedirect(reverse("job", args=[undoing.pk]))


def _rows_sent(request: HttpRequest) -> list[str]:
    """What the checkboxes sent, as far as it can be a row at all."""
    return [value for value in request.POST.getlist("row")[:MOST_ROWS] if _ROW.fullmatch(value)]


def _context(
    cause: str, *, sent: Any = None, chosen: set[str] | None = None, all_of: str = ""
) -> dict[str, Any]:
    def is_chosen(row: repair_plans.RepairRow, group: str) -> bool:
        return row.certain or group == all_of if chosen is None else row.value in chosen

    found = repair_plans.repair_plan(cause=cause, most=MOST_ROWS)
    groups = [
        {
            "cause": group.cause,
            "sentence": group.sentence,
            "found": group.found,
            "matched": [
                {"row": row, "checked": is_chosen(row, group.cause)} for row in group.matched
            ],
        }
        for group in found
    ]
    disks = [row.child for group in found for row in group.matched]
    unmatched = [row for group in found for row in group.unmatched]
    shown = len(disks) + len(unmatched)
    total = repair_plans.broken_count(cause) if shown >= MOST_ROWS else shown
    return {
        "groups": groups,
        "matched": len(disks),
        "unmatched": unmatched,
        "shown": shown,
        "total": total,
        "left_out": total - shown,
        "above": repair_plans.above_count(cause),
        "chosen_cause": cause,
        "as_of": overview.last_scans().words,
        "repairs": _repairs(),
        "refused": None,
        "declaration": DeclarationForm(
            sent,
            needs_offline=needs_offline(disks),
            needs_unmanaged=any(disk.managed_by for disk in disks),
        ),
        "managers": _managers(disks),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(cause),
    }


def _managers(disks: list[Any]) -> list[dict[str, str]]:
    names = sorted({disk.managed_by for disk in disks if disk.managed_by})
    return (
        [{"sentence": f"Some of these disks are managed by: {', '.join(names)}.", "way_out": ""}]
        if names
        else []
    )


def _repairs() -> list[dict[str, Any]]:
    """The last repairs, and how many of their updates can still be taken back."""
    jobs = list(Job.objects.filter(kind=Job.Kind.REPAIR_PLAN).order_by("-pk")[:REPAIRS_SHOWN])
    undoable: dict[int, int] = {}
    rows = LinkUndo.objects.filter(job__in=jobs, state=LinkUndo.State.AVAILABLE)
    for job_id in rows.values_list("job_id", flat=True):
        if job_id is not None:
            undoable[job_id] = undoable.get(job_id, 0) + 1
    return [{"job": job, "undoable": undoable.get(job.pk, 0)} for job in jobs]
