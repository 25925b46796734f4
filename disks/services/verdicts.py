"""The verdict on each disk: one word, one code, one sentence, worst thing first.

A verdict has two parts: what the file alone is like (`own_health`, known from reading it)
and what its chain makes of it. A disk above a broken one is broken too, and says by whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from disks.engine.findings import Level
from disks.models import Disk, ParentLink, StorageRoot
from disks.services.chains import JOINING, Graph
from disks.services.stored_json import readable

Health = Disk.Health
Status = ParentLink.Status

NOTHING_WRONG = "Nothing is wrong with this disk."

# Told first: until the log is replayed nothing else can be mended.
LOG_WAITS = "W_LOG"

# Findings that come from the catalog, not from the file: replaced whenever links change.
CATALOG_CODES = ("N_TWINS", "W_PARENT_WRITTEN")

_LINK_CODES = {
    Status.MISSING: "E_PARENT_MISSING",
    Status.IDENTITY_MISMATCH: "E_PARENT_IDENTITY",
    Status.AMBIGUOUS: "E_PARENT_AMBIGUOUS",
    Status.OUTSIDE_ROOTS: "E_OUTSIDE_ROOTS",
    Status.UNREADABLE: "E_PARENT_UNREADABLE",
    Status.CYCLE: "E_CYCLE",
}
# A child cannot be read through a parent in one of these states.
_USELESS = (
    Health.DAMAGED,
    Health.UNREADABLE,
    Health.NOT_A_DISK,
    Health.MISSING,
)
# Which findings give the reason for a state; errors do for the others.
_TELLING_LEVELS: dict[str, Level] = {Health.NOTICE: Level.WARNING}


class Verdict(NamedTuple):
    health: str
    code: str
    sentence: str
    cause: str = ""  # groups disks that one event broke (causes.py)
    culprit: int | None = None  # the ancestor that is at fault, None: this disk itself
    why: str = ""  # the culprit's own sentence, where this one says more


def own_health(findings: Sequence[dict[str, Any]]) -> str:
    """The state of a readable file by its findings; a note changes nothing."""
    levels = {row["level"] for row in findings if row["code"] not in CATALOG_CODES}
    if Level.ERROR in levels:
        return Health.DAMAGED
    return Health.NOTICE if Level.WARNING in levels else Health.HEALTHY


def own_verdict(health: str, findings: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict on a disk that has no parent, from its own state."""
    if health == Health.HEALTHY:
        return Verdict(health, "", NOTHING_WRONG)
    level = _TELLING_LEVELS.get(health, Level.ERROR)
    for row in sorted(findings, key=lambda row: row["code"] != LOG_WAITS):
        if row["level"] == level and row["code"] not in CATALOG_CODES:
            return Verdict(health, row["code"], row["message"])
    return Verdict(health, "", Health(health).label + ".")


def missing_verdict(since: datetime, put_away_by: int | None = None) -> Verdict:
    if put_away_by is not None:
        return Verdict(
            Health.MISSING,
            "N_PUT_AWAY",
            f"Job {put_away_by} put this disk into the trash on {since:%Y-%m-%d %H:%M} UTC; it "
            "stays there until that is emptied.",
        )
    return Verdict(
        Health.MISSING,
        "E_NOT_FOUND",
        f"The file is gone: it was not there any more at the scan of {since:%Y-%m-%d %H:%M} UTC.",
    )


@dataclass(slots=True)
class Row:
    """What a verdict needs to know of a disk. findings: only if own is not healthy."""

    name: str
    own: str
    missing_since: datetime | None
    put_away_by: int | None
    position: int
    root: str
    root_state: str
    findings: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Link:
    """What a verdict needs to know of a child's link. evidence: only if written_after."""

    status: str
    reason: str
    cause: str
    written_after: bool
    evidence: dict[str, Any] = field(default_factory=dict)


