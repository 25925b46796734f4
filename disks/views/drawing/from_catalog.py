"""From catalog rows to the parts of a drawn chain, with a constant number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from django.db.models import F, Window
from django.db.models.functions import RowNumber
from django.urls import reverse
from django.utils.safestring import SafeString

from disks.models import Disk, ParentLink
from disks.views.drawing.chain import (
    NARROW_PX,
    WIDE_PX,
    Branch,
    ChainDisk,
    ChainFold,
    ChainGap,
    ChainPart,
    describe,
    draw_chain,
)
from disks.views.drawing.text import size_in_words, visible

BRANCHES_SHOWN = 3
LEVELS_SHOWN = 12  # a longer chain is folded in its middle
_MARKS = {
    Disk.Health.HEALTHY: "ok",
    Disk.Health.NOTICE: "note",
    Disk.Health.SUSPECT: "note",
    Disk.Health.IN_USE: "note",
    Disk.Health.MISSING: "gone",
}
# A drawing has room for a few words; the whole sentence is told in the tab "Parent link".
_GAP_WORDS = {
    ParentLink.Status.FOUND: "parent not in the catalog",
    ParentLink.Status.MISSING: "parent missing",
    ParentLink.Status.IN_USE: "parent in use",
    ParentLink.Status.IDENTITY_MISMATCH: "another disk is there",
    ParentLink.Status.AMBIGUOUS: "several candidates",
    ParentLink.Status.OUTSIDE_ROOTS: "outside the storage roots",
    ParentLink.Status.UNREADABLE: "parent unreadable",
    ParentLink.Status.CYCLE: "parents in a circle",
}
_BROKEN = (Disk.Health.BROKEN, Disk.Health.DAMAGED, Disk.Health.UNREADABLE, Disk.Health.MISSING)


class DrawnChain:
    """What a template needs: two drawings and the same as a list of sentences."""

    def __init__(self, parts: Sequence[ChainPart], *, identifier: str = "chain") -> None:
        self.parts = parts
        self._identifier = identifier

    @property
    def wide(self) -> SafeString:
        return draw_chain(self.parts, width=WIDE_PX, identifier=f"{self._identifier}-wide")

    @property
    def narrow(self) -> SafeString:
        return draw_chain(self.parts, width=NARROW_PX, identifier=f"{self._identifier}-narrow")

    @property
    def sentences(self) -> list[tuple[str, str | None]]:
        """One sentence for each part, base first, with the address it leads to."""
        return [(describe([part]), part.url) for part in self.parts]


_NOT_REACHED = "parent not reached"


def role_in_chain(disk: Disk) -> str:
    """base · 2 of 4 · leaf; a disk without parent and children stands alone."""
    if disk.disk_type == "differencing" and disk.chain_position <= 1:
        return _NOT_REACHED
    if disk.chain_depth <= 1 and not disk.child_count:
        return "alone"
    if disk.chain_position <= 1:
        return "base"
    if not disk.child_count and disk.chain_position >= disk.chain_depth:
        return "leaf"
    return f"{disk.chain_position} of {disk.chain_depth}"


def drawn_chain(
    chain: Sequence[Disk], current: Disk, *, identifier: str = "chain", family: bool = True
) -> DrawnChain:
    """The chain as parts. chain: base first, parent_link of each selected with it.

    family  also siblings along the chain and the children of the last disk (two queries)
    """
    siblings: dict[int, list[Disk]] = defaultdict(list)
    if family:
        siblings = _children_by_parent(chain)
    members = {disk.pk for disk in chain}
    parts: list[ChainPart] = []
    gap = _gap_above(chain[0])
    if gap:
        parts.append(gap)
    parent: Disk | None = None
    for disk in chain:
        beside = [one for one in siblings[parent.pk] if one.pk not in members] if parent else []
        total_beside = max(parent.child_count - 1, len(beside)) if parent and family else 0
        last = disk is chain[-1]
        below = siblings[disk.pk] if last else []
        total_below = max(disk.child_count, len(below)) if last and family else 0
        parts.append(
            ChainDisk(
                name=disk.name,
                url=reverse("disk", args=[disk.pk]),
                facts=facts(disk),
                size=sizes(disk),
                allocated_bytes=disk.allocated_bytes,
                virtual_bytes=disk.virtual_size_bytes or 0,
                mark=mark(disk),
                current=disk.pk == current.pk,
                siblings=tuple(_branch(one) for one in beside[:BRANCHES_SHOWN]),
                siblings_more=max(0, total_beside - BRANCHES_SHOWN),
                siblings_url=_children_url(parent) if parent else None,
                children=tuple(_branch(one) for one in below[:BRANCHES_SHOWN]),
                children_more=max(0, total_below - BRANCHES_SHOWN),
                children_url=_children_url(disk),
            )
        )
        parent = disk
    return DrawnChain(_folded(parts), identifier=identifier)


def facts(disk: Disk) -> str:
    role, kind = role_in_chain(disk), disk.disk_type or "no disk"
    if role == _NOT_REACHED and disk.health == Disk.Health.BROKEN:
        return f"{role} · {kind}"  # which is what “chain broken” would say
    return f"{role} · {kind} · {_health_words(disk)}"


def _health_words(disk: Disk) -> str:
    return "put away" if disk.is_put_away else disk.get_health_display().lower()


def sizes(disk: Disk) -> str:
    if disk.virtual_size_bytes is None:
        return size_in_words(disk.file_size_bytes)
    return f"{size_in_words(disk.allocated_bytes)} of {size_in_words(disk.virtual_size_bytes)}"


def mark(disk: Disk) -> str:
    """The shape of its point; a broken chain marks its gap, its disks are only noted."""
    if disk.health == Disk.Health.BROKEN or disk.is_put_away:
        return "note"
    return _MARKS.get(Disk.Health(disk.health), "bad")


def _children_url(disk: Disk) -> str:
    return f"{reverse('disk', args=[disk.pk])}?tab=children"


def _branch(disk: Disk) -> Branch:
    marked = disk.health in _BROKEN
    return Branch(
        name=disk.name,
        url=reverse("disk", args=[disk.pk]),
        facts=_health_words(disk) if marked else "",
        marked=marked and not disk.is_put_away,
    )


def _children_by_parent(chain: Sequence[Disk]) -> dict[int, list[Disk]]:
    """Some children of each disk; bounded, because a base can have thousands."""
    found: dict[int, list[Disk]] = defaultdict(list)
    place = Window(RowNumber(), partition_by=F("parent_link__parent"), order_by=F("name").asc())
    rows = (
        Disk.objects.filter(parent_link__parent__in=[disk.pk for disk in chain])
        .select_related("parent_link")
        .annotate(place=place)
        .filter(place__lte=BRANCHES_SHOWN + 1)  # one may be in the chain itself
        .order_by("name")
    )
    for child in rows:
        if child.parent_link.parent_id is not None:
            found[child.parent_link.parent_id].append(child)
    return found


def _gap_above(first: Disk) -> ChainGap | None:
    """What is missing above the first disk that the chain has."""
    link: ParentLink | None = getattr(first, "parent_link", None)
    if first.disk_type != "differencing" or link is None:
        return None
    if link.status == ParentLink.Status.FOUND and link.parent_id is not None:
        return None
    name = link.named_path or link.named_identity or "its parent"
    reason = _GAP_WORDS.get(ParentLink.Status(link.status), link.get_status_display())
    if link.status_words:
        reason = f"parent {link.status_words.lower()}"
    url = f"{reverse('disk', args=[first.pk])}?tab=parent"
    return ChainGap(name=visible(name), reason=visible(reason), url=url)


def _folded(parts: list[ChainPart]) -> list[ChainPart]:
    if len(parts) <= LEVELS_SHOWN:
        return parts
    head, tail = LEVELS_SHOWN // 3, LEVELS_SHOWN - LEVELS_SHOWN // 3 - 1
    here = next(
        (i for i, part in enumerate(parts) if isinstance(part, ChainDisk) and part.current), 0
    )
    if head <= here < len(parts) - tail:  # never fold the disk that the page is about
        before, after = parts[head : here - 1], parts[here + 2 : len(parts) - 2]
        middle = parts[max(head, here - 1) : here + 2]
        return [
            *parts[:head],
            *([ChainFold(len(before))] if before else []),
            *middle,
            *([ChainFold(len(after))] if after else []),
            *parts[max(here + 2, len(parts) - 2) :],
        ]
    return [*parts[:head], ChainFold(len(parts) - head - tail), *parts[-tail:]]
