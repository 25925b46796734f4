"""Chains in the catalog: who is above and below whom, and the columns that lists need.

Only links that were resolved to a catalogued disk join a chain; a broken link ends it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db import connection
from django.db.models import QuerySet

from disks.models import Disk, ParentLink

# A cycle cannot be stored as found links, but two scans may race: no query may run away.
DEPTH_LIMIT = 5_000


@dataclass
class Graph:
    """All resolved links of the catalog: child to parent, and parent to children."""

    parent_of: dict[int, int] = field(default_factory=dict)
    children_of: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def load(cls) -> Graph:
        graph = cls()
        rows = ParentLink.objects.filter(
            status__in=JOINING, parent__isnull=False, child__missing_since=None
        )
        for child, parent in rows.values_list("child_id", "parent_id"):
            graph.parent_of[child] = parent
            graph.children_of[parent].append(child)
        return graph

    def base_of(self, disk: int) -> int:
        """The lowest known disk; in a cycle the disk with the smallest number."""
        seen = {disk}
        current = disk
        while current in self.parent_of:
            current = self.parent_of[current]
            if current in seen:
                return min(self._ring(current))
            seen.add(current)
        return current

    def _ring(self, disk: int) -> list[int]:
        ring = [disk]
        while self.parent_of[ring[-1]] != disk:
            ring.append(self.parent_of[ring[-1]])
        return ring

    def connected(self, disks: Iterable[int]) -> set[int]:
        """These disks with everything that shares a base with one of them."""
        found: set[int] = set()
        for disk in disks:
            if disk not in found:
                found.update(self.walk_down(self.base_of(disk)))
                found.add(disk)
        return found

    def walk_down(self, base: int) -> Iterator[int]:
        """base and all above it, parents before their children, iteratively (bad-input 53)."""
        seen = {base}
        waiting = [base]
        while waiting:
            current = waiting.pop()
            yield current
            for child in self.children_of.get(current, ()):
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)


# The statuses under which a parent is known to be the right one.
JOINING = (ParentLink.Status.FOUND, ParentLink.Status.IN_USE)


class Place(NamedTuple):
    """A disk's chain columns."""

    position: int
    depth: int
    base: int | None  # None: the disk is its own base
    children: int


def places(graph: Graph, disks: Iterable[int]) -> dict[int, Place]:
    """The chain columns of these disks and of all that are connected with them."""
    result: dict[int, Place] = {}
    for base in {graph.base_of(disk) for disk in disks}:
        order = list(graph.walk_down(base))
        position = {base: 1}
        for disk in order:
            for child in graph.children_of.get(disk, ()):
                position.setdefault(child, position[disk] + 1)
        # How far the longest chain through each disk reaches, from the leaves down.
        reach = dict(position)
        for disk in reversed(order):
            parent = graph.parent_of.get(disk)
            if parent in reach and disk != base:
                reach[parent] = max(reach[parent], reach[disk])
        for disk in order:
            result[disk] = Place(
                position[disk],
                reach[disk],
                None if disk == base else base,
                len(graph.children_of.get(disk, ())),
            )
    return result


def chain_of(disk: Disk) -> list[Disk]:
    """The disk and its ancestors, base first, by one recursive query."""
    ids = _recursive(disk.pk, upwards=False)
    return _in_order(ids[::-1])


def descendants(disk: Disk) -> list[Disk]:
    """All disks above this one (its children, their children …), nearest first."""
    return _in_order(_recursive(disk.pk, upwards=True)[1:])


def children(disk: Disk) -> QuerySet[Disk]:
    """The disks that name this one as parent, by path."""
    return (
        Disk.objects.filter(parent_link__parent=disk, missing_since=None)
        .select_related("root", "parent_link")
        .order_by("root__name", "relative_path")
    )


def siblings(disk: Disk) -> QuerySet[Disk]:
    """The other disks that have the same parent."""
    parent = ParentLink.objects.filter(child=disk).values_list("parent_id", flat=True).first()
    if parent is None:
        return Disk.objects.none()
    return children(Disk(pk=parent)).exclude(pk=disk.pk)


def _in_order(ids: list[int]) -> list[Disk]:
    rows = Disk.objects.select_related("root", "parent_link").in_bulk(ids)
    return [rows[pk] for pk in ids if pk in rows]


def _recursive(start: int, *, upwards: bool) -> list[int]:
    """start, then its ancestors (or, upwards, its descendants), nearest first.

    UNION (not UNION ALL) with the level left out would end at a cycle but lose the order;
    so the level is kept and bounded, and a disk counts where it comes first.
    """
    link = connection.ops.quote_name(ParentLink._meta.db_table)
    here, there = ("parent_id", "child_id") if upwards else ("child_id", "parent_id")
    statuses = ", ".join(["%s"] * len(JOINING))
    query = f"""
        WITH RECURSIVE chain(disk, level) AS (
            SELECT CAST(%s AS bigint), 0
            UNION
            SELECT link.{there}, chain.level + 1
            FROM chain JOIN {link} AS link ON link.{here} = chain.disk
            WHERE link.{there} IS NOT NULL AND link.status IN ({statuses})
              AND chain.level < %s
        )
        SELECT disk, MIN(level) FROM chain GROUP BY disk ORDER BY MIN(level), disk
    """  # noqa: S608  names of our own tables and columns
    with connection.cursor() as cursor:
        cursor.execute(query, [start, *(str(status) for status in JOINING), DEPTH_LIMIT])
        return [row[0] for row in cursor.fetchall()]
