"""Parent links in the catalog: what each child's header leads to, and why not.

Runs after files were read, for those links that a change can have touched. Three steps,
each over sets of rows: resolve the links, renew the chain columns, judge the disks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, cast

from django.db import transaction
from django.utils import timezone

from disks.engine.images import Image, ParentReference
from disks.engine.resolution import Resolution, resolve
from disks.models import Disk, ParentLink, StorageRoot
from disks.services import chains, evidence, roots, twins, verdicts
from disks.services.bulk import insert_rows, update_rows
from disks.services.chains import Graph
from disks.services.places import CatalogPlaces, Index
from disks.services.reading import clean, stored_reference
from disks.services.stored_json import readable

Status = ParentLink.Status
_CHUNK = 2_000

_TITLES = {
    Status.MISSING: "The parent is missing",
    Status.IN_USE: "The parent is in use",
    Status.IDENTITY_MISMATCH: "Another disk is in the parent's place",
    Status.AMBIGUOUS: "Several disks could be the parent",
    Status.OUTSIDE_ROOTS: "The parent is out of reach",
    Status.UNREADABLE: "The parent cannot be read",
    Status.CYCLE: "The chain is a circle",
}
UNREACHABLE = (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED)
# What a child's header says; the order in which Link has them.
LINK_COLUMNS = [
    "named_identity", "named_path", "named_name", "name_problem", "named_timestamp", "locators",
]  # fmt: skip
_COLUMNS = [
    "status",
    "parent",
    "trace",
    "reason",
    "cause",
    "suggested",
    "parent_written_after",
    "parent_evidence",
]


@dataclass
class Touched:
    """What a scan or a job changed: disks by row, and the identities that came or went."""

    disks: set[int] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)
    # Our own job rewrote these; their content is proven to be unchanged.
    rewritten: set[int] = field(default_factory=set)
    # Children that have no link row yet: what their headers say (LINK_COLUMNS).
    new_links: dict[int, dict[str, Any]] = field(default_factory=dict)

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
    graph = Graph.load()
    graph = _cut_circles(graph)
    around = set(touched.disks) | set(wanted) | before
    chains.renew_columns(around, graph)
    verdicts.renew(around, graph)
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
    places = CatalogPlaces(roots.operation_roots().roots, index)
    total = len(children) + len(touched.new_links)
    done = 0
    try:
        for links in (*_new(touched), *_stored(children)):
            before = [_resolve_one(link, places, index) for link in links]
            evidence.renew(links, before, touched.rewritten)
            with transaction.atomic():
                _write(links)
            done += len(links)
            if report is not None:
                report(done, total)
    finally:
        places.close()
    return done


def _write(links: list[Link]) -> None:
    now = timezone.now()
    insert_rows(
        ParentLink,
        ["child", "first_seen_at", *LINK_COLUMNS, *_COLUMNS],
        [
            (link.child_id, now, *(getattr(link, name) for name in LINK_COLUMNS), *_values(link))
            for link in links
            if not link.pk
        ],
    )
    update_rows(ParentLink, _COLUMNS, [(link.pk, *_values(link)) for link in links if link.pk])


def _values(link: Link) -> tuple[Any, ...]:
    return (
        link.status,
        link.parent_id,
        link.trace,
        link.reason,
        link.cause,
        link.suggested_id,
        link.parent_written_after,
        link.parent_evidence,
    )


@dataclass(slots=True)
class Link:
    """A row of ParentLink with what resolving needs of its child."""

    pk: int  # 0: not stored yet
    child_id: int
    status: str
    parent_id: int | None
    trace: list[dict[str, Any]]
    reason: str
    cause: str
    suggested_id: int | None
    parent_written_after: bool
    parent_evidence: dict[str, Any]
    named_identity: str
    named_path: str
    named_name: str
    name_problem: str
    named_timestamp: datetime | None
    locators: list[dict[str, Any]]
    child_relative: str
    child_identity: str
    child_virtual_disk_id: str
    child_device: int | None
    child_inode: int | None
    child_missing_since: datetime | None
    root_path: str
    parent_root_state: str | None
    written_since_id: int | None = None  # where the parent lies with other content; not a column


_LINK_FIELDS = (
    "pk", "child_id", "status", "parent_id", "trace", "reason", "cause", "suggested_id",
    "parent_written_after", "parent_evidence", "named_identity", "named_path", "named_name",
    "name_problem", "named_timestamp", "locators", "child__relative_path", "child__identity",
    "child__virtual_disk_id", "child__device", "child__inode", "child__missing_since",
    "child__root__path", "parent__root__state",
)  # fmt: skip


def _stored(children: Collection[int]) -> Iterator[list[Link]]:
    """Links that have rows, in portions."""
    ids = sorted(children)
    for start in range(0, len(ids), _CHUNK):
        rows = ParentLink.objects.filter(child__in=ids[start : start + _CHUNK])
        yield [Link(*row) for row in rows.values_list(*_LINK_FIELDS)]


def _new(touched: Touched) -> Iterator[list[Link]]:
    """Links that have no rows yet, in portions."""
    ids = sorted(touched.new_links)
    for start in range(0, len(ids), _CHUNK):
        rows = Disk.objects.filter(pk__in=ids[start : start + _CHUNK]).values_list(
            "pk", "relative_path", "identity", "virtual_disk_id", "device", "inode",
            "missing_since", "root__path",
        )  # fmt: skip
        links = []
        for pk, *child in rows:
            said = touched.new_links[pk]
            values: list[Any] = [0, pk, str(Status.MISSING), None, [], "", "", None, False, {}]
            values += [*(said[name] for name in LINK_COLUMNS), *child, None]
            links.append(Link(*values))
        yield links


@dataclass(slots=True)
class _CataloguedFile:
    """Stands in for the child's open file: only its device and inode are asked for."""

    st_dev: int
    st_ino: int

    def stat(self) -> _CataloguedFile:
        return self