def judge(rows: dict[int, Row], links: dict[int, Link], graph: Graph) -> dict[int, Verdict]:
    """The verdicts on whole chains; parents before children, without recursion."""
    verdicts: dict[int, Verdict] = {}
    for base in sorted({graph.base_of(pk) for pk in rows}):
        for pk in graph.walk_down(base):
            if pk in rows:
                verdicts[pk] = _judge(rows, links, graph, verdicts, pk)
    for pk in rows.keys() - verdicts.keys():
        verdicts[pk] = _judge(rows, links, graph, verdicts, pk)
    return verdicts


def _judge(
    rows: dict[int, Row],
    links: dict[int, Link],
    graph: Graph,
    verdicts: dict[int, Verdict],
    pk: int,
) -> Verdict:
    row = rows[pk]
    if row.missing_since is not None:
        return missing_verdict(row.missing_since, row.put_away_by)
    own = own_verdict(row.own, row.findings)
    if row.own not in (Health.HEALTHY, Health.NOTICE):
        return own
    link = links.get(pk)
    if link is None:
        return own
    if link.status not in JOINING:
        return Verdict(
            Health.BROKEN,
            _LINK_CODES.get(Status(link.status), "E_PARENT_MISSING"),
            link.reason + _log_first(row),
            link.cause,
        )
    parent = graph.parent_of.get(pk)
    below = verdicts.get(parent) if parent is not None else None
    if below is None or parent is None:
        if link.status == Status.IN_USE:
            return Verdict(Health.IN_USE, "E_IN_USE", link.reason)
        return own if row.own == Health.NOTICE else Verdict(own.health, "", _parent_found(link))
    return _judge_by_parent(rows, row, own, link, parent, below)


def _log_first(row: Row) -> str:
    if all(finding["code"] != LOG_WAITS for finding in row.findings):
        return ""
    return " Its log waits to be replayed; that comes first."


def _judge_by_parent(
    rows: dict[int, Row], row: Row, own: Verdict, link: Link, parent: int, below: Verdict
) -> Verdict:
    name = readable(rows[parent].name)
    culprit = below.culprit or parent
    culprit_name = readable(rows[culprit].name) if culprit in rows else name
    why = below.why or below.sentence
    if rows[parent].root_state in (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED):
        return Verdict(
            Health.BROKEN,
            "E_ROOT_OFFLINE",
            f"The parent {name} lies in the storage root {rows[parent].root}, which is offline.",
            f"offline:{rows[parent].root}",
            parent,
        )
    if below.health in _USELESS:
        kind = {
            Health.DAMAGED: "damaged",
            Health.UNREADABLE: "unreadable",
            Health.MISSING: "missing",
        }.get(Health(below.health), "no disk")
        return Verdict(
            Health.BROKEN,
            below.code or "E_PARENT_UNREADABLE",
            f"The parent {name} is {kind}: {below.sentence}",
            f"ancestor:{parent}",
            parent,
            below.sentence,
        )
    if below.health == Health.BROKEN:
        return Verdict(
            Health.BROKEN,
            below.code,
            f"The chain is broken further down, at {culprit_name}: {why}",
            below.cause,
            culprit,
            why,
        )
    if link.written_after:
        return Verdict(
            Health.SUSPECT,
            "W_PARENT_WRITTEN",
            link.evidence.get("sentence")
            or f"The parent {name} was written after this disk was first seen.",
        )
    if below.health == Health.SUSPECT:
        return Verdict(
            Health.SUSPECT,
            "W_PARENT_WRITTEN",
            f"Further down, a disk was written after its child was first seen: {why}",
            culprit=culprit,
            why=why,
        )
    if own.health == Health.NOTICE:
        return own
    if below.health == Health.IN_USE or link.status == Status.IN_USE:
        return Verdict(
            Health.HEALTHY, "", f"The parent {name} is in use by another program; it was not read."
        )
    count = "one disk" if row.position == 2 else f"{row.position - 1:,} disks"
    return Verdict(Health.HEALTHY, "", f"The chain is complete: it rests on {count}.")


def _parent_found(link: Link) -> str:
    return link.reason or "The parent was found."
