"""Jobs: the list, one job's page, stop and try again, and the number in the navigation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from disks import tasks
from disks.forms.declarations import ResumeForm, sealed
from disks.models import Disk, Job, TrashedJob
from disks.services import estimates, half_merged, held, jobs, repair_plans, speed, stopping, timing
from disks.services.access import Role, allows, role_of
from disks.services.errors import Refusal
from disks.services.jobs import User
from disks.services.mending import MENDINGS
from disks.services.work import WORK
from disks.views import errors, job_words, listing, plans
from disks.views.guard import client_address
from disks.views.rendering import render_page, running_jobs, wants_fragment

LOG_LINES = 500
# Where the plan is made anew of a job whose disk has changed since.
_FORMS: dict[str, str] = {
    Job.Kind.UPDATE_PARENT: "parent-path",
    **{one.kind: one.address for one in MENDINGS.values()},
    Job.Kind.MERGE: "merge",
    Job.Kind.PILE: "disk-pile",
    Job.Kind.COMPACT: "compact",
    Job.Kind.CONVERT: "convert",
    Job.Kind.EXPAND: "expand",
    Job.Kind.COPY: "copy",
    Job.Kind.MOVE: "move",
    Job.Kind.DELETE: "delete",
}
_NOT_READABLE = (
    Disk.Health.BROKEN,
    Disk.Health.DAMAGED,
    Disk.Health.UNREADABLE,
    Disk.Health.MISSING,
)

# What a filter of the list stands for; single states may be asked for too.
STATES = {
    "active": [str(state) for state in Job.ACTIVE],
    "trouble": [Job.Status.FAILED.value, Job.Status.NEEDS_ATTENTION.value, Job.Status.LOST.value],
} | {str(state): [str(state)] for state in Job.Status}

# Trying again needs the role that the work itself needs.
ROLES: dict[str, Role] = {Job.Kind.EMPTY_TRASH: Role.ADMINISTRATOR}


@require_GET
def job_list(request: HttpRequest) -> HttpResponse:
    state = listing.chosen(request.GET, "state", set(STATES))
    kind = listing.chosen(request.GET, "kind", set(Job.Kind.values))
    words = listing.words(request.GET)
    found = Job.objects.select_related("requested_by", "waits_for")
    if state:
        found = found.filter(status__in=STATES[state])
    if kind:
        found = found.filter(kind=kind)
    if words:
        match = Q(summary__icontains=words) | Q(requested_by__username__icontains=words)
        if words.isascii() and words.isdigit() and len(words) <= 18:
            match |= Q(pk=int(words))
        found = found.filter(match)
    page = listing.paged(found, request.GET)
    return render_page(
        request,
        "disks/jobs.html",
        {
            "page": page,
            "state": state,
            "kind": kind,
            "words": words,
            "is_filtered": bool(state or kind or words),
            "kinds": Job.Kind.choices,
            "states": [(str(value), label) for value, label in Job.Status.choices],
            "list_target": "#jobs-table",
            "any_active": any(job.is_active for job in page.rows),
        },
        fragment="disks/_jobs_table.html",
    )


@require_GET
def running(request: HttpRequest) -> HttpResponse:
    """The number in the navigation: 204, no swap, while it is the one the page has."""
    count = running_jobs()
    if request.GET.get("seen") == str(count):
        return HttpResponse(status=204)
    return HttpResponse(
        render_to_string("components/_running.html", {"running_jobs": count}, request)
    )


@require_GET
def job_detail(request: HttpRequest, job_id: int) -> HttpResponse:
    """The page; its fragment asks with what it has seen, and is not drawn again for nothing."""
    job = _job(job_id)
    if wants_fragment(request) and request.GET.get("seen") == _looks(job):
        return HttpResponse(status=204)
    return _show(request, job)


@require_POST
def cancel(request: HttpRequest, job_id: int) -> HttpResponse:
    return _asked(request, job_id, stopping.cancel)


@require_POST
def pause(request: HttpRequest, job_id: int) -> HttpResponse:
    return _asked(request, job_id, stopping.pause)


@require_POST
def resume(request: HttpRequest, job_id: int) -> HttpResponse:
    form = ResumeForm(request.POST)
    untouched = form.cleaned_data["touched"] if form.is_valid() else None
    return _asked(request, job_id, partial(stopping.resume, untouched=untouched))


@require_POST
def start_now(request: HttpRequest, job_id: int) -> HttpResponse:
    return _asked(request, job_id, stopping.start_now)


def _asked(
    request: HttpRequest, job_id: int, what: Callable[[Job, User, str], Job]
) -> HttpResponse:
    job = _job(job_id)
    try:
        what(job, request.user, client_address(request))
    except Refusal as refusal:
        job.refresh_from_db()
        return _show(request, job, refusal=refusal, status=409)
    return HttpResponseRedirect(reverse("job", args=[job.pk]))


@require_POST
def retry(request: HttpRequest, job_id: int) -> HttpResponse:
    job = _job(job_id)
    needed = ROLES.get(job.kind, Role.OPERATOR)
    if not allows(request.user, needed):
        return errors.role_missing(request, needed=needed, has=role_of(request.user))
    try:
        with transaction.atomic():
            again = jobs.retry(
                job,
                request.user,
                client_address(request),
                declared_offline=request.POST.get("offline") == "on",
            )
            if again.status == Job.Status.QUEUED:
                tasks.enqueue(again)
    except Refusal as refusal:
        job.refresh_from_db()
        return _show(request, job, refusal=refusal, status=409)
    return HttpResponseRedirect(reverse("job", args=[again.pk]))


def _looks(job: Job) -> str:
    """Changes whenever an active job's page would look different."""
    last_line = job.log.order_by("-pk").values_list("pk", flat=True).first()
    seen = [
        job.status, job.step, job.sentence, job.done_bytes, job.total_bytes, job.cancellable,
        job.cancel_requested_at, job.pause_requested_at, job.waits_for_id, job.resume_at,
        job.held_at, last_line,
    ]  # fmt: skip
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def _job(job_id: int) -> Job:
    rows = Job.objects.select_related("requested_by", "disk__root", "root", "waits_for", "repeats")
    return get_object_or_404(rows, pk=job_id)


