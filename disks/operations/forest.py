"""How disks hang together, worked out from what their headers say: runs, branches, and the rest.

Pure: it is given the disks with the parents that were found for them, and opens nothing.
Names and times order nothing here. They only help to guess which leaf a machine uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Lost:
    """Why a differencing disk has no parent here. suggested: a file with the right identity."""

    code: str
    reason: str
    suggested: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One disk. Sizes in bytes.

    inside     it lies in the folder that was asked about; else only something inside needs it
    parent     path of its parent, where that was found
    lost       why it was not found; None for a disk without a parent
    elsewhere  the parent was found by its identity alone: Windows would not find it there
    """

    path: str
    identity: str
    disk_type: str
    virtual_size_bytes: int
    file_size_bytes: int
    allocated_bytes: int
    mtime_ns: int
    inside: bool = True
    parent: str | None = None
    lost: Lost | None = None
    elsewhere: bool = False

    @property
    def is_differencing(self) -> bool:
        return self.parent is not None or self.lost is not None


@dataclass(frozen=True, slots=True)
class Run:
    """Disks that follow each other without a branch, in the order in which they are merged.

    paths  leaf first; each but the last is the only child of the one behind it
    above  disks that build on the first one: none, or several (or one outside the folder)
    """

    paths: tuple[str, ...]
    above: tuple[str, ...] = ()

    @property
    def leaf(self) -> str:
        return self.paths[0]

    @property
    def base(self) -> str:
        return self.paths[-1]

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Which disk is merged into which, first one first."""
        return list(zip(self.paths, self.paths[1:], strict=False))


@dataclass(frozen=True, slots=True)
class Branch:
    """A disk on which several build: none of them can be merged into it alone.

    leaves  the ends of all ways up from here, the one last written first
    twins   children that are one disk twice: copies, of which one is too many
    """

    parent: str
    children: tuple[str, ...]
    leaves: tuple[str, ...]
    twins: tuple[str, ...] = ()


class Forest:
    """The disks of a folder, with those outside that they need or that need them."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = {member.path: member for member in members}
        self.children: dict[str, list[str]] = {}
        for path in sorted(self.members):
            parent = self.parent_of(path)
            if parent is not None:
                self.children.setdefault(parent, []).append(path)

    def parent_of(self, path: str) -> str | None:
        """Its parent, if that is one of the disks here."""
        parent = self.members[path].parent
        return parent if parent is not None and parent in self.members else None

    def children_of(self, path: str) -> list[str]:
        return self.children.get(path, [])

    @cached_property
    def rings(self) -> list[tuple[str, ...]]:
        """Disks that lead to each other in a circle, each ring once, child before parent."""
        found: list[tuple[str, ...]] = []
        done: set[str] = set()
        for start in sorted(self.members):
            way: dict[str, int] = {}
            current: str | None = start
            while current is not None and current not in done and current not in way:
                way[current] = len(way)
                current = self.parent_of(current)
            if current is not None and current in way:
                found.append(tuple(list(way)[way[current] :]))
            done.update(way)
        return found

    @cached_property
    def levels(self) -> dict[str, int]:
        """How many disks lie below each one; those that hang on a ring are not in it."""
        depth = {path: 0 for path in self.members if self.parent_of(path) is None}
        waiting = list(depth)
        while waiting:
            current = waiting.pop()
            for child in self.children_of(current):
                depth[child] = depth[current] + 1
                waiting.append(child)
        return depth

    @cached_property
    def runs(self) -> list[Run]:
        """What can be merged: every way down without a branch, the highest one first.

        In this order they can be merged one after the other: none of them touches a disk
        that a later one merges.
        """
        found = []
        used: set[str] = set()
        inside = [path for path in self.levels if self.members[path].inside]
        for leaf in sorted(inside, key=lambda path: (-self.levels[path], path)):
            if leaf in used:
                continue
            way = list(self._way_down(leaf))
            used.update(way)
            if len(way) > 1:
                found.append(Run(tuple(way), tuple(self.children_of(leaf))))
        return found

    def _way_down(self, leaf: str) -> Iterator[str]:
        """leaf and the disks below it, as long as each is the only child of the next."""
        yield leaf
        current = self.parent_of(leaf)
        while current is not None and len(self.children_of(current)) == 1:
            yield current
            current = self.parent_of(current)

    @cached_property
    def branches(self) -> list[Branch]:
        """Disks with several children, as far as one of these disks lies in the folder."""
        found = []
        for parent, children in sorted(self.children.items()):
            concerned = any(self.members[path].inside for path in (parent, *children))
            if len(children) > 1 and concerned:
                found.append(
                    Branch(
                        parent,
                        tuple(children),
                        tuple(self.leaves_above(parent)),
                        tuple(self._same_disk(children)),
                    )
                )
        return found

    def leaves_above(self, path: str) -> list[str]:
        """The ends of all ways up from a disk, the one that was last written first."""
        leaves = []
        seen = {path}
        waiting = list(self.children_of(path))
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            further = self.children_of(current)
            waiting.extend(further)
            if not further:
                leaves.append(current)
        return sorted(leaves, key=lambda each: (-self.members[each].mtime_ns, each))

    def _same_disk(self, paths: Sequence[str]) -> list[str]:
        """Those that share their identity with another one of them."""
        times = Counter(self.members[path].identity for path in paths)
        return [path for path in paths if times[self.members[path].identity] > 1]

    @cached_property
    def twins(self) -> dict[str, list[str]]:
        """Other files with the same identity, by path; only disks that have some."""
        by_identity: dict[str, list[str]] = {}
        for path, member in sorted(self.members.items()):
            by_identity.setdefault(member.identity, []).append(path)
        return {
            path: [other for other in paths if other != path]
            for paths in by_identity.values()
            if len(paths) > 1
            for path in paths
        }

    @property
    def orphans(self) -> list[Member]:
        """Disks in the folder whose parent was not found."""
        return [one for _, one in sorted(self.members.items()) if one.inside and one.lost]

    @property
    def alone(self) -> list[Member]:
        """Disks in the folder that belong to no chain: no parent, and nothing builds on them."""
        return [
            member
            for path, member in sorted(self.members.items())
            if member.inside and not member.is_differencing and not self.children_of(path)
        ]

    @property
    def needed_outside(self) -> list[tuple[str, list[str]]]:
        """Disks in the folder on which disks outside of it build, with these."""
        found = []
        for path, children in sorted(self.children.items()):
            outside = [child for child in children if not self.members[child].inside]
            if outside and self.members[path].inside:
                found.append((path, outside))
        return found

    def newest(self, branch: Branch) -> str | None:
        """The leaf that was last written; None if two were written at the same time."""
        first, *others = branch.leaves
        if others and self.members[others[0]].mtime_ns == self.members[first].mtime_ns:
            return None
        return first
