"""The first page's facts: what is broken and by what, what is unknown, and as of when.

It is asked for often and over catalogs of any size, so all numbers come from indexes made
for them, and of long lists only the beginning is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Min, Q, QuerySet, Sum
from django.db.models.functions import Coalesce, NullIf

from disks.models import Disk, Job, ParentLink, StorageRoot
from disks.services import causes
from disks.services.chains import JOINING
from disks.services.reading import HALF_MERGED

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
class Scans:
    """When the catalog was renewed: the oldest and the newest of the roots' last scans."""

    oldest: datetime | None
    newest: datetime | None

    @property
    def words(self) -> str:
        """ "as of 2026-11-22 02:10 UTC"; each root has a scan of its own. "" before the first."""
        if self.oldest is None or self.newest is None:
            return ""
        oldest, newest = (f"{at:%Y-%m-%d %H:%M} UTC" for at in (self.oldest, self.newest))
        if oldest == newest:
            return f"as of {oldest}"
        return f"as of each storage root's last scan, the oldest of {oldest}"


@dataclass(frozen=True)
class Totals:
    """Numbers of disks by state, as the last scans found them."""

    disks: int
    chains: int
    broken: int
    damaged: int
    suspect: int
    missing: int
    in_use: int
    unreadable: int
    not_disks: int
    notices: int
    log_waits: int
    half_merged: int
    scans: Scans

    @property
    def is_fine(self) -> bool:
        return not (self.broken or self.damaged or self.suspect or self.missing)


def broken_groups(most: int | None = None) -> list[BrokenGroup]:
    """The broken disks by cause, largest group first; a constant number of queries.

    most: only so many groups; when a whole volume of bases is away, each child has its own.
    """
    is_direct = ~Q(status__in=JOINING)
    links = ParentLink.objects.filter(cause__gt="")
    counts = (
        links.values_list("cause")
        .annotate(everything=Count("*"), direct=Count("status", filter=is_direct))
        .order_by(Coalesce(NullIf("direct", 0), "everything").desc(), "cause")[:most]
    )
    shown = {cause: (everything, direct) for cause, everything, direct in counts}
    # All else is asked of these causes alone: of a hundred thousand links that takes a while.
    of_these = links if most is None else links.filter(cause__in=shown)
    known = {
        row["cause"]: row
        for row in of_these.values("cause").annotate(
            first=Min("child"),
            first_direct=Min("child", filter=is_direct),
            found=Max("suggested"),
            others=Min("suggested"),
        )
    }
    wanted = {row["first_direct"] or row["first"] for row in known.values()}
    wanted |= {one["found"] for one in known.values() if one["found"] == one["others"]} - {None}
    disks = (
        Disk.objects.select_related("root", "parent_link")
        .defer("findings", "parent_link__trace", "parent_link__locators")
        .in_bulk(wanted)
    )
    result = []
    for cause, (everything, direct) in shown.items():
        row = known.get(cause)
        example = disks.get(row["first_direct"] or row["first"]) if row else None
        if row is None or example is None:
            continue  # mended since the first query
        link: ParentLink = example.parent_link
        count = direct or everything
        only = row["found"] if row["found"] == row["others"] else None
        result.append(
            BrokenGroup(
                cause=cause,
                kind=causes.kind_of(cause),
                count=count,
                above=everything - count,
                sentence=causes.sentence(cause, count, link.named_path),
                named_path=link.named_path,
                found=disks.get(only) if only else None,
                example=example,
            )
        )
    return result


def broken_causes() -> tuple[int, bool]:
    """How many causes broke disks, and whether a parent is proposed for any of them."""
    links = ParentLink.objects.filter(cause__gt="")
    count = links.aggregate(count=Count("cause", distinct=True))["count"]
    return count, links.filter(suggested__isnull=False).exclude(status__in=JOINING).exists()


def totals() -> Totals:
    """How many disks are in which state; five queries."""
    rows = Disk.objects.order_by()
    counts = dict(rows.values_list("health").annotate(number=Count("*")))
    # A chain is counted by its leaf.
    leaves = rows.filter(missing_since=None, disk_type="differencing", child_count=0)
    put_away = rows.filter(put_away_by__isnull=False, health=Health.MISSING)
    missing = counts.pop(Health.MISSING, 0)
    not_disks = counts.get(Health.NOT_A_DISK, 0)
    return Totals(
        disks=sum(counts.values()) - not_disks,
        chains=leaves.count(),
        broken=counts.get(Health.BROKEN, 0),
        damaged=counts.get(Health.DAMAGED, 0),
        suspect=counts.get(Health.SUSPECT, 0),
        missing=missing - put_away.count(),
        in_use=counts.get(Health.IN_USE, 0),
        unreadable=counts.get(Health.UNREADABLE, 0),
        not_disks=not_disks,
        notices=counts.get(Health.NOTICE, 0),
        log_waits=rows.filter(missing_since=None, log_waits=True, health=Health.NOTICE).count(),
        half_merged=rows.filter(health=Health.NOTICE, health_code=HALF_MERGED).count(),
        scans=last_scans(),
    )


def last_scans() -> Scans:
    return Scans(
        **StorageRoot.objects.aggregate(oldest=Min("last_scan_at"), newest=Max("last_scan_at"))
    )


def complete_sentence(known: Totals | None = None) -> str:
    """ "All 214 chains complete, as of 02:10; 3 in use and not read." "" while anything is broken.

    Never without its date, and never without what could not be read.
    """
    known = known or totals()
    if not known.is_fine or not known.scans.words:
        return ""
    text = {0: "No disk is broken", 1: "The one chain is complete"}.get(
        known.chains, f"All {known.chains:,} chains are complete"
    )
    text += f", {known.scans.words}"
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
    links = ParentLink.objects.filter(unmapped_folder__gt="").values_list("unmapped_folder")
    return list(links.annotate(number=Count("*")).order_by("-number", "unmapped_folder")[:most])


def troubled_roots() -> list[tuple[StorageRoot, str]]:
    """Roots that need a look, with the sentence why: offline, not scanned, nearly full, read-only.

    Read-only by default is told; read-only although somebody said who opens its disks is wanted.
    """
    found = []
    for root in StorageRoot.objects.order_by("name"):
        if root.state in (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED):
            changed = root.state == StorageRoot.State.CHANGED
            how = "not the storage that was set up" if changed else "offline"
            found.append((root, f"{root.name} is {how}: {root.state_reason}"))
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


def spare_bytes() -> int:
    """Room in files that no block takes: won back without reading one block."""
    rows = Disk.objects.filter(missing_since=None, spare_bytes__isnull=False)
    return int(rows.aggregate(size=Sum("spare_bytes"))["size"] or 0)


def recent_jobs(most: int = 6) -> list[Job]:
    """The running ones first, then the last ones."""
    rows = Job.objects.select_related("requested_by", "disk", "root")
    active = list(rows.filter(status__in=Job.ACTIVE).order_by("pk")[:most])
    return active + list(
        rows.exclude(status__in=Job.ACTIVE).order_by("-pk")[: max(0, most - len(active))]
    )
