"""Storage roots: what the console may look at, what the storage can do, and scanning it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.db import transaction
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from disks import tasks
from disks.forms.roots import NewRootForm, RootForm
from disks.models import Disk, Job, StorageRoot
from disks.services import root_declarations, root_state, scanning, trash_index
from disks.services.errors import Refusal
from disks.views import job_words
from disks.views.guard import client_address
from disks.views.rendering import render_page

_AT_RISK = (Disk.Health.BROKEN, Disk.Health.DAMAGED, Disk.Health.UNREADABLE)


@require_GET
def root_list(request: HttpRequest) -> HttpResponse:
    found = StorageRoot.objects.prefetch_related("windows_views").annotate(
        disk_count=Count("disks", filter=Q(disks__missing_since=None)),
        risk_count=Count("disks", filter=Q(disks__health__in=_AT_RISK, disks__put_away_by=None)),
    )
    found = found.order_by("name")  # counting forgets the model's own order
    scans = scanning.asked_for()
    return render_page(
        request,
        "disks/roots.html",
        {
            "rows": [(root, scans.get(root.pk)) for root in found],
            "scan_key": uuid.uuid4().hex,
        },
    )


@require_GET
def root_detail(request: HttpRequest, root_id: int) -> HttpResponse:
    return _show(request, _root(root_id))


@require_http_methods(["GET", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    """Declare a root below an allowed folder; "Test" tries it out and declares nothing."""
    allowed = root_declarations.allowed_folders()
    form = NewRootForm(allowed, request.POST if request.method == "POST" else None)
    refusal, found = None, None
    if request.method == "POST" and form.is_valid():
        try:
            if request.POST.get("action") == "test":
                found = root_declarations.try_out(form.path())
            else:
                root = root_declarations.declare(
                    path=form.path(),
                    declared_by=StorageRoot.DeclaredBy.BROWSER,
                    user=request.user,
                    says=form.declaration(),
                    address=client_address(request),
                )
                messages.success(request, "The storage root is added. Scan it to see its disks.")
                return HttpResponseRedirect(reverse("root", args=[root.pk]))
        except Refusal as problem:
            refusal = problem
    return render_page(
        request,
        "disks/root_form.html",
        {
            "form": form,
            "allowed": allowed,
            "refusal": refusal,
            "tried": found,
            "capabilities": capabilities(found) if found else [],
        },
        status=422 if form.errors or refusal else 200,
    )


@require_http_methods(["GET", "POST"])
def edit(request: HttpRequest, root_id: int) -> HttpResponse:
    root = _root(root_id)
    form = RootForm(
        request.POST if request.method == "POST" else None, initial=RootForm.initial_of(root)
    )
    refusal = None
    if request.method == "POST" and form.is_valid():
        try:
            leads_before = root_declarations.decides_links(root)
            root_declarations.change(
                root,
                says=form.declaration(),
                user=request.user,
                address=client_address(request),
            )
            if root_declarations.decides_links(root) == leads_before:
                messages.success(request, "Saved.")
            else:
                _follow_new_views(request, root)
            return HttpResponseRedirect(reverse("root", args=[root.pk]))
        except Refusal as problem:
            refusal = problem
            root.refresh_from_db()
    return render_page(
        request,
        "disks/root_form.html",
        {"form": form, "root": root, "refusal": refusal},
        status=422 if form.errors or refusal else 200,
    )


def _follow_new_views(request: HttpRequest, root: StorageRoot) -> None:
    """Every parent link of the catalog may lead elsewhere now: a scan looks anew."""
    with transaction.atomic():
        job = scanning.request(
            root,
            user=request.user,
            idempotency_key=uuid.uuid4().hex,
            address=client_address(request),
        )
        tasks.enqueue(job)
    messages.success(
        request,
        "Saved. Parent paths may lead elsewhere now: until the scan that was just asked for "
        f"(job {job.pk}) is done, the disks are shown as they were.",
    )


@require_POST
def scan(request: HttpRequest, root_id: int) -> HttpResponse:
    root = _root(root_id)
    key = request.POST.get("key", "")[:40] or uuid.uuid4().hex
    with transaction.atomic():
        job = scanning.request(
            root,
            user=request.user,
            idempotency_key=f"scan-{root.pk}-{key}",
            address=client_address(request),
        )
        if job.status == Job.Status.QUEUED:
            tasks.enqueue(job)
    return HttpResponseRedirect(reverse("job", args=[job.pk]))


@require_POST
def probe(request: HttpRequest, root_id: int) -> HttpResponse:
    """Look anew whether the root is there, and what its storage can do."""
    root = _root(root_id)
    root_state.check_state(root)
    if root.state not in (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED):
        root_state.probe(root)
    return HttpResponseRedirect(reverse("root", args=[root.pk]))


@require_POST
def accept(request: HttpRequest, root_id: int) -> HttpResponse:
    """Take what is mounted there now for this root."""
    root = _root(root_id)
    try:
        root_declarations.accept(root, user=request.user, address=client_address(request))
    except Refusal as refusal:
        return _show(request, root, refusal=refusal, status=409)
    messages.success(request, "Accepted. Scan it to see what is there now.")
    return HttpResponseRedirect(reverse("root", args=[root.pk]))


@require_POST
def remove(request: HttpRequest, root_id: int) -> HttpResponse:
    """Forget a root and its catalog; its files stay."""
    root = _root(root_id)
    try:
        root_declarations.remove(root, user=request.user, address=client_address(request))
    except Refusal as refusal:
        return _show(request, root, refusal=refusal, status=409)
    messages.success(request, "The storage root is removed. Its files were not touched.")
    return HttpResponseRedirect(reverse("roots"))


def _root(root_id: int) -> StorageRoot:
    return get_object_or_404(StorageRoot.objects.prefetch_related("windows_views"), pk=root_id)


def _show(
    request: HttpRequest,
    root: StorageRoot,
    *,
    refusal: Refusal | None = None,
    status: int = 200,
) -> HttpResponse:
    known = root.disks.filter(put_away_by=None)  # what jobs put into the trash is told there
    by_health = known.values("health").order_by("health").annotate(count=Count("pk"))
    counts = {row["health"]: row["count"] for row in by_health}
    return render_page(
        request,
        "disks/root.html",
        {
            "root": root,
            "capabilities": capabilities(root.probe) if root.probe else [],
            "health_counts": [
                (value, counts[value]) for value in Disk.Health.values if value in counts
            ],
            "disk_count": sum(counts.values()),
            "scan_rows": [
                row for row in job_words.result_rows(root.last_scan_result) if row[1] != "0"
            ],
            "scans": list(Job.objects.filter(root=root, kind=Job.Kind.SCAN).order_by("-pk")[:5]),
            "trash_bytes": trash_index.given_back_bytes(root),
            "scan_key": uuid.uuid4().hex,
            "scan_job": scanning.asked_for().get(root.pk),
            "refusal": refusal,
        },
        status=status,
    )


@dataclass(frozen=True)
class Capability:
    """One result of the probe. verdict: yes, no, or unknown when it was not tried."""

    words: str
    verdict: str
    meaning: str


# key of the probe, what was tried, what it means when it does not work
_CAPABILITIES = (
    ("readable", "Files can be listed and read", "Nothing can be shown of this folder."),
    ("writable", "Files can be written", "Disks are shown; every button that writes is off."),
    (
        "locks",
        "Locks work",
        "Other programs cannot be kept out; nothing is changed in place here.",
    ),
    (
        "hard_links",
        "Hard links work",
        "A file is replaced by two journalled renames instead of one step.",
    ),
    ("rename_over", "A file is replaced in one step", "Replacing takes two journalled renames."),
    (
        "ownership",
        "Owner and mode survive a copy",
        "No file is replaced by a copy here: merge to a new disk instead.",
    ),
    (
        "attributes",
        "ACL and attributes survive a copy",
        "No file is replaced by a copy here: merge to a new disk instead.",
    ),
)


def capabilities(found: dict[str, Any]) -> list[Capability]:
    """The probe's answers in words; what a "no" means stands beside it."""
    rows = []
    for key, words, without in _CAPABILITIES:
        answer = found.get(key)
        verdict = "unknown" if answer is None else "yes" if answer else "no"
        rows.append(Capability(words, verdict, "" if verdict == "yes" else without))
    return rows
