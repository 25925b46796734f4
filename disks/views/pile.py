"""Checkpoint piles: where some lie, what merging a folder's piles comes to, then the job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_GET, require_POST

from disks.engine.errors import ImageError
from disks.forms.declarations import MergeDeclarationForm, needs_offline, sealed
from disks.forms.new_file import checked_folder
from disks.models import Disk, Job, StorageRoot
from disks.operations import guards
from disks.operations.pile import Pile
from disks.services import estimates, pile_catalog
from disks.services import piles as service
from disks.services.errors import Refusal
from disks.services.piles import FolderPlan
from disks.views import listing, plans, ways
from disks.views.drawing.from_catalog import drawn_chain
from disks.views.guard import client_address
from disks.views.merge import MERGES, needs_to_merge
from disks.views.rendering import encoded, render_page

PAGE, FRAGMENT = "disks/pile.html", "disks/_pile_plan.html"
NAMES = {"parent": "the lowest disk's name", "child": "the leaf's name"}
ROWS_SHOWN = 50  # of each list that is only for information


@dataclass(frozen=True)
class Place:
    """What an address asks about: a folder of a root, all of its piles or the one of a leaf.

    at: a disk whose folder is meant; so that names that no address can hold work, too
    """

    root: StorageRoot
    folder: str
    at: Disk | None
    leaf: Disk | None
    keep_name: str
    in_place: bool = True

    @property
    def query(self) -> dict[str, Any]:
        place: dict[str, Any] = {"root": self.root.pk, "folder": self.folder}
        if self.at is not None:
            place = {"at": self.at.pk}
        chosen = {} if self.leaf is None else {"leaf": self.leaf.pk}
        return place | chosen

    def options(self) -> dict[str, Any]:
        """Keywords of services.piles.plan and request."""
        leaf = "" if self.leaf is None else self.leaf.path
        return {"leaf": leaf, "keep_name": self.keep_name, "in_place": self.in_place}


def address(at: Disk, leaf: Disk | None = None) -> str:
    """The page of the folder that a disk lies in, for one pile or all."""
    chosen = {} if leaf is None else {"leaf": leaf.pk}
    return f"{reverse('pile')}?{urlencode({'at': at.pk} | chosen)}"


@require_GET
def piles(request: HttpRequest) -> HttpResponse:
    """The piles that the catalog sees, and the way to any folder."""
    found, total = pile_catalog.forgotten(most=ROWS_SHOWN)
    rows = [{"pile": one, "url": address(one.leaf, one.leaf)} for one in found]
    context = {
        "rows": rows,
        "more": total - len(found),
        "roots": list(StorageRoot.objects.order_by("name")),
    }
    return render_page(request, "disks/piles.html", context)


@require_GET
def of_disk(request: HttpRequest, disk_id: int) -> HttpResponse:
    """From a disk to the pile that it is part of."""
    disk = get_object_or_404(Disk.objects.select_related("root"), pk=disk_id)
    found, disks = pile_catalog.survey(disk.root, disk.relative_path.rpartition("/")[0])
    leaf = next((disks[run.leaf] for run in found.forest.runs if disk.path in run.paths), None)
    return HttpResponseRedirect(address(disk, leaf))


@require_GET
def pile(request: HttpRequest) -> HttpResponse:
    """The dry run of a folder's piles."""
    place = _place(request.GET)
    if place is None:
        return HttpResponseRedirect(reverse("piles"))
    return render_page(request, PAGE, _context(place), fragment=FRAGMENT)


