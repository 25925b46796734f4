"""How each disk stands: its place in its chain and the verdict on it, told anew together.

Both are columns, so that lists need no tree query, and both change when something below or
above a disk changes; so they are renewed for whole chains, and only rows that differ are
written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from disks.models import Disk, ParentLink, StorageRoot
from disks.services.bulk import select_rows, update_rows
from disks.services.chains import Graph, places
from disks.services.verdicts import Link, Row, Verdict, judge

_COLUMNS = (
    "chain_position", "chain_depth", "chain_base", "child_count",
    "health", "health_code", "sentence",
)  # fmt: skip


def renew(disks: Iterable[int], graph: Graph | None = None) -> int:
    """Renew these disks and everything that is connected with them. Returns how many changed.

    A fixed number of queries per thousands of disks.
    """
    graph = graph or Graph.load()
    stands = places(graph, disks)
    roots = {root.pk: (root.name, root.state) for root in StorageRoot.objects.all()}
    rows: dict[int, Row] = {}
    before = {}
    for pk, root, name, own, missing_since, put_away_by, *columns in select_rows(
        Disk, "pk", stands, "root_id", "name", "own_health", "missing_since",
        "put_away_by_id", *_COLUMNS,
    ):  # fmt: skip
        position = stands[pk].position
        rows[pk] = Row(name, own, missing_since, put_away_by, position, *roots.get(root, ("", "")))
        before[pk] = tuple(columns)
    _add_findings(rows)
    links = _links(stands)
    verdicts = judge(rows, links, graph)
    changed = []
    for pk, verdict in verdicts.items():
        now = (*stands[pk], verdict.health, verdict.code, verdict.sentence)
        if now != before[pk]:
            changed.append((pk, *now))
    update_rows(Disk, _COLUMNS, sorted(changed))
    _write_causes(links, verdicts)
    return len(changed)


def _add_findings(rows: dict[int, Row]) -> None:
    """Most disks are healthy and have none that matter here."""
    troubled = {pk for pk, row in rows.items() if row.own != Disk.Health.HEALTHY}
    for pk, findings in select_rows(Disk, "pk", troubled, "findings"):
        rows[pk].findings = findings


def _links(children: Collection[int]) -> dict[int, Link]:
    rows = select_rows(
        ParentLink,
        "child_id",
        children,
        "status",
        "reason",
        "cause",
        "parent_written_after",
    )
    links = {child: Link(*columns) for child, *columns in rows}
    suspect = {child for child, link in links.items() if link.written_after}
    for child, evidence in select_rows(ParentLink, "child_id", suspect, "parent_evidence"):
        links[child].evidence = evidence
    return links


def _write_causes(links: dict[int, Link], verdicts: dict[int, Verdict]) -> None:
    """Which event makes a child unreadable; of sound links, the one further down its chain."""
    changed = {}
    for child, link in links.items():
        verdict = verdicts.get(child)
        if verdict is not None:
            cause = verdict.cause[:200] if verdict.health == Disk.Health.BROKEN else ""
            if cause != link.cause:
                changed[child] = cause
    rows = select_rows(ParentLink, "child_id", changed, "pk")
    update_rows(ParentLink, ["cause"], sorted((pk, changed[child]) for child, pk in rows))
