"""Was a parent written after its child was first seen? (bad-input 58)

A differencing disk is only right over a parent that stays as it was. A VHD's identity does not
tell, for it survives writes; so each link remembers how its parent looked when the two were
first seen together, and compares. A VHDX gets another identity with the first write: while it
keeps its own, new headers or times are no sign of one, and when it has another, what was
remembered tells what happened to it. A merge in place that is half-way has written to disks
below its leaf, which reads as ever: nothing is said of those before it is finished.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Protocol

from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Disk, ParentLink
from disks.operations import journal, merge_in_place
from disks.operations.journal import Sidecar
from disks.operations.paths import Roots
from disks.services import roots
from disks.services.bulk import select_rows
from disks.services.stored_json import readable

_FIELDS = (
    "pk",
    "name",
    "mtime_ns",
    "file_size_bytes",
    "header_hash",
    "blocks_allocated",
    "inode",
    "device",
    "identity",
    "file_write_guid",
)


WRITTEN = "written"  # of a link's evidence: the parent is there, its content another one


class Watched(Protocol):
    """The columns of a link that this module looks at."""

    parent_id: int | None
    written_since_id: int | None
    parent_written_after: bool
    parent_evidence: dict[str, Any]


def renew(
    links: Sequence[Watched], before: Sequence[int | None], rewritten: Collection[int]
) -> None:
    """Compare the parents of freshly resolved links with what was first seen, in memory.

    before: the parent that each link had until now. One that found another starts anew.
    rewritten: parents whose headers our own job rewrote, content unchanged.
    """
    wanted = {
        pk for link in links for pk in (link.parent_id, link.written_since_id) if pk is not None
    }
    parents = {row[0]: row for row in select_rows(Disk, "pk", wanted, *_FIELDS[1:])}
    at = _now()
    seen = {pk: _seen(row, at) for pk, row in parents.items()}
    with closing(_HalfWay()) as half_way:
        for link, parent_before in zip(links, before, strict=True):
            link.parent_evidence.pop(WRITTEN, None)
            if link.written_since_id is not None and link.written_since_id in seen:
                _tell_written(link, link.written_since_id, seen[link.written_since_id])
                continue
            if link.parent_id is None or link.parent_id not in seen:
                continue  # what was seen before stays, for when the parent is found again
            now = seen[link.parent_id]
            first = link.parent_evidence.get("first")
            known_before = link.parent_evidence.get("parent", parent_before)
            if first is None or known_before != link.parent_id:
                link.parent_evidence = {"parent": link.parent_id, "first": now, "now": now}
                link.parent_written_after = False
            elif link.parent_id in rewritten and not link.parent_written_after:
                link.parent_evidence |= {"first": now, "now": now}
            else:
                changes = _changes(first, now)
                looks_written = changes and not link.parent_written_after
                if looks_written and half_way.may_have_written(link.parent_id):
                    continue
                _compare(link, parents[link.parent_id][1], first, now, changes)


class _HalfWay:
    """The merges in place that are half-way, looked for once in each folder that is asked of."""

    def __init__(self) -> None:
        self._asked: dict[int, bool] = {}
        self._records: dict[str, list[Sidecar]] = {}
        self._scope: Roots | None = None

    def close(self) -> None:
        if self._scope is not None:
            self._scope.close()

    def may_have_written(self, parent_id: int) -> bool:
        """Whether one of them may be who has written to this disk."""
        if parent_id not in self._asked:
            self._scope = self._scope or roots.operation_roots()
            row = Disk.objects.filter(pk=parent_id).values_list("root__path", "relative_path")
            try:
                self._asked[parent_id] = self._is_by_one(self._scope, os.path.join(*row.get()))
            except ImageError:
                self._asked[parent_id] = False  # what cannot be read excuses nothing
        return self._asked[parent_id]

    def _is_by_one(self, scope: Roots, path: str) -> bool:
        folder = os.path.dirname(path)
        if folder not in self._records:
            found = journal.sidecars_in(scope, folder, finished_too=False)
            self._records[folder] = [one for _, one in found if isinstance(one, Sidecar)]
        named = (one for one in self._records[folder] if one.unfinished and one.names(path))
        merges = (merge_in_place.to_go_on_with(scope, one) for one in named)
        return any(
            merge is not None and merge_in_place.may_have_written(scope, merge, path)
            for merge in merges
        )


def trust(link: ParentLink) -> None:
    """Take the parent as it is now: somebody who knows has looked."""
    parent = link.parent
    if parent is None:
        return
    now = _seen(Disk.objects.filter(pk=parent.pk).values_list(*_FIELDS).get(), _now())
    link.parent_evidence = {"parent": parent.pk, "first": now, "now": now}
    link.parent_written_after = False
    link.save(update_fields=["parent_evidence", "parent_written_after"])


def _now() -> str:
    return timezone.now().isoformat(timespec="seconds")


def _seen(row: Sequence[Any], at: str) -> dict[str, Any]:
    """How a parent (_FIELDS) looks."""
    _, _, mtime_ns, size_bytes, header_hash, blocks_allocated, inode, device, *rest = row
    identity, file_write_guid = rest
    return {
        "mtime_ns": mtime_ns,
        "size_bytes": size_bytes,
        "header_hash": header_hash,
        "blocks_allocated": blocks_allocated,
        "file": [device, inode],
        "identity": identity,
        "file_write_guid": file_write_guid,
        "at": at,
    }


def _compare(
    link: Watched, name: str, first: dict[str, Any], now: dict[str, Any], changes: list[str]
) -> None:
    link.parent_evidence = link.parent_evidence | {"now": now, "changes": changes}
    if changes:
        link.parent_written_after = True
        link.parent_evidence["sentence"] = (
            f"The parent {readable(name)} was written after this disk was first seen: "
            f"{'; '.join(changes)}. What this disk holds may no longer fit to it."
        )
    elif link.parent_written_after and first == {key: now[key] for key in first} | _at(first):
        # The old file was put back, byte for byte as far as can be seen.
        link.parent_written_after = False
        link.parent_evidence.pop("sentence", None)


def _at(seen: dict[str, Any]) -> dict[str, Any]:
    return {"at": seen["at"]}


def _tell_written(link: Watched, parent: int, now: dict[str, Any]) -> None:
    """The parent lies where it should, and has another identity: what is known about that."""
    told: dict[str, Any] = {"disk": parent, "now": now, "changes": []}
    first = link.parent_evidence.get("first")
    if first is not None and link.parent_evidence.get("parent") == parent:
        told |= {"first": first, "changes": _changes(first, now)}
    link.parent_evidence[WRITTEN] = told


def _changes(first: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What speaks for a write, in words. A copy with new times alone is no sign of one."""
    found = []
    if now["file_write_guid"]:
        if first.get("identity") == now["identity"]:
            return _grown(first, now)
        found.append(f"its DataWriteGuid was {first.get('identity')} and is {now['identity']} now")
    if first["size_bytes"] != now["size_bytes"]:
        found.append(f"it had {first['size_bytes']:,} bytes and has {now['size_bytes']:,} now")
    if first["blocks_allocated"] != now["blocks_allocated"]:
        found.append(_blocks(first, now))
    if first["header_hash"] != now["header_hash"] and not now["file_write_guid"]:
        found.append("its headers changed")
    same_file = first["file"][1] == now["file"][1]
    if same_file and first["mtime_ns"] != now["mtime_ns"]:
        was, is_now = _when(first["mtime_ns"]), _when(now["mtime_ns"])
        found.append(f"it was last written {is_now}, not {was}")
    return found


def _grown(first: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Compacting drops blocks and keeps the content; blocks that came must hold something new."""
    came = (now["blocks_allocated"] or 0) > (first["blocks_allocated"] or 0)
    return [f"{_blocks(first, now)}, under the same DataWriteGuid"] if came else []


def _blocks(first: dict[str, Any], now: dict[str, Any]) -> str:
    return (
        f"it had {first['blocks_allocated'] or 0:,} allocated blocks and has "
        f"{now['blocks_allocated'] or 0:,} now"
    )


def _when(mtime_ns: int | None) -> str:
    if mtime_ns is None:
        return "at an unknown time"
    return f"{datetime.fromtimestamp(mtime_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S} UTC"
