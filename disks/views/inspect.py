"""One disk: the verdict, the reason, the button that mends it, then everything on demand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_GET

from disks.engine import codes
from disks.engine.errors import ImageError
from disks.models import Disk, LinkUndo, ParentLink
from disks.services import (
    blockmap,
    chains,
    file_facts,
    inspection,
    raw_link,
    reading,
    trash_index,
    windows_names,
)
from disks.services.access import Role, allows
from disks.services.errors import Refusal
from disks.services.mending import MENDINGS
from disks.templatetags.field_words import SOURCES
from disks.views import listing
from disks.views.actions import action, actions_for
from disks.views.drawing.blockmap import describe, draw_block_map
from disks.views.drawing.from_catalog import drawn_chain, role_in_chain
from disks.views.hexview import hex_views
from disks.views.rendering import render_page

RAW_SHOWN = 1_024  # bytes of a locator

TABS = {
    "parent": "Parent link",
    "children": "Children",
    "findings": "Findings",
    "layout": "Layout",
    "history": "History",
    "raw": "Raw",
}


@dataclass(frozen=True, slots=True)
class Mend:
    """The one button beside the sentence."""

    label: str
    url: str
    icon: str


@require_GET
def disk(request: HttpRequest, disk_id: int) -> HttpResponse:
    """The page of a disk, whatever state its file is in."""
    found = get_object_or_404(Disk.objects.select_related("root", "parent_link"), pk=disk_id)
    tab = listing.chosen(request.GET, "tab", TABS) or _first_tab(found)
    context = _context(request, found, tab)
    return render_page(request, "disks/inspect.html", context, fragment="disks/_inspect_tab.html")


def _first_tab(found: Disk) -> str:
    """Where the reason for the verdict is told."""
    if found.disk_type == "differencing":
        return "parent"
    if found.findings:
        return "findings"
    return "children" if found.child_count else "findings"


def _context(request: HttpRequest, found: Disk, tab: str) -> dict[str, Any]:
    may_operate = allows(request.user, Role.OPERATOR)
    chain = chains.chain_of(found)
    context: dict[str, Any] = {
        "disk": found,
        "link": parent_link(found),
        "role_words": role_in_chain(found),
        "found_at": _found_at(found),
        "parent_in_trash": _parent_in_trash(found),
        "mend": mend(found, chain, may_operate=may_operate),
        "actions": actions_for(found, may_operate=may_operate),
        "chain": drawn_chain(chain, found),
        "properties": properties(found),
        "blocks": _blocks(found),
        "tab": tab,
        "tabs": _tabs(found, tab),
        "findings": findings(found),
        "qemu_misreads": found.format == "vhd" and found.disk_type == "differencing",
    }
    context |= {
        "parent": _parent_tab,
        "children": _children_tab,
        "findings": lambda _found, _request: {},
        "layout": _layout_tab,
        "history": _history_tab,
        "raw": _raw_tab,
    }[tab](found, request)
    return context


def parent_link(found: Disk) -> ParentLink | None:
    """The link row; None for disks that have none."""
    return getattr(found, "parent_link", None)


def _found_at(found: Disk) -> Disk | None:
    """Where a disk with the right identity lies, while the link does not lead there."""
    link = parent_link(found)
    if link is None or link.suggested_id is None or link.status == ParentLink.Status.FOUND:
        return None
    return Disk.objects.select_related("root").filter(pk=link.suggested_id).first()


def mend(found: Disk, chain: list[Disk], *, may_operate: bool) -> Mend | None:
    """The action that would make the verdict better; none where nothing is wrong.

    A log that waits comes first: until it is replayed nothing else can be written. Of a chain
    (base first) that is broken further down, the way leads to the disk at fault.
    """
    if found.is_put_away:
        return _restore(found)
    if found.health_code == reading.HALF_MERGED:
        return None  # the panel below has it
    replay = _needed(found, "replay-log", may_operate=may_operate)
    if replay is not None:
        return replay
    page = reverse("disk", args=[found.pk])
    relink = action(found, "parent-path", may_operate=may_operate)
    link = parent_link(found)
    if _broken_below(found):
        if len(chain) < 2:  # the parent's row went meanwhile
            return None
        page = reverse("disk", args=[_at_fault(chain).pk])
        return Mend("Go to the disk at fault", page, "arrow-right")
    if found.health == Disk.Health.BROKEN and link is not None and relink.possible:
        if link.suggested_id is not None:
            return Mend("Update parent path", f"{relink.url}?parent={link.suggested_id}", "link")
        if link.status_words:  # to take the parent as it is would be the dangerous way
            return Mend("See what is known", f"{page}?tab=parent#tabs", "list-details")
        return Mend("Update parent path", relink.url, "link")
    repair = _needed(found, "repair-headers", may_operate=may_operate)
    if repair is not None:
        return repair
    if found.health in (Disk.Health.DAMAGED, Disk.Health.NOTICE, Disk.Health.NOT_A_DISK):
        return Mend("See what was found", f"{page}?tab=findings#tabs", "list-details")
    if found.health == Disk.Health.SUSPECT:
        return Mend("See the evidence", f"{page}?tab=parent#tabs", "list-details")
    return None


def mend_refusal(found: Disk, code: str, *, may_operate: bool) -> Mend | None:
    """The way out of what a plan is refused for: it leads to where that is changed.

    Where the refusal is the disk's own verdict, that is the button of its page.
    """
    if code == "E_READ_ONLY" and found.root.read_only:
        return Mend("Open the storage root", reverse("root", args=[found.root_id]), "folders")
    if code == "E_FIXED":
        convert = action(found, "convert", may_operate=may_operate)
        return Mend("Convert…", convert.url, convert.icon) if convert.possible else None
    if code and code == found.health_code:
        return mend(found, chains.chain_of(found), may_operate=may_operate)
    return None


def _restore(found: Disk) -> Mend | None:
    """To the job that put it away: there it is restored, or told what became of it."""
    job = found.put_away_by_id
    if job is None:
        return None
    page = reverse("job", args=[job])
    if job not in trash_index.restorable_jobs([job]):
        return Mend("See the job", page, "list-details")
    return Mend("Restore…", page, "arrow-back-up")


def _parent_in_trash(found: Disk) -> Disk | None:
    """The disk that a broken child names, where a job put it away and it can be restored."""
    link = parent_link(found)
    if link is None or not link.named_identity or found.health != Disk.Health.BROKEN:
        return None
    same = Disk.objects.filter(identity=link.named_identity, health=Disk.Health.MISSING)
    gone = list(same.filter(put_away_by__isnull=False)[:20])
    restorable = trash_index.restorable_jobs(disk.put_away_by_id for disk in gone)
    return next((disk for disk in gone if disk.put_away_by_id in restorable), None)


def _broken_below(disk: Disk) -> bool:
    """Broken, although the disk's own link leads to its parent."""
    link = parent_link(disk)
    broken = disk.health == Disk.Health.BROKEN
    return broken and link is not None and link.status == ParentLink.Status.FOUND


