"""Parent links in the catalog: what each child's header leads to, and why not.

Runs after files were read, for those links that a change can have touched. Two steps, each
over sets of rows: resolve the links, then renew how the disks of their chains stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from disks.models import Disk, ParentLink, StorageRoot
from disks.services import evidence, standing, twins
from disks.services.bulk import insert_rows, select_rows, update_rows
from disks.services.chains import Graph
from disks.services.places import Index
from disks.services.reading import Named
from disks.services.resolving import Answer, Resolver
from disks.services.stored_json import readable

Status = ParentLink.Status
_PORTION = 2_000

# What a link has beside what its header says: an Answer, and evidence.
_EVIDENCE_COLUMNS = ("parent_written_after", "parent_evidence")
_TOLD_COLUMNS = (
    "status", "parent", "trace", "reason", "cause", "suggested", "unmapped_folder",
    *_EVIDENCE_COLUMNS,
)  # fmt: skip


@dataclass
class Touched:
    """What a scan or a job changed: disks by row, and the identities that came or went."""

    disks: set[int] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)
    # Our own job rewrote these; their content is proven to be unchanged.
    rewritten: set[int] = field(default_factory=set)
    # Children that have no link row yet: what their headers say.
    new_links: dict[int, Named] = field(default_factory=dict)

    def add(self, pk: int, *identities: str) -> None:
        self.disks.add(pk)
        self.identities.update(identity for identity in identities if identity)

    def __bool__(self) -> bool:
        return bool(self.disks or self.identities)


class _LinkKey(NamedTuple):
    child: int
    parent: int | None
    identity: str
    status: str


def renew(
    touched: Touched, *, everything: bool = False, report: Callable[[int, int], None] | None = None
) -> int:
    """Bring links, chains and verdicts up to date after a change. Returns links resolved.

    everything: resolve all links, after the roots themselves changed.
    """
    if not touched and not everything:
        return 0
    keys = [
        _LinkKey(*row)
        for row in ParentLink.objects.values_list(
            "child_id", "parent_id", "named_identity", "status"
        ).iterator(10_000)
    ]
    wanted = [key.child for key in keys if everything or _is_touched(key, touched)]
    before = {key.parent for key in keys if key.parent is not None and key.child in touched.disks}
    resolved = _resolve(wanted, touched, report)
    touched.new_links.clear()
    twins.renew(touched.identities, everything=everything)
    graph = _cut_circles(Graph.load())
    standing.renew(set(touched.disks) | set(wanted) | before, graph)
    return resolved


def resolve_all() -> int:
    """Resolve every link anew: a root was added or removed, or its Windows views changed."""
    return renew(Touched(), everything=True)


def _is_touched(key: _LinkKey, touched: Touched) -> bool:
    return (
        key.child in touched.disks
        or key.parent in touched.disks
        or key.identity in touched.identities
        # Whatever appeared may lie where a broken link leads to.
        or key.status != Status.FOUND
    )


def _resolve(
    children: Collection[int], touched: Touched, report: Callable[[int, int], None] | None
) -> int:
    if not children and not touched.new_links:
        return 0
    index = Index.load()
    resolver = Resolver(index)
    total = len(children) + len(touched.new_links)
    done = 0
    try:
        for links in _portions(children, touched, index):
            before = [link.parent_id for link in links]
            for link in links:
                child = index.by_key.get(link.child_id)
                # What a file that is gone said stays as it was; and a parent in a root that is
                # offline is not gone (bad-input 67).
                if child is not None and link.parent_id not in index.out_of_reach:
                    link.take(resolver.answer(child, link))
            evidence.renew(links, before, touched.rewritten)
            _write(links)
            done += len(links)
            if report is not None:
                report(done, total)
    finally:
        resolver.close()
    return done


@dataclass(slots=True)
class Link:
    """A row of ParentLink. pk None: not stored yet."""

    pk: int | None
    child_id: int
    named_identity: str
    named_path: str
    named_name: str
    name_problem: str
    named_timestamp: datetime | None
    locators: list[dict[str, Any]]
    parent_id: int | None = None
    parent_written_after: bool = False
    parent_evidence: dict[str, Any] = field(default_factory=dict)
    answer: Answer | None = None  # None: it was not looked for anew
    written_since_id: int | None = None  # where the parent lies with other content; not a column

    def take(self, answer: Answer) -> None:
        self.answer = answer
        self.parent_id = answer.parent_id
        self.written_since_id = answer.written_since_id


_STORED = (*Named._fields, "parent_id", *_EVIDENCE_COLUMNS)
_said = attrgetter("child_id", *Named._fields)
_evidence = attrgetter(*_EVIDENCE_COLUMNS)


def _portions(children: Collection[int], touched: Touched, index: Index) -> Iterator[list[Link]]:
    """Links that have no rows yet, then those that have."""
    # A child that somebody removed meanwhile gets none; one that is there again, later.
    ids = sorted(touched.new_links.keys() & index.by_key.keys())
    for start in range(0, len(ids), _PORTION):
        yield [
            Link(None, child, *touched.new_links[child]) for child in ids[start : start + _PORTION]
        ]
    rows = select_rows(ParentLink, "child_id", children, "pk", *_STORED)
    while stored := [Link(pk, child, *rest) for child, pk, *rest in islice(rows, _PORTION)]:
        yield stored


def _write(links: list[Link]) -> None:
    now = timezone.now()
    new, told, kept = [], [], []
    for link in links:
        if link.answer is None:
            kept.append((link.pk, *_evidence(link)))
        elif link.pk is None:
            new.append((*_said(link), *link.answer.columns, *_evidence(link), now))
        else:
            told.append((link.pk, *link.answer.columns, *_evidence(link)))
    with transaction.atomic():
        insert_rows(ParentLink, ["child", *Named._fields, *_TOLD_COLUMNS, "first_seen_at"], new)
        update_rows(ParentLink, _TOLD_COLUMNS, told)
        update_rows(ParentLink, _EVIDENCE_COLUMNS, kept)


def _cut_circles(graph: Graph) -> Graph:
    """Disks whose links lead in a ring have no base: their links are marked, not followed.

    bad-input 52: the ring is listed; nothing here depends on its length.
    """
    rings = list(_rings(graph))
    if not rings:
        return graph
    for ring in rings:
        names = dict(Disk.objects.filter(pk__in=ring[:10]).values_list("pk", "name"))
        shown = " → ".join(readable(names[pk]) for pk in ring[:10] if pk in names)
        more = f" → … ({len(ring)} disks)" if len(ring) > 10 else ""
        first = readable(names.get(ring[0], ""))
        ParentLink.objects.filter(child__in=ring).update(
            status=Status.CYCLE,
            parent=None,
            reason=f"The chain is a circle: {shown}{more} → {first}. "
            "None of these disks has a base.",
            cause=f"cycle:{min(ring)}",
        )
    return Graph.load()


def _rings(graph: Graph) -> Iterator[list[int]]:
    """Every ring once: child, its parent, its parent's parent …"""
    finished: set[int] = set()
    for start in graph.parent_of:
        path: list[int] = []
        on_path: dict[int, int] = {}
        current: int | None = start
        while current is not None and current not in finished and current not in on_path:
            on_path[current] = len(path)
            path.append(current)
            current = graph.parent_of.get(current)
        if current is not None and current in on_path:
            yield path[on_path[current] :]
        finished.update(path)


def root_changed_state(root: StorageRoot) -> None:
    """A root went offline or came back: what stands above its disks is judged anew."""
    parents = Disk.objects.filter(root=root, child_count__gt=0).values_list("pk", flat=True)
    standing.renew(set(parents))