def _show(
    request: HttpRequest, job: Job, *, refusal: Refusal | None = None, status: int = 200
) -> HttpResponse:
    log = list(job.log.order_by("-pk")[: LOG_LINES + 1])
    trashed = TrashedJob.objects.filter(job=job).select_related("root", "job").order_by("pk")
    outcomes = job_words.outcomes(job.result)
    lists = job_words.result_lists(job.result)
    output = job.result.get("output") if isinstance(job.result, dict) else None
    named = {output, *(row["path"] for row in outcomes)}
    named.update(*(one["rows"] for one in lists if one["kind"] == "path"))
    known = _disks_at({path for path in named if isinstance(path, str)})
    for row in outcomes:
        row["disk_id"] = row["disk_id"] or known.get(row["path"])
    for one in lists:
        one["disks"] = [(row, known.get(row)) for row in one["rows"]]
    renews = job.is_active and request.GET.get("every") == "5"
    stops_by = timing.stops_by(job)
    response = render_page(
        request,
        "disks/job.html",
        {
            "job": job,
            "pace": pace(job),
            "in_bytes": job.kind in WORK and WORK[job.kind].measured_in_bytes,
            "clock_decides": timing.decides(job),
            "foreseen": timing.foreseen(job),
            "stops_by": timing.moment(stops_by) if stops_by else "",
            "limit": speed.of_job(job) if job.status == Job.Status.RUNNING else None,
            "looks": _looks(job) if job.is_active or job.is_paused else "",
            "can_be_held": held.can_be_held(job),
            "can_be_paused": held.can_be_paused(job),
            "now": timezone.localtime(),
            "renews": renews,
            "log": log[:LOG_LINES][::-1],
            "log_is_cut": len(log) > LOG_LINES,
            "meanwhile": job_words.meanwhile(job),
            "touched": _touched(job),
            "if_cancelled": job_words.if_cancelled(job),
            "stop_word": job_words.stop_word(job),
            "what_now": job_words.what_now(job),
            "time_shares": job_words.time_shares(job),
            "result_rows": job_words.result_rows(job.result) + _readable_again(job, outcomes),
            "result_lists": lists,
            "outcomes": outcomes,
            "output_disk": known.get(output or ""),
            "may_undo": job.kind == Job.Kind.REPAIR_PLAN and bool(repair_plans.undoable(job)),
            "trashed": list(trashed) if job.status in Job.FINAL else [],
            "may_retry": allows(request.user, ROLES.get(job.kind, Role.OPERATOR)),
            "form_again": _form_again(job),
            "refusal": refusal,
            "error": plans.as_error(job.error),
        },
        fragment="disks/_job_progress.html",
        status=status,
    )
    if renews:
        response["Refresh"] = "5"  # what a browser without script was asked for by its user
    return response


