"""The first page's facts: what is broken and by what, what is unknown, and as of when."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet, Sum

from disks.engine.resolution import is_volume_path
from disks.models import Disk, Job, ParentLink, StorageRoot, TrashedJob
from disks.services import causes
from disks.services.chains import JOINING

Health = Disk.Health
_FULL_PERCENT = 95


@dataclass(frozen=True)
class BrokenGroup:
    """Disks broken by one cause.

    count    links that it broke; above: disks that are broken only because of those
    found    the disk that would mend them, where there is exactly one
    example  one of the children
    """

    cause: str
    kind: str
    count: int
    above: int
    sentence: str
    named_path: str
    found: Disk | None
    example: Disk


@dataclass(frozen=True)
class Totals:
    """Numbers of disks by state. as_of: the oldest of the roots' last scans."""

    disks: int
    chains: int
    broken: int
    damaged: int
    suspect: int
    missing: int
    in_use: int
    unreadable: int
    not_disks: int
    log_waits: int
    as_of: datetime | None

    @property
    def is_fine(self) -> bool:
        return not (self.broken or self.damaged or self.suspect or self.missing)


def broken_groups(most: int | None = None) -> list[BrokenGroup]:
    """The broken disks by cause, largest group first; a constant number of queries.

    most: only so many groups; when a whole volume of bases is away, each child has its own.
    """
    rows = (
        ParentLink.objects.filter(child__missing_since=None, child__health=Health.BROKEN)
        .exclude(cause="")
        .values("cause")
        .annotate(
            direct=Count("pk", filter=~Q(status__in=JOINING)),
            everything=Count("pk"),
            first=Min("child"),
            first_direct=Min("child", filter=~Q(status__in=JOINING)),
            found=Max("suggested"),
            others=Min("suggested"),
        )
        .order_by()
    )
    groups = sorted(rows, key=lambda row: (-(row["direct"] or row["everything"]), row["cause"]))
    groups = groups[:most]
    wanted = {row["first_direct"] or row["first"] for row in groups}
    wanted |= {row["found"] for row in groups if row["found"] and row["found"] == row["others"]}
    disks = (
        Disk.objects.select_related("root", "parent_link")
        .defer("findings", "parent_link__trace", "parent_link__locators")
        .in_bulk(wanted)
    )
    result = []
    for row in groups:
        example = disks.get(row["first_direct"] or row["first"])
        if example is None:
            continue
        link: ParentLink = example.parent_link
        count = row["direct"] or row["everything"]
        only = row["found"] if row["found"] == row["others"] else None
        result.append(
            BrokenGroup(
                cause=row["cause"],
                kind=causes.kind_of(row["cause"]),
                count=count,
                above=row["everything"] - count,
                sentence=causes.sentence(row["cause"], count, link.named_path),
                named_path=link.named_path,
                found=disks.get(only) if only else None,
                example=example,
            )
        )
    return result


def broken_causes() -> tuple[int, bool]:
    """How many causes broke disks, and whether a parent is proposed for any of them."""
    links = ParentLink.objects.filter(child__missing_since=None, child__health=Health.BROKEN)
    count = links.exclude(cause="").values("cause").distinct().count()
    return count, links.filter(suggested__isnull=False).exclude(status__in=JOINING).exists()


def totals() -> Totals:
    """How many disks are in which state; two queries."""
    counts = Disk.objects.filter(put_away_by=None).aggregate(
        disks=Count("pk", filter=Q(missing_since=None) & ~Q(health=Health.NOT_A_DISK)),
        # A chain is counted by its leaf.
        chains=Count("pk", filter=Q(missing_since=None, disk_type="differencing", child_count=0)),
        broken=Count("pk", filter=Q(health=Health.BROKEN)),
        damaged=Count("pk", filter=Q(health=Health.DAMAGED)),
        suspect=Count("pk", filter=Q(health=Health.SUSPECT)),
        missing=Count("pk", filter=Q(health=Health.MISSING)),
        in_use=Count("pk", filter=Q(health=Health.IN_USE)),
        unreadable=Count("pk", filter=Q(health=Health.UNREADABLE)),
        not_disks=Count("pk", filter=Q(health=Health.NOT_A_DISK)),
        log_waits=Count("pk", filter=Q(missing_since=None, log_waits=True, health=Health.NOTICE)),
    )
    as_of = StorageRoot.objects.aggregate(oldest=Min("last_scan_at"))["oldest"]
    return Totals(as_of=as_of, **counts)


