"""Copies with one identity: a note on each, so that nobody takes one for the other.

Backups, restores and snapshots are full of them; a path in a child's header decides which
one is meant, so they are no alarm (bad-input 56).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from django.db.models import Count

from disks.engine.findings import Finding, Level
from disks.models import Disk
from disks.services.bulk import select_rows, update_rows
from disks.services.stored_json import readable

CODE = "N_TWINS"
_SHOWN = 5


def renew(identities: Collection[str], *, everything: bool = False) -> int:
    """Put the note where two or more files have an identity, and take it away elsewhere.

    identities: those that came or went. Returns the number of rows changed.
    """
    groups = _groups(identities, everything)
    noted = Disk.objects.filter(findings__icontains=CODE).values_list("pk", "identity")
    stale = [
        pk
        for pk, identity in noted
        if (everything or identity in identities) and identity not in groups
    ]
    paths = {pk: path for rows in groups.values() for pk, path in rows}
    changed = []
    for pk, identity, findings in select_rows(Disk, "pk", {*paths, *stale}, "identity", "findings"):
        others = [path for twin, path in groups.get(identity, ()) if twin != pk]
        rows = [row for row in findings if row["code"] != CODE]
        if pk in paths and others:
            rows.append(_note(others))
        if rows != findings:
            changed.append((pk, rows))
    return update_rows(Disk, ["findings"], changed)


def _groups(identities: Collection[str], everything: bool) -> dict[str, list[tuple[int, str]]]:
    """Identities that several present files have, with row and path of each."""
    double = (
        Disk.objects.filter(missing_since=None)
        .exclude(identity="")
        .order_by()
        .values("identity")
        .annotate(files=Count("pk"))
        .filter(files__gt=1)
        .values_list("identity", flat=True)
    )
    wanted = [identity for identity in double if everything or identity in identities]
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for start in range(0, len(wanted), 5_000):
        rows = Disk.objects.filter(
            identity__in=wanted[start : start + 5_000], missing_since=None
        ).values_list("identity", "pk", "root__path", "relative_path")
        for identity, pk, root, relative in rows.order_by("root__path", "relative_path"):
            groups[identity].append((pk, os.path.join(root, relative)))
    return groups


def _note(others: list[str]) -> dict[str, Any]:
    count = len(others)
    shown = ", ".join(others[:_SHOWN]) + (", …" if count > _SHOWN else "")
    begin = "Another file has" if count == 1 else f"{count} other files have"
    finding = Finding(
        Level.NOTE,
        CODE,
        f"{begin} the same identity (a copy, a backup, a restore): {shown}. Whether the "
        "content is the same is not known.",
        "identity",
        None,
        count,
    )
    result: dict[str, Any] = readable(finding.as_dict())
    return result
