"""Create a disk: dynamic, fixed, or a differencing child of another one."""

from __future__ import annotations

import os
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.engine.formats import by_name
from disks.forms.create import USUAL_FORMAT, CreateForm
from disks.forms.declarations import DeclarationForm, sealed
from disks.forms.new_file import format_of, named_as
from disks.models import Disk, StorageRoot
from disks.services import creating
from disks.services.errors import Refusal
from disks.views import listing, plans
from disks.views.guard import client_address
from disks.views.rendering import render_page

FRAGMENT = "disks/_create_plan.html"
PARENTS_OFFERED = 200


@require_http_methods(["GET", "POST"])
def create(request: HttpRequest) -> HttpResponse:
    """GET shows the form and, when it is filled in, the dry run; POST starts the job."""
    if request.method == "POST":
        return _start(request)
    filled = request.GET if "show" in request.GET else None
    context = _context(request, CreateForm(filled, initial=_initial(request)))
    return render_page(request, "disks/create.html", context, fragment=FRAGMENT)


def _start(request: HttpRequest) -> HttpResponse:
    if (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    context = _context(request, CreateForm(request.POST), sent=request.POST)
    return plans.start(
        request,
        "disks/create.html",
        FRAGMENT,
        context,
        fingerprint=context.get("plan_seen"),
        ask=lambda said, key: creating.request(
            **context["form"].options(),
            user=request.user,
            idempotency_key=key,
            address=client_address(request),
        ),
    )


def _initial(request: HttpRequest) -> dict[str, Any]:
    """What a person most likely wants: a child in its parent's folder, else 40 GB, dynamic."""
    values: dict[str, Any] = {
        "disk_type": "dynamic",
        "format": USUAL_FORMAT,
        "size": 40,
        "unit": "GB",
    }
    try:
        parent = Disk.objects.filter(pk=listing.number(request.GET, "parent")).first()
    except listing.BadAddress:
        parent = None
    typed = {key: request.GET[key] for key in CreateForm.base_fields if key in request.GET}
    if typed.get("disk_type"):  # the kind or format was changed: what was typed stays
        values |= typed
        if format_of(values.get("name", "")) is not None:
            values["name"] = named_as(values["name"], CreateForm(initial=values).chosen_format)
        return values
    if parent is not None:
        stem, extension = os.path.splitext(parent.name)
        form = by_name(parent.format) if parent.format else by_name(USUAL_FORMAT)
        values |= {
            "disk_type": "differencing",
            "parent": parent.pk,
            "root": parent.root_id,
            "folder": os.path.dirname(parent.relative_path),
            "name": named_as(f"{stem}-child{extension}", form),
        }
    return values


def _context(request: HttpRequest, form: CreateForm, sent: Any = None) -> dict[str, Any]:
    chosen = form["parent"].value()
    context: dict[str, Any] = {
        "form": form,
        "kind": form["disk_type"].value(),
        "format": form.chosen_format.name,
        "parents": _parents(chosen),
        "chosen_parent": str(chosen or ""),
        "has_roots": StorageRoot.objects.filter(
            read_only=False, state=StorageRoot.State.ONLINE
        ).exists(),
        "plan": None,
        "refused": None,
        "stale": False,
    }
    if not form.is_bound or not form.is_valid():
        return context
    try:
        plan = creating.plan(**form.options())
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    document = plan.as_dict()
    return context | {
        "plan": document,
        "plan_seen": plan.fingerprint,
        "refused": plans.as_error(document["refused"]),
        "verb": f"Create {form.file_name}",
        "declaration": DeclarationForm(sent, needs_offline=False),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(plan.fingerprint),
    }


def _parents(chosen: Any) -> list[Disk]:
    """Disks that can have children, the chosen one first; the rest is found by searching."""
    rows = (
        Disk.objects.filter(
            health__in=[Disk.Health.HEALTHY, Disk.Health.NOTICE, Disk.Health.SUSPECT]
        )
        .exclude(disk_type="")
        .select_related("root")
        .defer("findings")
        .order_by("name", "pk")
    )
    found = list(rows[:PARENTS_OFFERED])
    text = str(chosen or "")
    if text.isdigit() and not any(str(disk.pk) == text for disk in found):
        found = [*rows.filter(pk=int(text)), *found]
    return found
