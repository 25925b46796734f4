"""Update parent path: choose, see the plan, apply; and take the last update back."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm, needs_offline, sealed
from disks.forms.parents import ChooseParentForm, ConfirmNameForm
from disks.models import Disk, Job, ParentLink
from disks.services import chains, parent_candidates, parent_paths
from disks.services.access import Role, allows
from disks.services.errors import Refusal
from disks.templatetags.field_words import SOURCES
from disks.templatetags.names import plain_text
from disks.views import plans
from disks.views.drawing.from_catalog import drawn_chain
from disks.views.guard import client_address
from disks.views.inspect import parent_link
from disks.views.rendering import render_page

PAGE, FRAGMENT = "disks/parent_path.html", "disks/_parent_plan.html"
UPDATED = "The parent path is updated."
UNDONE = "The last update of the parent path is undone."
MISMATCH = "E_PARENT_IDENTITY"


@require_GET
def parent_path(request: HttpRequest, disk_id: int) -> HttpResponse:
    """What the child says today, the candidates, and the plan for the one that is chosen."""
    child = _child(disk_id)
    context = _context(request, child, request.GET)
    return render_page(request, PAGE, context, fragment=FRAGMENT)


@require_POST
def apply(request: HttpRequest, disk_id: int) -> HttpResponse:
    """Write the link, if everything still is as the page showed it."""
    child = _child(disk_id)
    if (earlier := plans.earlier_job(request)) is not None:
        return _finished(request, child, earlier, UPDATED)
    context = _context(request, child, request.POST, sent=request.POST)
    declaration: DeclarationForm | None = context["declaration"]
    confirmation: ConfirmNameForm | None = context["confirmation"]
    if context["plan"] is None or declaration is None:
        return render_page(request, PAGE, context, fragment=FRAGMENT, status=422)
    sound = declaration.is_valid()
    if confirmation is not None:
        sound = confirmation.is_valid() and sound
    if not sound:
        return render_page(request, PAGE, context, fragment=FRAGMENT, status=422)
    if declaration.cleaned_data["seen"] != context["plan"]["fingerprint"]:
        context |= {"stale": True, "key": plans.new_key()}
        return render_page(request, PAGE, context, fragment=FRAGMENT, status=409)
    form: ChooseParentForm = context["form"]
    try:
        job = parent_paths.request_update(
            child,
            form.cleaned_data["target"],
            windows_path=form.cleaned_data["windows_path"],
            ignore_identity=form.cleaned_data["ignore_identity"],
            fingerprint=context["plan"]["fingerprint"],
            declared_offline=declaration.declared,
            user=request.user,
            idempotency_key=plans.form_key(request),
            address=client_address(request),
        )
    except (ImageError, Refusal) as error:
        context |= {"refused": plans.as_error(error), "key": plans.new_key()}
        return render_page(request, PAGE, context, fragment=FRAGMENT, status=409)
    return _finished(request, child, job, UPDATED)


@require_POST
def trust(request: HttpRequest, disk_id: int) -> HttpResponse:
    """Somebody has looked: the parent that was written is right for this child all the same."""
    child = _child(disk_id)
    link = parent_link(child)
    if link is not None and link.parent_written_after:
        parent_paths.trust_parent(child, user=request.user, address=client_address(request))
        messages.success(request, "The parent counts as right, as it is now.")
    return HttpResponseRedirect(f"{reverse('disk', args=[child.pk])}?tab=parent")


@require_http_methods(["GET", "POST"])
def undo(request: HttpRequest, disk_id: int) -> HttpResponse:
    """The link as it was before the last update: the plan, then the way back."""
    child = _child(disk_id)
    sent = request.POST if request.method == "POST" else None
    if sent is not None and (earlier := plans.earlier_job(request)) is not None:
        return _finished(request, child, earlier, UNDONE)
    context = _undo_context(child, sent)
    page = "disks/parent_undo.html"
    if sent is None:
        return render_page(request, page, context)
    declaration: DeclarationForm | None = context["declaration"]
    if declaration is None or not declaration.is_valid():
        return render_page(request, page, context, status=422)
    if declaration.cleaned_data["seen"] != context["plan"]["fingerprint"]:
        context |= {"stale": True, "key": plans.new_key()}
        return render_page(request, page, context, status=409)
    try:
        job = parent_paths.request_undo(
            child,
            fingerprint=declaration.cleaned_data["seen"],
            declared_offline=declaration.declared,
            user=request.user,
            idempotency_key=plans.form_key(request),
            address=client_address(request),
        )
    except (ImageError, Refusal) as error:
        context |= {"refused": plans.as_error(error), "key": plans.new_key()}
        return render_page(request, page, context, status=409)
    return _finished(request, child, job, UNDONE)


def _child(disk_id: int) -> Disk:
    return get_object_or_404(Disk.objects.select_related("root", "parent_link"), pk=disk_id)


def _finished(request: HttpRequest, child: Disk, job: Job, done: str) -> HttpResponse:
    """To the disk, whose chain is drawn anew; to the job where it waits or went wrong."""
    job.refresh_from_db()
    if job.status != Job.Status.SUCCEEDED:
        return HttpResponseRedirect(reverse("job", args=[job.pk]))
    messages.success(request, done)
    page = reverse("disk", args=[child.pk])
    return HttpResponseRedirect(f"{page}?tab=parent&updated={job.pk}")


def _context(request: HttpRequest, child: Disk, query: Any, sent: Any = None) -> dict[str, Any]:
    form = ChooseParentForm(query)
    form.is_valid()
    link = parent_link(child)
    context: dict[str, Any] = {
        "disk": child,
        "link": link,
        "locators": _locators(link),
        "chain": drawn_chain(chains.chain_of(child), child),
        "form": form,
        "typed": query.get("path", ""),
        "chosen": query.get("parent", ""),
        "candidates": [],
        "plan": None,
        "refused": None,
        "stale": False,
        "declaration": None,
        "confirmation": None,
    }
    try:
        context["candidates"] = _candidates(child, context["chosen"])
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    target = form.target
    only = _only_match(link, context["candidates"])
    if target is None and not form.errors and "parent" not in query and only is not None:
        # The button that mends leads here without a choice: there is but one.
        form = context["form"] = ChooseParentForm({"parent": str(only)})
        form.is_valid()
        context["chosen"] = str(only)
        target = form.target
    if target is None:
        return context
    return context | _plan(request, child, form, target, sent)


def _plan(
    request: HttpRequest, child: Disk, form: ChooseParentForm, target: str, sent: Any
) -> dict[str, Any]:
    """The plan for a target, or its refusal; a mismatch may be overruled by administrators."""
    overrule = form.cleaned_data["ignore_identity"] and allows(request.user, Role.ADMINISTRATOR)
    may_overrule = False
    try:
        plan = parent_paths.plan(
            child,
            target,
            windows_path=form.cleaned_data["windows_path"],
            ignore_identity=overrule,
        )
    except (ImageError, Refusal) as error:
        may_overrule = error.code == MISMATCH and allows(request.user, Role.ADMINISTRATOR)
        found = plans.known([target])[0]
        return {
            "refused": plans.as_error(error),
            "target": found,
            "same_chain": _is_of_chain(child, found["disk"]),
            "may_overrule": may_overrule,
            "mismatch": error.code == MISMATCH,
        }
    document = plan.as_dict()
    manager = document["managed_by"]
    return {
        "plan": document,
        "target": plans.known([target])[0],
        "overruled": overrule,
        "managers": [manager] if manager else [],
        "readable_again": len(chains.descendants(child)) + 1,
        "declaration": DeclarationForm(
            sent, needs_offline=needs_offline([child]), needs_unmanaged=manager is not None
        ),
        "confirmation": ConfirmNameForm(sent, expected=plain_text(child.name))
        if overrule
        else None,
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(document["fingerprint"]),
    }


def _is_of_chain(child: Disk, other: Disk | None) -> bool:
    """Whether two disks share the id that all disks of one chain have in common."""
    if other is None or not child.virtual_disk_id:
        return False
    return bool(other.virtual_disk_id == child.virtual_disk_id)


def _undo_context(child: Disk, sent: Any) -> dict[str, Any]:
    context: dict[str, Any] = {
        "disk": child,
        "plan": None,
        "refused": None,
        "stale": False,
        "declaration": None,
    }
    try:
        plan = parent_paths.plan_undo(child)
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    document = plan.as_dict()
    manager = document["managed_by"]
    return context | {
        "plan": document,
        "managers": [manager] if manager else [],
        "declaration": DeclarationForm(
            sent, needs_offline=needs_offline([child]), needs_unmanaged=manager is not None
        ),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(document["fingerprint"]),
    }


def _only_match(link: ParentLink | None, candidates: list[dict[str, Any]]) -> int | None:
    """The one candidate with the parent's identity, while the link leads nowhere."""
    if link is None or link.status == ParentLink.Status.FOUND:
        return None
    matches = [one["disk"].pk for one in candidates if one["match"]]
    return matches[0] if len(matches) == 1 else None


def _locators(link: Any) -> list[dict[str, Any]]:
    if link is None:
        return []
    return [
        {**row, "source_words": SOURCES.get(row.get("code", ""), "Unknown kind")}
        for row in link.locators
    ]


def _candidates(child: Disk, chosen: str) -> list[dict[str, Any]]:
    """The ranked candidates with their rows, best first."""
    found = parent_candidates.candidates_for(child)
    rows = plans.known([one.path for one in found])
    return [
        {
            **row,
            "candidate": one,
            "match": one.verdict == "match",
            "same_chain": _is_of_chain(child, row["disk"]),
        }
        for row, one in zip(rows, found, strict=True)
        if row["disk"] is not None
    ]
