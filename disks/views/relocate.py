"""Copy, move and delete: where to, what will change, link by link, then the job."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.forms.declarations import needs_offline, sealed
from disks.forms.relocate import CopyForm, MoveForm, RelocateDeclarationForm
from disks.models import Disk, Job
from disks.operations.relocation_plan import RelocationPlan
from disks.services import chains, declarations, estimates, relocating
from disks.services.errors import Refusal
from disks.services.stored_json import readable
from disks.views import plans
from disks.views.drawing.from_catalog import drawn_chain
from disks.views.guard import client_address
from disks.views.rendering import render_page

BY_COPY = (Job.Kind.COPY, Job.Kind.CONVERT, Job.Kind.MERGE, Job.Kind.COMPACT)


@require_http_methods(["GET", "POST"])
def copy(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET shows the form and, once it names another folder, the dry run; POST starts the job."""
    disk = _disk(disk_id)
    form = CopyForm(request.POST or request.GET, disk=disk)
    chain = chains.chain_of(disk)

    def plan() -> RelocationPlan | None:
        if not form.is_valid() or form.options()["folder"] == os.path.dirname(disk.path):
            return None
        return relocating.plan_copy(disk, **form.options())

    context = _context(request, disk, plan) | {"form": form, "has_parent": len(chain) > 1}
    if len(chain) > 1:
        context["chain"] = drawn_chain(chain, disk)
    if context["plan"]:
        count = len(context["plan"]["files"])
        context["verb"] = f"Copy {count:,} disks" if count > 1 else f"Copy {readable(disk.name)}"
        context["guess"] = _guess(context)
    return _answer(request, disk, "copy", context)


@require_http_methods(["GET", "POST"])
def move(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET shows the form and, once it names another place, the dry run; POST starts the job."""
    disk = _disk(disk_id)
    children = declarations.catalog_children(disk.path)
    form = MoveForm(request.POST or request.GET, disk=disk, children=children)

    def plan() -> RelocationPlan | None:
        if not form.is_valid() or form.options()["target"] == disk.path:
            return None
        return relocating.plan_move(disk, **form.options())

    context = _context(request, disk, plan) | {"form": form, "verb": f"Move {readable(disk.name)}"}
    given_up = form.data["breaks"]
    context["children"] = [
        row | {"value": readable(row["path"]), "given_up": row["path"] in given_up}
        for row in plans.known(children)
    ]
    if context["plan"] and context["plan"]["across_file_systems"]:
        context["guess"] = _guess(context)
    return _answer(request, disk, "move", context)


@require_http_methods(["GET", "POST"])
def delete(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET shows what depends on the disk; POST puts it into the trash."""
    disk = _disk(disk_id)
    children = declarations.catalog_children(disk.path)  # given up by who types the disk's name
    context = _context(request, disk, lambda: relocating.plan_delete(disk, breaks=children))
    if context["plan"]:
        context |= {
            "children": plans.known(context["plan"]["affected_children"]),
            "descendants": plans.known(context["plan"]["descendants"]),
        }
    return _answer(request, disk, "delete", context | {"verb": f"Delete {readable(disk.name)}"})


def _disk(disk_id: int) -> Disk:
    return get_object_or_404(Disk.objects.select_related("root", "parent_link"), pk=disk_id)


def _context(
    request: HttpRequest, disk: Disk, plan: Callable[[], RelocationPlan | None]
) -> dict[str, Any]:
    """What the three pages have in common; planned: the plan itself, plan: its document."""
    sent = request.POST if request.method == "POST" else None
    context: dict[str, Any] = {
        "disk": disk,
        "planned": None,
        "plan": None,
        "refused": None,
        "stale": False,
        "guess": None,
    }
    try:
        planned = plan()
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    if planned is None:
        return context
    document = planned.as_dict()
    only_reads = not (planned.trash or planned.exclusive[:1] == [disk.path])
    return context | {
        "planned": planned,
        "plan": document,
        "refused": plans.as_error(document["refused"]),
        "managers": document["managers"],
        "commands_text": "\n".join(document["commands"]),
        "declaration": RelocateDeclarationForm(
            sent,
            needs_offline=not only_reads and _needs_offline(disk, planned),
            needs_unmanaged=bool(document["managers"]),
            only_reads=only_reads,
            needs_relink=bool(document["links"]) and not only_reads,
            expected=disk.name if document["breaks"] else "",
        ),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(relocating.seen_of(planned)),
    }


def _guess(context: dict[str, Any]) -> estimates.Guess:
    planned: RelocationPlan = context["planned"]
    paths = [*planned.exclusive, *planned.shared]
    return estimates.guess(context["plan"]["bytes_written"], BY_COPY, paths=paths)


def _needs_offline(disk: Disk, planned: RelocationPlan) -> bool:
    """Of the disk's root, and of every other that the job writes in."""
    others = [row["disk"] for row in plans.known(planned.exclusive) if row["disk"]]
    return needs_offline([disk, *others])


def _answer(request: HttpRequest, disk: Disk, name: str, context: dict[str, Any]) -> HttpResponse:
    page, fragment = f"disks/{name}.html", f"disks/_{name}_plan.html"
    if request.method == "GET":
        return render_page(request, page, context, fragment=fragment)
    if (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    planned = context["planned"]
    return plans.start(
        request,
        page,
        fragment,
        context,
        fingerprint=relocating.seen_of(planned) if planned else None,
        ask=lambda said, key: relocating.request(
            disk,
            planned,
            user=request.user,
            declared_offline=said.declared,
            seen=said.cleaned_data["seen"],
            idempotency_key=key,
            address=client_address(request),
        ),
    )
