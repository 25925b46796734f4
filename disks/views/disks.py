"""All disks: a table or a tree of chains, filtered and sorted by what the address says."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Count, F, Q, QuerySet, prefetch_related_objects
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, QueryDict
from django.utils import timezone
from django.views.decorators.http import require_GET

from disks.models import Disk, StorageRoot
from disks.services.access import Role, allows
from disks.views import listing
from disks.views.actions import Action, actions_for
from disks.views.addresses import disk_address
from disks.views.drawing.from_catalog import role_in_chain
from disks.views.rendering import render_page

SORTS = {
    "name": ("name", "pk"),
    "health": ("health", "name", "pk"),
    "used": ("allocated_bytes", "pk"),
    "virtual": ("virtual_size_bytes", "pk"),
    "children": ("child_count", "pk"),
    "changed": ("modified_at", "pk"),
    "root": ("root__name", "relative_path"),
}
TYPES = {"fixed": "Fixed", "dynamic": "Dynamic", "differencing": "Differencing"}
FORMATS = {"vhd": "VHD", "vhdx": "VHDX"}
CHILDREN = {"yes": "Has children", "no": "No children"}
SEEN = {"day": ("Not seen for a day", 1), "week": ("Not seen for a week", 7)}
PUT_AWAY = "put-away"  # in the trash by a job of ours: gone, and nobody misses it
MODES = {"table", "tree"}
TREE_CHAINS = 25
TREE_ROWS = 2_000  # of one page; a base with more children links to its own page
DEEPEST_INDENT = 8
_IDENTITY = frozenset("0123456789abcdef-")


@dataclass(frozen=True, slots=True)
class Row:
    """A disk as both modes show it.

    address of its own page
    level   steps below its chain's base, for the tree
    toggle  the address that a click on its triangle leads to
    """

    disk: Disk
    address: str
    role: str
    actions: list[Action]
    level: int = 0
    foldable: bool = False
    folded: bool = False
    toggle: str = ""

    @property
    def indent(self) -> int:
        return min(self.level, DEEPEST_INDENT)


@require_GET
def disks(request: HttpRequest) -> HttpResponse:
    context = _context(request)
    return render_page(request, "disks/disks.html", context, fragment="disks/_disks_list.html")


def _context(request: HttpRequest) -> dict[str, Any]:
    query = request.GET
    may_operate = allows(request.user, Role.OPERATOR)
    roots = {str(root.pk): root for root in StorageRoot.objects.order_by("name")}
    selected = _filters(query, roots)
    matches = _matching(selected)
    sort = query.get("sort", "name")
    key = sort.removeprefix("-")
    if key not in SORTS or sort.startswith("--"):
        raise listing.BadAddress("There is no such column to sort by.")
    mode = listing.chosen(query, "view", MODES) or "table"
    if mode == "tree":
        page, rows = _tree(matches, query, _order(sort), may_operate=may_operate)
    else:
        found = _listed(matches).order_by(*_order(sort))
        page = listing.paged(
            found, query, costly=bool(selected["q"]), whole=_listed(Disk.objects.all())
        )
        rows = [_row(disk, may_operate=may_operate) for disk in _with_roots(page.rows)]
    return {
        "page": page,
        "rows": rows,
        "mode": mode,
        "sort": sort,
        "sort_key": key,
        "descending": sort.startswith("-"),
        "filters": selected,
        "filtered": any(selected.values()),
        "roots": list(roots.values()),
        "healths": _healths(selected["health"]),
        "types": TYPES,
        "formats": FORMATS,
        "children_choices": CHILDREN,
        "seen_choices": {value: label for value, (label, _) in SEEN.items()},
        "columns": _columns(sort),
    }


def _filters(query: QueryDict, roots: dict[str, StorageRoot]) -> dict[str, str]:
    return {
        "q": listing.words(query),
        "health": listing.chosen(query, "health", {*Disk.Health.values, PUT_AWAY}),
        "root": listing.chosen(query, "root", set(roots)),
        "type": listing.chosen(query, "type", TYPES),
        "format": listing.chosen(query, "format", FORMATS),
        "children": listing.chosen(query, "children", CHILDREN),
        "seen": listing.chosen(query, "seen", SEEN),
    }


def _matching(selected: dict[str, str]) -> QuerySet[Disk]:
    rows = Disk.objects.all()
    if selected["health"] == PUT_AWAY:
        rows = rows.filter(_is_put_away())
    elif selected["health"] == Disk.Health.MISSING:
        rows = rows.filter(health=Disk.Health.MISSING, put_away_by=None)
    elif selected["health"]:
        rows = rows.filter(health=selected["health"])
    if selected["root"]:
        rows = rows.filter(root_id=int(selected["root"]))
    if selected["type"]:
        rows = rows.filter(disk_type=selected["type"])
    if selected["format"]:
        rows = rows.filter(format=selected["format"])
    if selected["children"]:
        rows = (
            rows.filter(child_count__gt=0)
            if selected["children"] == "yes"
            else rows.filter(child_count=0)
        )
    if selected["seen"]:
        days = SEEN[selected["seen"]][1]
        rows = rows.filter(last_seen_at__lt=timezone.now() - timedelta(days=days))
    if selected["q"]:
        rows = rows.filter(_search(selected["q"]))
    return rows


def _is_put_away() -> Q:
    return Q(health=Disk.Health.MISSING, put_away_by__isnull=False)


def _search(text: str) -> Q:
    """In name, path and both ids; an id may be pasted with braces or in capitals."""
    identity = text.strip("{}").lower()
    found = Q(relative_path__icontains=text)  # the name is its end
    # Every row is looked at, so nothing is asked that cannot be.
    if not _IDENTITY.issuperset(identity):
        return found
    return found | Q(identity__startswith=identity) | Q(virtual_disk_id__startswith=identity)


def _listed(rows: QuerySet[Disk]) -> QuerySet[Disk]:
    """With what rows show and actions ask; half of the columns take half of the time."""
    return rows.only(
        "root", "relative_path", "name", "health", "health_code", "format", "disk_type",
        "virtual_size_bytes", "allocated_bytes", "modified_at", "chain_position", "chain_depth",
        "child_count", "log_waits",
    )  # fmt: skip


def _with_roots(disks: list[Disk]) -> list[Disk]:
    """The few roots are asked for once, not read anew with every row."""
    prefetch_related_objects(disks, "root")
    return disks


def _order(sort: str) -> list[Any]:
    """Ascending or descending by allow-listed columns; unknown sizes last."""
    descending = sort.startswith("-")
    columns = SORTS[sort.removeprefix("-")]
    if columns[0] in ("virtual_size_bytes", "modified_at"):
        first = F(columns[0])
        head = first.desc(nulls_last=True) if descending else first.asc(nulls_last=True)
        return [head, "-pk" if descending else "pk"]  # as the index runs, to and fro
    return [f"-{column}" for column in columns] if descending else list(columns)


def _columns(sort: str) -> list[dict[str, Any]]:
    """The sortable headings, each with the sort that a click gives."""
    labels = {
        "name": "Name",
        "health": "Health",
        "used": "On disk",
        "virtual": "Virtual size",
        "children": "Children",
        "root": "Root",
        "changed": "Changed",
    }
    return [
        {
            "key": key,
            "label": label,
            "active": sort.removeprefix("-") == key,
            "descending": sort == f"-{key}",
            "next": f"-{key}" if sort == key else key,
        }
        for key, label in labels.items()
    ]


def _healths(chosen: str) -> list[dict[str, Any]]:
    """The verdicts that occur, with their numbers, worst first."""
    counts = dict(Disk.objects.order_by().values_list("health").annotate(number=Count("pk")))
    counts[PUT_AWAY] = Disk.objects.filter(_is_put_away()).count()
    counts[Disk.Health.MISSING] = counts.get(Disk.Health.MISSING, 0) - counts[PUT_AWAY]
    order = [
        Disk.Health.BROKEN,
        Disk.Health.DAMAGED,
        Disk.Health.UNREADABLE,
        Disk.Health.MISSING,
        Disk.Health.SUSPECT,
        Disk.Health.NOTICE,
        Disk.Health.IN_USE,
        Disk.Health.NOT_A_DISK,
        Disk.Health.HEALTHY,
    ]
    labels = {str(health): health.label for health in order} | {PUT_AWAY: "Put away"}
    return [
        {"value": value, "label": label, "count": counts.get(value, 0)}
        for value, label in labels.items()
        if counts.get(value) or value == chosen
    ]


def _row(disk: Disk, *, may_operate: bool, **tree: Any) -> Row:
    actions = actions_for(disk, may_operate=may_operate)
    address = disk_address("disk", disk.pk)
    return Row(disk=disk, address=address, role=role_in_chain(disk), actions=actions, **tree)


def _tree(
    matches: QuerySet[Disk], query: QueryDict, order: list[Any], *, may_operate: bool
) -> tuple[listing.Page, list[Row]]:
    """Whole chains that hold a match, base first, every level below its parent."""
    folded = set(listing.numbers(query.get("fold", "").split(",") if query.get("fold") else []))
    costly = bool(matches.query.where)
    if costly:
        bases = matches.order_by().values(base=Coalesce("chain_base_id", "pk"))
        tops = Disk.objects.filter(pk__in=bases)
    else:
        tops = Disk.objects.filter(chain_position=1)
    page = listing.paged(
        _listed(tops).order_by(*order),
        query,
        size=TREE_CHAINS,
        costly=costly,
        whole=_listed(Disk.objects.all()),
    )
    below: dict[int, list[Disk]] = defaultdict(list)
    members = _listed(Disk.objects.filter(chain_base__in=[top.pk for top in page.rows]))
    members = members.annotate(parent=F("parent_link__parent")).order_by("name")
    above = list(members[:TREE_ROWS])
    _with_roots([*page.rows, *above])
    for disk in above:
        if disk.parent is not None:
            below[disk.parent].append(disk)
    folding = query.copy()
    rows: list[Row] = []
    for top in page.rows:
        waiting = [(top, 0)]
        seen: set[int] = set()
        while waiting:
            disk, level = waiting.pop()
            if disk.pk in seen:
                continue
            seen.add(disk.pk)
            closed = disk.pk in folded
            folding["fold"] = ",".join(map(str, sorted(folded ^ {disk.pk})))
            rows.append(
                _row(
                    disk,
                    may_operate=may_operate,
                    level=level,
                    foldable=bool(below[disk.pk]),
                    folded=closed,
                    toggle=f"?{folding.urlencode()}",
                )
            )
            if not closed:
                waiting.extend((child, level + 1) for child in reversed(below[disk.pk]))
    return page, rows
