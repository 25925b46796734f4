"""Expand: the new size, what will change and who would be broken, then the job."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm, needs_offline, sealed
from disks.forms.expand import ExpandForm
from disks.forms.size import as_typed
from disks.models import Disk
from disks.services import chains, expanding
from disks.services.errors import Refusal
from disks.services.stored_json import readable
from disks.views import plans
from disks.views.guard import client_address
from disks.views.rendering import render_page

LEAVES_OFFERED = 5
PAGE, FRAGMENT = "disks/expand.html", "disks/_expand_plan.html"


@require_http_methods(["GET", "POST"])
def expand(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET shows the form and, once a size is given, the dry run; POST starts the job."""
    disk = get_object_or_404(Disk.objects.select_related("root"), pk=disk_id)
    if request.method == "GET":
        size, unit = as_typed(disk.virtual_size_bytes or 0)
        given = request.GET if "size" in request.GET else None
        context = _context(disk, ExpandForm(given, initial={"size": size, "unit": unit}))
        return render_page(request, PAGE, context, fragment=FRAGMENT)
    if (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    form = ExpandForm(request.POST)
    context = _context(disk, form, sent=request.POST)
    return plans.start(
        request,
        PAGE,
        FRAGMENT,
        context,
        fingerprint=context["plan"] and context["plan"]["fingerprint"],
        ask=lambda said, key: expanding.request(
            disk,
            size_bytes=form.size_bytes,
            user=request.user,
            declared_offline=said.declared,
            seen=said.cleaned_data["seen"],
            idempotency_key=key,
            address=client_address(request),
        ),
    )


def _context(disk: Disk, form: ExpandForm, sent: Any = None) -> dict[str, Any]:
    context: dict[str, Any] = {
        "disk": disk,
        "form": form,
        "verb": f"Expand {readable(disk.name)}",
        "plan": None,
        "refused": None,
        "stale": False,
    }
    if not form.is_bound or not form.is_valid():
        return context
    try:
        plan = expanding.plan(disk, size_bytes=form.size_bytes)
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    document = plan.as_dict()
    return context | {
        "plan": document,
        "refused": plans.as_error(document["refused"]),
        "children": plans.known(document["affected_children"]),
        "leaves": _leaves(disk) if document["affected_children"] else [],
        "managers": document["managers"],
        "declaration": DeclarationForm(
            sent,
            needs_offline=needs_offline([disk]),
            needs_unmanaged=bool(document["managers"]),
        ),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(document["fingerprint"]),
    }


def _leaves(disk: Disk) -> list[Disk]:
    """The disks that machines use, at the ends of the chains that this one carries."""
    above = chains.descendants(disk)
    return [one for one in above if not one.child_count][:LEAVES_OFFERED]