@require_POST
def start(request: HttpRequest) -> HttpResponse:
    """One job for all piles of the plan that was shown."""
    if (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    place = _place(request.POST)
    if place is None:
        raise Http404
    context = _context(place, sent=request.POST)
    return plans.start(
        request,
        PAGE,
        FRAGMENT,
        context,
        fingerprint=context.get("fingerprint"),
        ask=lambda said, key: service.request(
            place.root,
            place.folder,
            **place.options(),
            user=request.user,
            declared_offline=said.declared,
            unrelated=said.cleaned_data["unrelated"],
            seen=said.cleaned_data["seen"],
            idempotency_key=key,
            address=client_address(request),
        ),
    )


@require_GET
def script(request: HttpRequest) -> HttpResponse:
    """The same merges as a PowerShell file."""
    place = _place(request.GET)
    if place is None:
        raise Http404
    try:
        text = service.script(service.plan(place.root, place.folder, **place.options()))
    except ImageError as error:
        raise Http404 from error
    # Windows PowerShell ends lines as Windows does; names hold no line ends in a script.
    body = encoded(text.replace("\n", "\r\n"))
    response = HttpResponse(body, content_type="application/octet-stream")
    response["Content-Disposition"] = 'attachment; filename="merge-pile.ps1"'
    return response


# ---------------------------------------------------------------------- what was asked for


def _place(sent: QueryDict) -> Place | None:
    """None where the address names no folder. Raises Http404, BadAddress."""
    disks = Disk.objects.select_related("root")
    at = None
    if number := listing.number(sent, "at"):
        at = get_object_or_404(disks, pk=number)
        root, folder = at.root, at.relative_path.rpartition("/")[0]
    elif number := listing.number(sent, "root"):
        root = get_object_or_404(StorageRoot, pk=number)
        try:
            folder = checked_folder(sent.get("folder", ""))
        except ValidationError as error:
            raise listing.BadAddress("“folder” is no folder of a storage root.") from error
    else:
        return None
    leaf = None
    if number := listing.number(sent, "leaf"):
        leaf = get_object_or_404(disks, pk=number)
    keep_name = listing.chosen(sent, "keep_name", NAMES) or "parent"
    return Place(root, folder, at, leaf, keep_name, ways.is_in_place(sent))


def _context(place: Place, sent: Any = None) -> dict[str, Any]:
    context: dict[str, Any] = {
        "place": place,
        "query": urlencode(place.query),
        "whole_folder": urlencode({key: place.query[key] for key in place.query if key != "leaf"}),
        "names": NAMES,
        "plan": None,
        "refused": None,
        "stale": False,
    }
    try:
        planned = service.plan(place.root, place.folder, **place.options())
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    document = planned.plan.as_dict()
    found = planned.plan.piles  # what will be merged; the page tells of all
    managed = [row for one in found for row in one.merge.managers]
    merged = [planned.disks[path] for one in found for path in one.run.paths]
    text, no_script = _script(planned)
    choice = _ways(place, found)
    return context | {
        "plan": document,
        "refused": plans.as_error(planned.plan.refused),
        "piles": [
            _pile(place, planned, one, number) for number, one in enumerate(planned.piles, 1)
        ],
        "ready": [] if planned.plan.refused else [one.output for one in found],
        "others": [planned.disks[run.leaf] for run in planned.others],
        "verb": _verb(planned),
        "merged": len(merged),
        "moved": len(merged) - len(found),
        "way": ways.IN_PLACE if place.in_place else ways.COPY,
        "guess": estimates.guess(
            document["bytes_to_copy"],
            MERGES if place.in_place else (*MERGES, Job.Kind.COMPACT),
            paths=[one.output for one in planned.piles],
            in_place=place.in_place,
        ),
        "ways": choice,
        "other_way": _other_way(place, choice) if document["refused"] else None,
        "free_bytes": min((one.merge.free_space_bytes for one in found), default=0),
        "branches": [_branch(planned, row) for row in document["branches"][:ROWS_SHOWN]],
        "apart": _apart(planned, document),
        "script": text,
        "no_script": plans.as_error(no_script),
        "managers": guards.in_short(managed),
        "unread": plans.unread(planned.plan.unread),
        "unrelated": sealed(sorted(planned.plan.unread)),
        "declaration": MergeDeclarationForm(
            sent,
            unread=planned.plan.unread,
            needs_offline=needs_offline(merged),
            needs_unmanaged=bool(managed),
        ),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "fingerprint": planned.fingerprint,
        "seen": sealed(planned.fingerprint),
    }


def _ways(place: Place, found: list[Pile]) -> list[ways.Way]:
    merges = [one.merge for one in found]
    copies_bytes = sum(one.predicted_size_bytes for one in merges)
    query = place.query | {"keep_name": place.keep_name}
    needs = needs_to_merge(copies_bytes)
    return ways.both(reverse("pile"), query, in_place=place.in_place, needs=needs)


def _other_way(place: Place, choice: list[ways.Way]) -> ways.Way | None:
    other = place.options() | {"in_place": not place.in_place}
    return ways.way_out(
        choice, lambda: service.plan(place.root, place.folder, **other).plan.refused
    )


def _pile(place: Place, planned: FolderPlan, one: Pile, number: int) -> dict[str, Any]:
    """One pile for its card: the drawing, the order, the figures."""
    rows = [planned.disks[path] for path in one.run.paths]
    checkpoints = sum(disk.is_differencing for disk in one.disks)
    lowest = rows[-1]
    return {
        "number": number,
        "chain": drawn_chain(rows[::-1], rows[0], identifier=f"pile-{number}"),
        "steps": [
            {"disk": disk, "into": into, "outside": not member.inside}
            for disk, into, member in zip(rows, rows[1:], one.disks, strict=False)
        ],
        "lowest": lowest,
        "checkpoints": checkpoints,
        "allocated_bytes": sum(disk.allocated_bytes for disk in rows[:-1]),
        "plan": one.merge.as_dict(),
        "output": one.output,
        "is_ready": one.refused is None,
        "pairwise_bytes": one.pairwise_bytes,
        "above": plans.known(list(one.run.above)),
        "warnings": one.warnings,
        "refused": plans.as_error(one.refused),
        "lost": lowest if one.disks[-1].lost is not None else None,
        "alone_url": f"{reverse('pile')}?{urlencode(place.query | {'leaf': rows[0].pk})}",
    }


def _verb(planned: FolderPlan) -> str:
    """What the button says: "Merge 30 disks into base.vhd"."""
    found = planned.plan.piles
    if len(found) != 1:
        of = f" of {len(planned.piles):,}" if len(planned.piles) > len(found) else ""
        return f"Merge {len(found):,}{of} piles, one after the other"
    run = found[0].run
    above = len(run.paths) - 1
    what = planned.disks[run.leaf].name if above == 1 else f"{above:,} disks"
    return f"Merge {what} into {planned.disks[run.base].name}"


def _branch(planned: FolderPlan, row: dict[str, Any]) -> dict[str, Any]:
    leaves = [planned.disks[leaf["path"]] for leaf in row["leaves"][:ROWS_SHOWN]]
    return row | {
        "parent_disk": planned.disks[row["parent"]],
        "count": len(row["children"]),
        "leaf_rows": [
            {
                "disk": leaf,
                "newest": leaf.path == row["newest"],
                "to_new": f"{reverse('merge', args=[leaf.pk])}?into=new",
            }
            for leaf in leaves
        ],
        "more": max(0, len(row["leaves"]) - ROWS_SHOWN),
    }


def _apart(planned: FolderPlan, document: dict[str, Any]) -> list[dict[str, Any]]:
    """What belongs to no pile: a title, what to do, and the files, each with its reason."""
    told = [
        (
            "Orphans: the parent is missing",
            "Mend their parent paths first; then they can be merged.",
            [(row["path"], row["reason"]) for row in document["orphans"]],
        ),
        (
            "Circles: disks that lead to each other",
            "Give one of them its real parent.",
            [(path, "Part of a circle of parents.") for one in document["rings"] for path in one],
        ),
        (
            "Needed from outside of the folder",
            "Disks elsewhere build on these. They stay readable: they get the new parent path.",
            [(row["path"], ", ".join(row["children"])) for row in document["needed_outside"]],
        ),
        (
            "Strangers: they belong to no chain",
            "They are left alone.",
            [(row["path"], row["reason"]) for row in document["strangers"]],
        ),
        (
            "Not read",
            "Nobody knows what these depend on.",
            [(row["file"], row["message"]) for row in document["unread"]],
        ),
    ]
    return [
        {
            "title": title,
            "advice": advice,
            "repair": title.startswith("Orphans"),
            "rows": [
                {"path": path, "disk": planned.disks.get(path), "reason": reason}
                for path, reason in rows[:ROWS_SHOWN]
            ],
            "more": max(0, len(rows) - ROWS_SHOWN),
        }
        for title, advice, rows in told
        if rows
    ]


def _script(planned: FolderPlan) -> tuple[str, ImageError | None]:
    """The script's text without the mark that only a file needs; or why there is none."""
    try:
        return service.script(planned).removeprefix("\ufeff"), None
    except ImageError as error:
        return "", error
