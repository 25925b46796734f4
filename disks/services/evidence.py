"""Was a parent written after its child was first seen? (bad-input 58)

A differencing disk is only right over a parent that stays as it was. Identities do not
tell: a VHD keeps its identity when it is written. So each link remembers how its parent
looked when the two were first seen together, and compares.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from django.utils import timezone

from disks.models import Disk, ParentLink
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
)


class Watched(Protocol):
    """The columns of a link that this module looks at."""

    parent_id: int | None
    parent_written_after: bool
    parent_evidence: dict[str, Any]


def renew(
    links: Sequence[Watched], before: Sequence[int | None], rewritten: Collection[int]
) -> None:
    """Compare the parents of freshly resolved links with what was first seen, in memory.

    before: the parent that each link had until now. One that found another starts anew.
    rewritten: parents whose headers our own job rewrote, content unchanged.
    """
    wanted = {link.parent_id for link in links if link.parent_id is not None}
    parents = {row[0]: row for row in select_rows(Disk, "pk", wanted, *_FIELDS[1:])}
    at = _now()
    seen = {pk: _seen(row, at) for pk, row in parents.items()}
    for link, parent_before in zip(links, before, strict=True):
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
            _compare(link, parents[link.parent_id][1], first, now)


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
    _, _, mtime_ns, size_bytes, header_hash, blocks_allocated, inode, device = row
    return {
        "mtime_ns": mtime_ns,
        "size_bytes": size_bytes,
        "header_hash": header_hash,
        "blocks_allocated": blocks_allocated,
        "file": [device, inode],
        "at": at,
    }


def _compare(link: Watched, name: str, first: dict[str, Any], now: dict[str, Any]) -> None:
    changes = _changes(first, now)
    link.parent_evidence = link.parent_evidence | {"now": now, "changes": changes}
    if changes:
        link.parent_written_after = True
        link.parent_evidence["sentence"] = (
            f"The parent {readable(name)} was written after this disk was first seen: "
            f"{'; '.join(changes)}. What this disk holds may no longer fit to it."
        )
    elif link.parent_written_after and first == now | {"at": first["at"]}:
        # The old file was put back, byte for byte as far as can be seen.
        link.parent_written_after = False
        link.parent_evidence.pop("sentence", None)


def _changes(first: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What speaks for a write, in words. A copy with new times alone is no sign of one."""
    found = []
    if first["size_bytes"] != now["size_bytes"]:
        found.append(f"it had {first['size_bytes']:,} bytes and has {now['size_bytes']:,} now")
    if first["blocks_allocated"] != now["blocks_allocated"]:
        found.append(
            f"it had {first['blocks_allocated'] or 0:,} allocated blocks and has "
            f"{now['blocks_allocated'] or 0:,} now"
        )
    if first["header_hash"] != now["header_hash"]:
        found.append("its headers changed")
    same_file = first["file"][1] == now["file"][1]
    if same_file and first["mtime_ns"] != now["mtime_ns"]:
        was, is_now = _when(first["mtime_ns"]), _when(now["mtime_ns"])
        found.append(f"it was last written {is_now}, not {was}")
    return found


def _when(mtime_ns: int | None) -> str:
    if mtime_ns is None:
        return "at an unknown time"
    return f"{datetime.fromtimestamp(mtime_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S} UTC"
