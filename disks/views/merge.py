"""Merge: choose the levels and the target, see what will happen, then start the job."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.forms.declarations import MergeDeclarationForm, needs_offline, sealed
from disks.forms.merge import NEW, MergeForm
from disks.models import Disk, Job
from disks.operations import guards
from disks.services import chains, estimates, merging
from disks.services.access import Role, allows
from disks.services.errors import Refusal
from disks.templatetags.amounts import bytes_
from disks.views import errors, plans, ways
from disks.views.actions import action
from disks.views.drawing.from_catalog import drawn_chain, role_in_chain, sizes
from disks.views.guard import client_address
from disks.views.inspect import mend
from disks.views.rendering import render_page

FRAGMENT = "disks/_merge_plan.html"
MERGES = (Job.Kind.MERGE, Job.Kind.PILE)


@require_http_methods(["GET", "POST"])
def merge(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET shows the dry run for what the address says; POST starts the job."""
    leaf = get_object_or_404(Disk.objects.select_related("root", "parent_link"), pk=disk_id)
    chain = chains.chain_of(leaf)
    if len(chain) < 2:
        return _nothing_to_merge(request, leaf, chain)
    sent = request.POST if request.method == "POST" else request.GET
    form = MergeForm(sent, chain=chain)
    if request.method == "POST":
        return _start(request, leaf, chain, form)
    context = _context(leaf, chain, form)
    return render_page(request, "disks/merge.html", context, fragment=FRAGMENT)


def _nothing_to_merge(request: HttpRequest, leaf: Disk, chain: list[Disk]) -> HttpResponse:
    why = action(leaf, "merge", may_operate=True).reason
    way = mend(leaf, chain, may_operate=allows(request.user, Role.OPERATOR))
    return errors.problem(
        request,
        409,
        "This disk cannot be merged now",
        why or "This disk's parent is not known, so there is nothing to merge it into.",
        advice="A merge needs a differencing disk whose chain is complete.",
        links=[
            *([(way.url, way.label)] if way else []),
            (reverse("disk", args=[leaf.pk]), "Back to the disk"),
        ],
    )


def _start(request: HttpRequest, leaf: Disk, chain: list[Disk], form: MergeForm) -> HttpResponse:
    if (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    context = _context(leaf, chain, form, sent=request.POST)
    return plans.start(
        request,
        "disks/merge.html",
        FRAGMENT,
        context,
        fingerprint=context["plan"] and context["plan"]["fingerprint"],
        ask=lambda said, key: merging.request(
            leaf,
            **form.options(),
            user=request.user,
            declared_offline=said.declared,
            unrelated=said.cleaned_data["unrelated"],
            seen=said.cleaned_data["seen"],
            idempotency_key=key,
            address=client_address(request),
        ),
    )


def _context(leaf: Disk, chain: list[Disk], form: MergeForm, sent: Any = None) -> dict[str, Any]:
    context: dict[str, Any] = {
        "disk": leaf,
        "form": form,
        "chain": drawn_chain(chain, leaf),
        "levels": _levels(chain, form),
        "into": form.data.get("into"),
        "plan": None,
        "refused": None,
        "stale": False,
    }
    if not form.is_valid():
        return context
    in_place = form.in_place
    try:
        plan = merging.plan(leaf, **form.options())
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    document = plan.as_dict()
    refused = plans.as_error(document["refused"])
    merged = len(document["levels"])
    kinds = MERGES if in_place else (*MERGES, Job.Kind.COMPACT)
    guess = estimates.guess(
        document["bytes_to_copy"],
        kinds,
        paths=[*plan.exclusive, *plan.shared],
        in_place=in_place,
    )
    choice = _ways(leaf, form, document) if form.into_parent else []
    touched = [disk for disk in chain if disk.path in {row["path"] for row in document["levels"]}]
    return context | {
        "plan": document,
        "refused": refused,
        "commands_text": "\n".join(document["commands"]),
        "verb": _verb(leaf, chain, form, document),
        "merged": merged,
        "guess": guess,
        "siblings": plans.known(document["siblings"]),
        "trash": plans.known(document["trash"]),
        "grandchildren": plans.known(document["grandchildren"]),
        "unread": plans.unread(plan.unread),
        "unrelated": sealed(sorted(plan.unread)),
        "in_place": in_place,
        "ways": choice,
        "other_way": _other_way(leaf, form, choice) if refused and choice else None,
        "way_out": _way_out(leaf, form),
        "managers": guards.in_short(document["managers"]),
        "declaration": MergeDeclarationForm(
            sent,
            unread=plan.unread,
            needs_offline=form.into_parent and needs_offline(touched),
            needs_unmanaged=form.into_parent and bool(document["managers"]),
            only_reads=not form.into_parent,
        ),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(document["fingerprint"]),
    }


def _levels(chain: list[Disk], form: MergeForm) -> list[dict[str, Any]]:
    """The ancestors to choose from, base first, and which of them the choice covers."""
    base = form.data.get("base")
    position = next((i for i, disk in enumerate(chain) if str(disk.pk) == base), 0)
    return [
        {
            "disk": disk,
            "value": str(disk.pk),
            "chosen": str(disk.pk) == base,
            "covered": index >= position,
            "role": role_in_chain(disk),
            "sizes": sizes(disk),
            "below": len(chain) - 1 - index,
        }
        for index, disk in enumerate(chain)
    ]


def _verb(leaf: Disk, chain: list[Disk], form: MergeForm, document: dict[str, Any]) -> str:
    """What the button says: "Merge 3 disks into base.vhd"."""
    count = len(document["levels"])
    if form.into_parent:
        base = form.ancestors[form.cleaned_data["base"]].name
        what = leaf.name if count <= 2 else f"{count - 1} disks"
        return f"Merge {what} into {base}"
    return f"Merge {count} disks into {form.cleaned_data['name']}"


def _ways(leaf: Disk, form: MergeForm, document: dict[str, Any]) -> list[ways.Way]:
    copy_bytes = document.get("by_copy_bytes", document["free_space_needed_bytes"])
    query = {key: form.cleaned_data[key] for key in ("into", "base", "keep_name")}
    return ways.both(
        reverse("merge", args=[leaf.pk]),
        query,
        in_place=form.in_place,
        needs=needs_to_merge(copy_bytes),
    )


def needs_to_merge(copy_bytes: int) -> tuple[str, str]:
    """What the two ways to merge ask for. copy_bytes: room for the copies, 0: not known."""
    room = bytes_(copy_bytes) if copy_bytes else "the room for a second file"
    return (
        "Moves only the child's data: needs almost no room, and can be stopped and resumed. It "
        "cannot be undone once data moves.",
        format_html(
            "Writes a new file that takes the place: needs {} until the trash is emptied, and can "
            "be undone until then.",
            room,
        ),
    )


def _other_way(leaf: Disk, form: MergeForm, choice: list[ways.Way]) -> ways.Way | None:
    other = form.options() | {"in_place": not form.in_place}
    return ways.way_out(choice, lambda: merging.plan(leaf, **other).refused)


def _way_out(leaf: Disk, form: MergeForm) -> str:
    """The same levels into a new disk: nothing that exists is touched."""
    query = urlencode({"into": NEW, "base": form.cleaned_data["base"]})
    return f"{reverse('merge', args=[leaf.pk])}?{query}"