@dataclass(slots=True)
class _CataloguedChild:
    """What resolving asks of a child image."""

    identity: str
    virtual_disk_id: str | None
    parent: ParentReference
    file: _CataloguedFile


def _resolve_one(link: Link, places: CatalogPlaces, index: Index) -> int | None:
    """Fill the link's columns in memory; returns the parent before, for the evidence."""
    before = link.parent_id
    if link.child_missing_since is not None:
        return before  # what a file that is gone said stays as it was
    if link.parent_root_state in UNREACHABLE:
        return before  # the root is offline, not the disk gone (bad-input 67)
    stand_in = _CataloguedChild(
        link.child_identity,
        link.child_virtual_disk_id or None,
        stored_reference(link),
        _CataloguedFile(link.child_device or 0, link.child_inode or 0),
    )
    path = os.path.join(link.root_path, link.child_relative)
    _apply(link, resolve(cast(Image, stand_in), path, places), index)
    return before


def _apply(link: Link, found: Resolution, index: Index) -> None:
    parent = index.by_path.get(found.path) if found.path else None
    suggested = index.by_path.get(found.suggested) if found.suggested else None
    link.status = str(found.status)
    link.parent_id = parent.pk if parent else None
    link.suggested_id = suggested.pk if suggested else None
    written = index.by_path.get(found.written_since) if found.written_since else None
    link.written_since_id = written.pk if written else None
    link.trace = clean([step.as_dict() for step in found.trace])
    link.reason = reason(found, link.root_path)
    link.cause = _cause(link.named_identity, found)
    if parent is not None and parent.own_health == Disk.Health.IN_USE:
        link.status = str(Status.IN_USE)


def reason(found: Resolution, root_path: str) -> str:
    """One sentence for people; paths below the child's own root are given from there."""
    text = readable(found.reason).replace(readable(root_path).rstrip("/") + "/", "")
    title = _TITLES.get(Status(str(found.status)))
    if found.status == Status.IDENTITY_MISMATCH and found.written_since is not None:
        title = "The parent is not as it was"
    if title is None or not text:
        return text
    return f"{title}: {text[0].lower()}{text[1:]}"


def _cause(identity: str, found: Resolution) -> str:
    """Links that one event broke share it: the same base gone, replaced, copied."""
    kinds = {
        Status.MISSING: "missing",
        Status.OUTSIDE_ROOTS: "outside",
        Status.IDENTITY_MISMATCH: "replaced",
        Status.AMBIGUOUS: "ambiguous",
        Status.UNREADABLE: "unreadable",
        Status.CYCLE: "cycle",
    }
    kind = kinds.get(Status(str(found.status)))
    if found.status == Status.IDENTITY_MISMATCH and found.written_since is not None:
        kind = "rewritten"
    return f"{kind}:{identity}" if kind else ""


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
    verdicts.renew(set(parents))