def _touched(job: Job) -> dict[str, str] | None:
    """The disk that a paused merge goes on with only if somebody says that it was but touched."""
    if not job.is_paused or job.cancellable or job.kind not in (Job.Kind.MERGE, Job.Kind.PILE):
        return None
    found = half_merged.touched_base(job)
    if found is None:
        return None
    base, file = found
    return {"base_name": os.path.basename(base), "sealed": sealed(file.as_dict())}


def _form_again(job: Job) -> str:
    """The form to plan anew in, where trying again can only fail; "" elsewhere."""
    return reverse(_FORMS[job.kind], args=[job.disk_id]) if jobs.needs_a_new_plan(job) else ""


def _readable_again(job: Job, outcomes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Whether a repair mended all of its disks, by what the catalog says of them now."""
    if job.kind != Job.Kind.REPAIR_PLAN or job.status != Job.Status.SUCCEEDED or not outcomes:
        return []
    disks = {row["disk_id"] for row in outcomes if row["disk_id"] is not None}
    if len(disks) < len(outcomes) or any(row["failed"] for row in outcomes):
        return []
    if Disk.objects.filter(pk__in=disks, health__in=_NOT_READABLE).exists():
        return []
    number = len(disks)
    words = "The disk is" if number == 1 else f"All {number:,} disks are"
    return [("Afterwards", f"{words} readable again.")]


def _disks_at(paths: Collection[str]) -> dict[str, int]:
    """Which of these host paths the catalog knows as disks, for links to their pages."""
    names = {os.path.basename(path) for path in paths}
    rows = Disk.objects.filter(name__in=names).values_list("pk", "root__path", "relative_path")
    found = {os.path.join(root, relative): pk for pk, root, relative in rows}
    return {path: found[path] for path in paths if path in found}


@dataclass(frozen=True)
class Pace:
    """How fast the present step goes. seconds_left is None before that can be told.

    with_proof: a step of its own follows that reads all of it again, and it is counted.
    """

    percent: int | None
    bytes_per_second: float | None
    seconds_left: float | None
    seconds_so_far: float | None
    with_proof: bool = False


# Jobs that copy in one step and prove in the next; the others count both in one.
_PROVEN_APART = (Job.Kind.MERGE, Job.Kind.COMPACT, Job.Kind.CONVERT)


def pace(job: Job, now: Any = None) -> Pace:
    """Rate and time left of the step at work, since it began or was gone on with."""
    now = now or timezone.now()
    so_far = _seconds_so_far(job, now)
    if job.status != Job.Status.RUNNING or job.total_bytes <= 0:
        return Pace(None, None, None, so_far)
    percent = max(0, min(100, int(job.done_bytes * 100 / job.total_bytes)))
    elapsed = (now - job.step_started_at).total_seconds() if job.step_started_at else 0.0
    done_since = job.done_bytes - job.step_start_bytes
    if elapsed < 2 or done_since <= 0:
        return Pace(percent, None, None, so_far)
    rate = done_since / elapsed
    left = max(0, job.total_bytes - job.done_bytes) / rate
    with_proof = job.kind in _PROVEN_APART and job.step == "copy"
    if with_proof:
        limit = speed.of_job(job).bytes_per_second
        share = 1.0 if limit and rate > 0.9 * limit else estimates.proof_share(_PROVEN_APART)
        left += job.total_bytes / rate * share
    return Pace(percent, rate, left, so_far, with_proof)


def _seconds_so_far(job: Job, now: Any) -> float | None:
    """How long it has worked, over all its starts; None before the first."""
    if job.worked_seconds is not None or job.started_at is None:
        return job.worked_seconds
    return float(((job.finished_at or now) - job.started_at).total_seconds())
