"""The trash: what jobs replaced, brought back or deleted for good, a whole job at a time."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from disks import tasks
from disks.engine.errors import ImageError
from disks.models import Job, StorageRoot, TrashedJob
from disks.services import trash, trash_index
from disks.services.errors import Refusal
from disks.views import listing
from disks.views.guard import client_address
from disks.views.rendering import render_page

SHOWN_FILES = 5
STATES = dict(TrashedJob.State.choices)


@require_GET
def trash_list(request: HttpRequest) -> HttpResponse:
    return _show(request)


@require_POST
def restore(request: HttpRequest, trash_id: int) -> HttpResponse:
    """Ask for the job that brings everything back which one job replaced."""
    item = _item(trash_id)
    try:
        with transaction.atomic():
            job = trash.request_restore(
                item,
                user=request.user,
                declared_offline=request.POST.get("offline") == "1",
                idempotency_key=f"restore-{item.pk}-{_key(request)}",
                address=client_address(request),
            )
            _enqueue(job)
    except (Refusal, ImageError) as refusal:
        return _show(request, refusal=refusal)
    return HttpResponseRedirect(reverse("job", args=[job.pk]))


@require_POST
def empty(request: HttpRequest, trash_id: int) -> HttpResponse:
    """Ask for the job that deletes what one job replaced."""
    return _empty(request, [_item(trash_id)], f"empty-{trash_id}-{_key(request)}")


@require_POST
def empty_root(request: HttpRequest, root_id: int) -> HttpResponse:
    """Ask for the job that empties the trash of one root."""
    root = get_object_or_404(StorageRoot, pk=root_id)
    items = list(root.trash.filter(state=TrashedJob.State.IN_TRASH).order_by("pk"))
    if not items:
        return HttpResponseRedirect(reverse("trash"))
    return _empty(request, items, f"empty-root-{root_id}-{_key(request)}")


def _empty(request: HttpRequest, items: list[TrashedJob], key: str) -> HttpResponse:
    try:
        with transaction.atomic():
            job = trash.request_empty(
                items,
                user=request.user,
                idempotency_key=key,
                address=client_address(request),
            )
            _enqueue(job)
    except (Refusal, ImageError) as refusal:
        return _show(request, refusal=refusal)
    return HttpResponseRedirect(reverse("job", args=[job.pk]))


def _enqueue(job: Job) -> None:
    if job.status == Job.Status.QUEUED:
        tasks.enqueue(job)


def _item(trash_id: int) -> TrashedJob:
    return get_object_or_404(TrashedJob.objects.select_related("root", "job"), pk=trash_id)


def _key(request: HttpRequest) -> str:
    return request.POST.get("key", "")[:40] or uuid.uuid4().hex


def _show(request: HttpRequest, *, refusal: Any = None) -> HttpResponse:
    query = request.GET
    state = listing.chosen(query, "state", set(STATES)) or TrashedJob.State.IN_TRASH
    root_id = listing.number(query, "root")
    rows = TrashedJob.objects.filter(state=state).select_related("root", "job")
    if root_id:
        rows = rows.filter(root=root_id)
    totals = list(trash_index.totals())
    page = listing.paged(rows, query)
    for item in page.rows:
        files = [row for row in item.items if isinstance(row, dict)]
        item.files = [_file(row) for row in files[:SHOWN_FILES]]
        item.more_files = max(0, len(files) - SHOWN_FILES)
    return render_page(
        request,
        "disks/trash.html",
        {
            "page": page,
            "state": str(state),
            "states": STATES.items(),
            "root_id": root_id,
            "roots": list(StorageRoot.objects.values_list("pk", "name")),
            "totals": totals,
            "total_bytes": sum(root.trash_bytes for root in totals),
            "key": uuid.uuid4().hex,
            "refusal": refusal,
        },
        status=409 if refusal else 200,
    )


def _file(row: dict[str, Any]) -> dict[str, Any]:
    """One row of a manifest: the name it had, and its size where that is known."""
    identity = row.get("file")
    size = row.get("size_bytes")
    if size is None and isinstance(identity, dict):
        size = identity.get("size_bytes")
    return {"path": row.get("original") or row.get("path") or "", "size_bytes": size}