def complete_sentence(known: Totals | None = None) -> str:
    """ "All 214 chains complete, as of 02:10; 3 in use and not read." "" while anything is broken.

    Never without its date, and never without what could not be read.
    """
    known = known or totals()
    if not known.is_fine or known.as_of is None:
        return ""
    text = {0: "No disk is broken", 1: "The one chain is complete"}.get(
        known.chains, f"All {known.chains:,} chains are complete"
    )
    text += f", as of {known.as_of:%Y-%m-%d %H:%M} UTC"
    limits = []
    if known.in_use:
        limits.append(f"{known.in_use:,} in use and not read")
    if known.unreadable:
        limits.append(f"{known.unreadable:,} could not be read")
    unscanned = StorageRoot.objects.filter(last_scan_at=None).count()
    if unscanned:
        limits.append(f"{_roots(unscanned)} never scanned")
    offline = StorageRoot.objects.filter(
        state__in=[StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED]
    ).count()
    if offline:
        limits.append(f"{_roots(offline)} offline")
    return f"{text}; {', '.join(limits)}." if limits else f"{text}."


def _roots(number: int) -> str:
    return "1 storage root" if number == 1 else f"{number:,} storage roots"


def suspects() -> QuerySet[Disk]:
    """Disks whose parent was written after they were first seen."""
    return (
        Disk.objects.filter(health=Health.SUSPECT)
        .select_related("root", "parent_link")
        .order_by("root__name", "relative_path")
    )


def unmapped_paths(most: int = 10) -> list[tuple[str, int]]:
    """Windows folders that broken links name and no root's view covers, with their numbers."""
    found: Counter[str] = Counter()
    rows = ParentLink.objects.exclude(status__in=JOINING).values_list("trace", flat=True)
    for trace in rows.iterator(1_000):
        folders = {
            _folder(step["raw"])
            for step in trace
            # No view can say where a volume's GUID leads.
            if step["verdict"] == "unmapped" and not is_volume_path(step["raw"])
        }
        found.update(folder for folder in folders if folder)
    return found.most_common(most)


def _folder(raw: Any) -> str:
    text = str(raw).replace("/", "\\")
    return text.rpartition("\\")[0]


def troubled_roots() -> list[tuple[StorageRoot, str]]:
    """Roots that need a look, with the sentence why: offline, not scanned, nearly full, read-only.

    Read-only by default is told; read-only although somebody said who opens its disks is wanted.
    """
    found = []
    for root in StorageRoot.objects.order_by("name"):
        if root.state in (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED):
            found.append((root, f"{root.name} is offline: {root.state_reason}"))
            continue
        if root.last_scan_at is None:
            found.append((root, f"{root.name} was never scanned: none of its disks is known yet."))
        if root.total_bytes and root.free_bytes is not None:
            used = 100 * (root.total_bytes - root.free_bytes) // root.total_bytes
            if used >= _FULL_PERCENT:
                found.append((root, f"{root.name} is nearly full: {used} % is used."))
        if root.read_only and root.opened_by == StorageRoot.OpenedBy.OTHER:
            found.append(
                (root, f"{root.name} is read-only until an administrator says who opens its disks.")
            )
    return found


def trash_bytes() -> int:
    """What emptying the trash would give back."""
    rows = TrashedJob.objects.filter(state=TrashedJob.State.IN_TRASH)
    return int(rows.aggregate(size=Sum("size_bytes"))["size"] or 0)


def recent_jobs(most: int = 6) -> list[Job]:
    """The running ones first, then the last ones."""
    rows = Job.objects.select_related("requested_by", "disk", "root")
    active = list(rows.filter(status__in=Job.ACTIVE).order_by("pk")[:most])
    return active + list(
        rows.exclude(status__in=Job.ACTIVE).order_by("-pk")[: max(0, most - len(active))]
    )
