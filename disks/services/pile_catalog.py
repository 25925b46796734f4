"""Piles as the catalog sees them: which disks of a folder, or of all, hang together how."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from django.db.models import Q, QuerySet

from disks.engine.errors import ImageError
from disks.models import Disk, ParentLink, StorageRoot
from disks.models.fields import to_column
from disks.operations.forest import Forest, Lost, Member
from disks.operations.managers import NO_CLAIM
from disks.operations.pile import planning
from disks.operations.survey import Survey, is_inside
from disks.services import declarations
from disks.services.chains import JOINING

LEAST_CHECKPOINTS = 3  # fewer are a chain that somebody made on purpose
_MOST_BASES = 500  # whose chains are looked at for the overview
_AT_ONCE = 500  # numbers in one query
_HEAVY = ("findings", "parent_link__trace", "parent_link__locators", "parent_link__parent_evidence")


@dataclass(frozen=True)
class Forgotten:
    """Differencing disks of one chain in one folder that no manager beside them claims.

    leaf  the uppermost disk of the pile
    """

    root: StorageRoot
    folder: str
    leaf: Disk
    count: int
    allocated_bytes: int
    are_checkpoints: bool


class _Level(NamedTuple):
    """As little of a disk as tells how it hangs together with others, and whose it is."""

    pk: int
    root: int
    relative_path: str
    is_differencing: bool
    child_count: int
    managed_by: str
    allocated_bytes: int
    parent: int | None

    @property
    def place(self) -> tuple[int, str]:
        return self.root, os.path.dirname(self.relative_path)


def forgotten(most: int | None = None) -> tuple[list[Forgotten], int]:
    """Piles of at least three disks without a host, the largest first, and how many there are.

    most: only so many of them, because the overview asks: whole rows are read of these alone.
    """
    found = []
    for run in _runs(_levels()):
        checkpoints = [level for level in run if level.is_differencing]
        if any(level.managed_by and level.managed_by not in NO_CLAIM for level in checkpoints):
            continue
        places = Counter(level.place for level in checkpoints).most_common(1)
        here = [level for level in checkpoints if level.place == places[0][0]] if places else []
        if len(here) >= LEAST_CHECKPOINTS:
            allocated_bytes = sum(level.allocated_bytes for level in here)
            found.append((-allocated_bytes, run[0].pk, here))
    found.sort(key=lambda one: one[:2])
    leaves = Disk.objects.select_related("root").in_bulk([leaf for _, leaf, _ in found[:most]])
    there = StorageRoot.objects.in_bulk([here[0].root for _, _, here in found[:most]])
    piles = [
        Forgotten(
            root=there[here[0].root],
            folder=here[0].place[1],
            leaf=leaves[leaf],
            count=len(here),
            allocated_bytes=-negative,
            are_checkpoints=all(
                level.relative_path.lower().endswith(planning.CHECKPOINT_ENDINGS) for level in here
            ),
        )
        for negative, leaf, here in found[:most]
        if leaf in leaves
    ]
    return piles, len(found)


def _levels() -> dict[int, _Level]:
    """The disks of chains that are deep enough; of a limited number of bases."""
    # Every chain with more disks has one at this position; an index leads to them.
    deep = Disk.objects.filter(
        disk_type="differencing", missing_since=None, chain_position=LEAST_CHECKPOINTS
    ).exclude(root__state__in=declarations.OFFLINE_STATES)
    bases = deep.order_by().values_list("chain_base", flat=True).distinct()[:_MOST_BASES]
    some = [base for base in bases if base is not None]
    rows = Disk.objects.filter(Q(pk__in=some) | Q(chain_base__in=some)).filter(
        missing_since=None, chain_depth__gte=LEAST_CHECKPOINTS
    )
    columns = rows.order_by().values_list(
        "pk", "root_id", "relative_path", "disk_type", "child_count", "managed_by",
        "allocated_bytes", "parent_link__parent", "parent_link__status",
    )  # fmt: skip
    return {
        pk: _Level(
            pk, root, path, kind == "differencing", children, manager, allocated_bytes,
            parent if status in JOINING else None,
        )
        for pk, root, path, kind, children, manager, allocated_bytes, parent, status in columns
    }  # fmt: skip


def _runs(levels: dict[int, _Level]) -> Iterator[list[_Level]]:
    """Disks that follow each other without a branch, leaf first (operations/forest.py).

    Each disk is in one run at most, also where links and numbers of children do not agree: a
    catalog between two scans may know of disks that lead to each other.
    """
    taken: set[int] = set()
    for leaf in levels.values():
        if leaf.child_count == 1:
            continue
        run = [leaf]
        below = levels.get(leaf.parent or 0)
        while below is not None and below.child_count == 1 and below.pk not in taken:
            taken.add(below.pk)
            run.append(below)
            below = levels.get(below.parent or 0)
        yield run


def survey(root: StorageRoot, folder: str) -> tuple[Survey, dict[str, Disk]]:
    """What a folder of a root holds, as of the last scans; the disks by their host paths."""
    inside = list(_rows(Disk.objects.filter(root=root, missing_since=None), folder))
    bases = {disk.chain_base_id or disk.pk for disk in inside if _is_in_a_chain(disk)}
    disks = {disk.path: disk for disk in (*_hanging_on(bases), *inside)}
    place = os.path.join(root.path, folder) if folder else root.path
    sound = {path: disk for path, disk in disks.items() if disk.identity}
    members = _members(sound.values(), lambda disk: is_inside(disk.path, place))
    mute = [disk for disk in inside if not disk.identity]
    no_disks = [disk for disk in mute if disk.own_health == Disk.Health.NOT_A_DISK]
    return (
        Survey(
            place,
            Forest(members),
            [_as_error(disk) for disk in no_disks],
            [_as_error(disk) for disk in mute if disk.own_health != Disk.Health.NOT_A_DISK],
        ),
        disks,
    )


def _rows(disks: QuerySet[Disk], folder: str) -> QuerySet[Disk]:
    """Those in a folder and below, with what a Member needs."""
    if folder:
        disks = disks.filter(relative_path__startswith=to_column(f"{folder}/"))
    return disks.select_related("root", "parent_link__parent__root").defer(*_HEAVY)


def _is_in_a_chain(disk: Disk) -> bool:
    return disk.disk_type == "differencing" or disk.child_count > 0


def _folder(disk: Disk) -> str:
    return os.path.dirname(disk.relative_path)


def _hanging_on(bases: Iterable[int]) -> Iterator[Disk]:
    """These disks and everything that stands on them."""
    numbers = sorted(bases)
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        connected = Disk.objects.filter(Q(pk__in=some) | Q(chain_base__in=some))
        yield from _rows(connected.filter(missing_since=None), "")


def _members(disks: Iterable[Disk], inside: Callable[[Disk], bool]) -> list[Member]:
    return [
        Member(
            path=disk.path,
            identity=disk.identity,
            disk_type=disk.disk_type,
            virtual_size_bytes=disk.virtual_size_bytes or 0,
            file_size_bytes=disk.file_size_bytes,
            allocated_bytes=disk.allocated_bytes,
            mtime_ns=disk.mtime_ns or 0,
            inside=inside(disk),
            parent=_parent(disk),
            lost=_lost(disk),
        )
        for disk in disks
    ]


def _parent(disk: Disk) -> str | None:
    link: ParentLink | None = getattr(disk, "parent_link", None)
    joined = link is not None and link.status in JOINING and link.parent is not None
    return link.parent.path if joined and link is not None and link.parent is not None else None


def _lost(disk: Disk) -> Lost | None:
    if disk.disk_type != "differencing" or _parent(disk) is not None:
        return None
    link: ParentLink | None = getattr(disk, "parent_link", None)
    if link is None:
        return Lost("E_PARENT_MISSING", "Its parent was not looked for yet: its root needs a scan.")
    code = disk.health_code if disk.health_code.startswith("E_") else "E_PARENT_MISSING"
    return Lost(code, link.reason)


def _as_error(disk: Disk) -> ImageError:
    return ImageError(disk.health_code or "E_NO_FOOTER", disk.sentence, file=disk.path)
