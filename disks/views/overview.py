"""The first page: what is broken and by what, or that nothing is; then what needs a look."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_GET

from disks.engine.units import size_text
from disks.models import StorageRoot
from disks.services import causes, pile_catalog, trash_index
from disks.services import overview as service
from disks.services.overview import BrokenGroup, Totals
from disks.views import pile
from disks.views.rendering import render_page, wants_fragment

GROUPS_SHOWN = 12
JOBS_SHOWN = 6
PILES_SHOWN = 4
_COLOURS = {
    "damaged": "red",
    "unreadable": "red",
    "missing": "red",
    "suspect": "yellow",
    "notice": "yellow",
}
_ICONS = {
    "damaged": "file-broken",
    "unreadable": "circle-x",
    "missing": "file-x",
    "suspect": "alert-triangle",
    "in-use": "lock",
}
_REPAIRABLE = ("missing", "outside", "replaced", "rewritten", "ambiguous", "unreadable")


@require_GET
def overview(request: HttpRequest) -> HttpResponse:
    """The part that renews itself is the list of jobs; nothing else is asked for it."""
    context = _jobs()
    if not wants_fragment(request):
        known = service.totals()
        trash = trash_index.given_back_bytes()
        context |= _verdict(known) | {
            "notices": _notices(known, trash),
            "roots": list(StorageRoot.objects.order_by("name")),
            "trash_bytes": trash,
        }
    return render_page(
        request, "disks/overview.html", context, fragment="disks/_overview_jobs.html"
    )


def _jobs() -> dict[str, Any]:
    jobs = service.recent_jobs(JOBS_SHOWN)
    return {"jobs": jobs, "jobs_active": any(job.is_active for job in jobs)}


def _verdict(known: Totals) -> dict[str, Any]:
    groups = service.broken_groups(most=GROUPS_SHOWN)
    causes, repairable = service.broken_causes()
    return {
        "totals": known,
        "broken": known.broken,
        "groups": [_group(group) for group in groups],
        "groups_left": max(0, causes - len(groups)),
        "repairable": repairable,
        "complete_sentence": service.complete_sentence(known),
    }


def _group(group: BrokenGroup) -> dict[str, Any]:
    """A cause with the button that mends it, or that leads to the disk to look at."""
    above = ""
    if group.above:
        above = (
            "1 more disk stands on it and is broken, too."
            if group.above == 1
            else f"{group.above:,} more disks stand on them and are broken, too."
        )
    repair = f"{reverse('repair')}?{urlencode({'cause': group.cause})}"
    page = reverse("disk", args=[group.example.pk])
    if group.kind not in _REPAIRABLE:
        url, label = page, "Look at it"
    elif group.count == 1 and group.found:
        relink = reverse("parent-path", args=[group.example.pk])
        url, label = f"{relink}?parent={group.found.pk}", "Update parent path…"
    elif group.count == 1:
        url, label = page, "See where we looked"
    elif group.found:
        url, label = repair, f"Repair all {group.count:,}…"
    else:
        url, label = repair, "Repair plan…"
    return {
        "sentence": causes.sentence(group.cause, group.count),
        "path": group.named_path if group.sentence.endswith(group.named_path) else "",
        "example": group.example if group.count == 1 else None,
        "found": group.found,
        "above": above,
        "icon": "unlink",
        "url": url,
        "action": label,
        "primary": group.found is not None,
    }


def _most_urgent(counts: Totals) -> str:
    """What cannot wait among the disks that need a look, as the end of a sentence."""
    told = []
    waiting, merging = counts.log_waits, counts.half_merged
    if waiting:
        if waiting == counts.notices:
            whose = "its log waits" if waiting == 1 else "their logs wait"
        else:
            whose = "the log of one waits" if waiting == 1 else f"the logs of {waiting:,} wait"
        told.append(f"{whose} to be replayed, for whoever wrote last was stopped")
    if merging:
        into = "one" if counts.notices > 1 else "it"
        told.append(
            f"a merge into {into} is not finished"
            if merging == 1
            else f"merges into {merging:,} are not finished"
        )
    return f": {'; '.join(told)}" if told else ""


def _notices(counts: Totals, trash: int) -> list[dict[str, Any]]:
    """What is not broken but needs a look, worst first; each with where to go."""
    notices: list[dict[str, Any]] = []
    for number, health, one, many in (
        (counts.damaged, "damaged", "1 file is damaged.", "{} files are damaged."),
        (counts.unreadable, "unreadable", "1 file cannot be read.", "{} files cannot be read."),
        (counts.missing, "missing", "1 disk is gone.", "{} disks are gone."),
        (
            counts.suspect,
            "suspect",
            "1 disk's parent was written after the disk was first seen: its content may be "
            "damaged without a sign.",
            "{} disks' parents were written after the disks were first seen: their content may "
            "be damaged without a sign.",
        ),
        (
            counts.in_use,
            "in-use",
            "1 disk is in use and not read.",
            "{} disks are in use and not read.",
        ),
        (
            counts.notices,
            "notice",
            f"1 disk has something to look at{_most_urgent(counts)}.",
            f"{{}} disks have something to look at{_most_urgent(counts)}.",
        ),
        (
            counts.not_disks,
            "not-a-disk",
            "1 file has a disk's name, but holds no VHD or VHDX.",
            "{} files have a disk's name, but hold no VHD or VHDX.",
        ),
    ):
        if number:
            notices.append(
                {
                    "colour": _COLOURS.get(health, ""),
                    "icon": _ICONS.get(health, "info-circle"),
                    "sentence": one if number == 1 else many.format(f"{number:,}"),
                    "url": f"{reverse('disks')}?health={health}",
                    "action": "Show",
                }
            )
    for root, sentence in service.troubled_roots():
        offline = root.state in (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED)
        notices.append(
            {
                "colour": "red" if offline else "yellow",
                "icon": "cloud-off" if offline else "alert-circle",
                "sentence": sentence,
                "url": reverse("root", args=[root.pk]),
                "action": "Open",
            }
        )
    for folder, number in service.unmapped_paths():
        disks = "1 broken link names" if number == 1 else f"{number:,} broken links name"
        notices.append(
            {
                "colour": "yellow",
                "icon": "brand-windows",
                "sentence": f"{disks} a Windows folder that no storage root maps:",
                "path": folder,
                "url": reverse("roots"),
                "action": "Tell a root",
            }
        )
    notices += _piles()
    if trash:
        notices.append(
            {
                "colour": "",
                "icon": "trash",
                "sentence": "",
                "bytes": trash,
                "after": "come free when the trash is emptied.",
                "url": reverse("trash"),
                "action": "Open the trash",
            }
        )
    spare = service.spare_bytes()
    if spare:
        notices.append(
            {
                "colour": "",
                "icon": "arrows-minimize",
                "bytes": spare,
                "after": "can be won back by compacting: room that no block of the disks takes. "
                "Blocks full of zeros come on top; a disk's dry run counts them.",
                "sentence": "At least",
                "url": f"{reverse('disks')}?type=dynamic&sort=-used",
                "action": "Largest disks",
            }
        )
    return notices


def _piles() -> list[dict[str, Any]]:
    """Checkpoints that no host seems to know any more, folder by folder."""
    found, total = pile_catalog.forgotten(most=PILES_SHOWN)
    notices = []
    for one in found:
        disks = f"{one.count:,} checkpoints" if one.are_checkpoints else f"{one.count:,} disks"
        kind = "without a host" if one.are_checkpoints else "in one chain, and no host beside them"
        notices.append(
            {
                "colour": "yellow",
                "icon": "stack-2",
                "sentence": f"{disks} {kind}: {one.count:,} files, "
                f"{size_text(one.allocated_bytes)}, in {one.root.name}{':' if one.folder else '.'}",
                "path": one.folder,
                "url": pile.address(one.leaf, one.leaf),
                "action": "Merge the pile…",
            }
        )
    if total > len(found):
        notices.append(
            {
                "colour": "yellow",
                "icon": "stack-2",
                "sentence": f"{total - len(found):,} more piles of such disks.",
                "url": reverse("piles"),
                "action": "Show all",
            }
        )
    return notices