def _at_fault(chain: list[Disk]) -> Disk:
    """The nearest ancestor of the chain's last disk that is not broken by another one itself."""
    ancestors = chain[-2::-1]
    return next((one for one in ancestors if not _broken_below(one)), chain[0])


def _needed(found: Disk, key: str, *, may_operate: bool) -> Mend | None:
    """One of the mendings, where the disk needs it and it can be done."""
    if not MENDINGS[key].is_needed(found):
        return None
    mending = action(found, key, may_operate=may_operate)
    return Mend(mending.label, mending.url, mending.icon) if mending.possible else None


def properties(found: Disk) -> list[list[dict[str, Any]]]:
    """Two columns of label, value and how to show it; rows without a value are left out."""
    facts = file_facts.read(found)
    rows: list[dict[str, Any]] = [
        {"label": "Kind", "text": _kind(found)},
        {"label": "Virtual size", "bytes": found.virtual_size_bytes},
        {"label": "Size on disk", "bytes": found.allocated_bytes},
        {"label": "File size", "bytes": found.file_size_bytes},
        {"label": "Block size", "bytes": found.block_size_bytes or None},
        *({"label": words, "text": facts.get(label)} for label, words in _FACTS.items()),
        {"label": IDENTITY_WORDS.get(found.format, "Identity"), "identity": found.identity},
        {"label": "Virtual disk id", "identity": found.virtual_disk_id},
        {"label": "FileWriteGuid", "identity": found.file_write_guid},
        {"label": "Created by", "text": found.creator},
        {"label": "Created", "time": found.image_created_at},
        {"label": "Last written", "time": found.modified_at},
        {"label": "Last read by the console", "time": found.last_read_at},
        {"label": "Storage root", "text": found.root.name},
        {"label": "Path", "path": found.relative_path},
        {"label": "In Windows", "path": _in_windows(found)},
        {"label": "On this host", "path": found.path},
        {"label": "Moved from", "path": found.moved_from},
        {"label": "Managed by", "text": found.managed_by},
    ]
    known = [row for row in rows if any(value for key, value in row.items() if key != "label")]
    half = -(-len(known) // 2)
    return [known[:half], known[half:]]


def _in_windows(found: Disk) -> str:
    """How Windows names the file; "" where no view of its storage root says so."""
    named = windows_names.of(found.path)
    return named if named != found.path else ""


# What only the file tells, in the format's own words, and what it is called here.
_FACTS = {
    "Geometry (cylinders/heads/sectors)": "Geometry (C/H/S)",
    "Logical sector size": "Logical sector size",
    "Physical sector size": "Physical sector size",
    "Log": "Log",
    "Header in use": "Header in use",
}
# What children refer to.
IDENTITY_WORDS = {"vhd": "Unique id", "vhdx": "DataWriteGuid"}


def _kind(found: Disk) -> str:
    if not found.format:
        return "Not a disk that is known here"
    return f"{found.format.upper()}, {found.disk_type or 'type unknown'}"


def _blocks(found: Disk) -> dict[str, int] | None:
    if not found.blocks_total:
        return None
    allocated = found.blocks_allocated or 0
    return {
        "allocated": allocated,
        "total": found.blocks_total,
        "percent": round(100 * allocated / found.blocks_total),
    }


def _tabs(found: Disk, chosen: str) -> list[dict[str, Any]]:
    """Tabs as links; those that can hold nothing for this disk are left out."""
    counts = {"children": _children(found).count(), "findings": len(found.findings)}
    hidden = set()
    if found.disk_type != "differencing" and parent_link(found) is None:
        hidden.add("parent")
    if not found.blocks_total:
        hidden.add("layout")
    page = reverse("disk", args=[found.pk])
    return [
        {
            "key": key,
            "label": label,
            "url": f"{page}?tab={key}",
            "active": key == chosen,
            "count": counts.get(key),
        }
        for key, label in TABS.items()
        if key not in hidden or key == chosen
    ]


def findings(found: Disk) -> list[dict[str, Any]]:
    """The findings, errors first, each with what its code means and what to do."""
    order = {"error": 0, "warning": 1, "note": 2}
    rows = []
    for row in found.findings:
        code = codes.CODES.get(row.get("code", ""))
        rows.append(
            {**row, "title": code.title if code else "", "advice": code.advice if code else ""}
        )
    return sorted(rows, key=lambda row: order.get(row.get("level", ""), 3))


def _parent_tab(found: Disk, request: HttpRequest) -> dict[str, Any]:
    link = parent_link(found)
    if link is None:
        return {"trace": [], "locators": [], "undo": None, "written": None}
    trace = [
        {**step, "source_words": SOURCES.get(step.get("source", ""), step.get("source", ""))}
        for step in link.trace
    ]
    raw = _raw_locators(found)
    locators = [
        {
            **row,
            "source_words": SOURCES.get(row.get("code", ""), "Unknown kind"),
            "raw": raw.get((row.get("code"), row.get("offset"))),
        }
        for row in link.locators
    ]
    return {
        "trace": trace,
        "locators": locators,
        **_last_update(found),
        "twins": twins(found, link),
        "written": written_since(link),
        "relink": action(found, "parent-path", may_operate=allows(request.user, Role.OPERATOR)),
    }


def _last_update(found: Disk) -> dict[str, Any]:
    """The update of the parent link that can be taken back, and what the link said before."""
    undo = LinkUndo.objects.filter(disk=found, state=LinkUndo.State.AVAILABLE).first()
    return {"undo": undo, "undo_words": link_words(undo.before) if undo else []}


def _raw_locators(found: Disk) -> dict[tuple[str, int | None], str]:
    """The stored bytes of each locator in hexadecimal, read now; none where this fails."""
    try:
        stored = raw_link.locators(found)
    except ImageError:
        return {}
    return {(one.code, one.offset): one.raw[:RAW_SHOWN].hex(" ") for one in stored}


_NO_PATHS = ("parent_linkage", "parent_linkage2", "volume_path")


def link_words(recorded: dict[str, Any]) -> list[str]:
    """The paths of a recorded link that a person recognises: its name, else its locators."""
    name = recorded.get("name") or recorded.get("parent_name")
    if isinstance(name, str) and name:
        return [name]
    rows = [row for row in recorded.get("locators", []) if isinstance(row, dict)]
    paths = [row.get("path") for row in rows if row.get("code") not in _NO_PATHS]
    return [path for path in paths if isinstance(path, str) and path][:2]


def written_since(link: ParentLink) -> dict[str, Any] | None:
    """The disk that is the parent but for its content, and what happened to it as far as known."""
    told = link.parent_evidence.get("written")
    if told is None:
        return None
    disk = Disk.objects.select_related("root").filter(pk=told["disk"]).first()
    if disk is None:
        return None
    first = told.get("first")
    return {
        "disk": disk,
        "first_at": datetime.fromisoformat(first["at"]) if first else None,
        "changes": told["changes"],
    }


def twins(found: Disk, link: ParentLink) -> list[Disk]:
    """Other files with the parent's identity: the same disk, its content is not proven."""
    if not link.named_identity:
        return []
    rows = Disk.objects.filter(identity=link.named_identity, missing_since=None)
    rows = rows.exclude(pk=found.pk)
    return list(rows.select_related("root").order_by("-modified_at")[:20])


def _children(found: Disk) -> QuerySet[Disk]:
    """What the tab lists, and so what its number counts."""
    return Disk.objects.filter(parent_link__parent=found)


def _children_tab(found: Disk, request: HttpRequest) -> dict[str, Any]:
    rows = (
        _children(found)
        .select_related("root", "parent_link")
        .defer("findings")
        .order_by("name", "pk")
    )
    return {"children": listing.paged(rows, request.GET, size=100)}


def _layout_tab(found: Disk, request: HttpRequest) -> dict[str, Any]:
    try:
        cells = blockmap.block_map(found)
    except (ImageError, Refusal) as error:
        return {"tab_error": error}
    return {
        "map_wide": draw_block_map(cells, width=760, identifier="map-wide"),
        "map_narrow": draw_block_map(cells, width=330, identifier="map-narrow"),
        "map_words": describe(cells),
        "map_has_zeros": any(cell.zeros for cell in cells),
        "blocks_per_cell": max((cell.count for cell in cells), default=1),
    }


def _history_tab(found: Disk, request: HttpRequest) -> dict[str, Any]:
    return {
        "jobs": found.jobs.select_related("requested_by").order_by("-pk")[:50],
        "audit": found.audit.select_related("job").order_by("-pk")[:50],
        **_last_update(found),
    }


def _raw_tab(found: Disk, request: HttpRequest) -> dict[str, Any]:
    try:
        return {"regions": hex_views(inspection.raw_regions(found))}
    except (ImageError, Refusal) as error:
        return {"tab_error": error}
