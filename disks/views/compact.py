"""Compact: what can be given back, why the rest stays, then the job."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm, needs_offline, sealed
from disks.models import Disk, Job
from disks.operations.compact_in_place import InPlacePlan
from disks.operations.compact_plan import CompactPlan
from disks.services import compacting, estimates
from disks.services.errors import Refusal
from disks.services.stored_json import readable
from disks.views import plans, ways
from disks.views.guard import client_address
from disks.views.rendering import render_page

FRAGMENT = "disks/_compact_plan.html"
NEEDS = (
    "Needs no room and keeps owner and rights. Can be stopped and run again; there is nothing to "
    "undo, for the disk reads as before.",
    "A second file takes its place: needs the room for it, and can be undone, until the trash is "
    "emptied.",
)


@require_http_methods(["GET", "POST"])
def compact(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET reads the disk and shows the dry run; POST starts the job."""
    disk = get_object_or_404(Disk.objects.select_related("root"), pk=disk_id)
    sent = request.POST if request.method == "POST" else None
    if sent is not None and (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    in_place = ways.is_in_place(sent or request.GET)
    context = _context(disk, sent, in_place=in_place)
    if request.method == "GET":
        return render_page(request, "disks/compact.html", context, fragment=FRAGMENT)
    return plans.start(
        request,
        "disks/compact.html",
        FRAGMENT,
        context,
        fingerprint=context["plan"] and context["plan"]["fingerprint"],
        ask=lambda said, key: compacting.request(
            disk,
            user=request.user,
            in_place=in_place,
            declared_offline=said.declared,
            seen=said.cleaned_data["seen"],
            idempotency_key=key,
            address=client_address(request),
        ),
    )


def _context(disk: Disk, sent: Any, *, in_place: bool) -> dict[str, Any]:
    context: dict[str, Any] = {"disk": disk, "plan": None, "refused": None, "stale": False}
    choice = ways.both(reverse("compact", args=[disk.pk]), {}, in_place=in_place, needs=NEEDS)
    context |= {"in_place": in_place, "ways": choice, "verb": f"Compact {readable(disk.name)}"}

    def other() -> ImageError | None:
        return compacting.plan(disk, in_place=not in_place, time_budget_seconds=0.1).refused

    try:
        plan = compacting.plan(disk, in_place=in_place)
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    document = plan.as_dict()
    return context | {
        "other_way": ways.way_out(choice, other) if plan.refused else None,
        "plan": document,
        "refused": plans.as_error(document["refused"]),
        "gain": _gain(document),
        "guess": _guess(plan, document),
        "managers": document.get("managers", []),
        "declaration": DeclarationForm(
            sent,
            needs_offline=needs_offline([disk]),
            needs_unmanaged=bool(document.get("managers")),
        ),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(document["fingerprint"]),
    }


def _gain(document: dict[str, Any]) -> int:
    return max(0, document["file_size_before_bytes"] - document["file_size_after_bytes"])


def _guess(plan: CompactPlan, document: dict[str, Any]) -> estimates.Guess:
    """In place what was read for the plan is the measure: it looks, moves and reads back."""
    paths = [*plan.exclusive, *plan.shared]
    if isinstance(plan, InPlacePlan):
        moved = plan.bytes_to_look + 2 * plan.bytes_to_move
        seconds = max(0.5, document["seconds"] or 0)
        return estimates.within_limit(seconds, moved, paths=paths, in_place=True)
    kinds = (Job.Kind.COMPACT, Job.Kind.MERGE)
    left_out = _gain(document)
    return estimates.guess(document["bytes_written"], kinds, paths=paths, left_out_bytes=left_out)
