"""The record of a rewrite beside the disk: what stays of it, and what came before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from disks.engine.images import DiskType, Image
from disks.operations import journal
from disks.operations.journal import DONE, UNDO, Sidecar
from disks.operations.paths import Roots
from disks.operations.rewriting.kinds import LINK, help_text, kind_of

_MOST_EARLIER = 8


def finished(roots: Roots, sidecar: Sidecar, link_after: dict[str, Any]) -> None:
    """The header is as planned and checked: keep what an undo needs, forget the pages.

    After an undo the record of the update before the undone one comes back, if that is
    what made the link as it is again; else nothing is left to take back. After any other
    change the record of the last update comes back as it was: the link has not changed.
    """
    if kind_of(sidecar) != LINK:
        restore(roots, sidecar, sidecar.record.get("previous"))
        return
    if not sidecar.record["is_undo"]:
        record = sidecar.record | {"link_after": link_after, "pages": []}
        journal.write(roots, replace(sidecar, state=DONE, record=record))
        return
    undone = sidecar.record.get("previous")
    earlier = undone["record"].get("previous") if undone else None
    if earlier and same_link(earlier["record"].get("link_after"), link_after):
        record = earlier["record"] | {"link_after": link_after}
        restore(roots, sidecar, earlier | {"record": record})
    else:
        journal.remove(roots, sidecar)


def same_link(one: Any, other: Any) -> bool:
    """Whether two recorded links say the same, wherever in the file their strings lie."""
    return bool(one) and _without_places(one) == _without_places(other)


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key for key in value if not key.endswith(("_offset", "_space"))}
        return {key: _without_places(value[key]) for key in kept}
    if isinstance(value, list):
        return [_without_places(one) for one in value]
    return value


def link_of(image: Image) -> dict[str, Any]:
    """The recorded link; nothing for a disk that has none."""
    return image.recorded_link() if image.disk_type is DiskType.DIFFERENCING else {}


def previous_of(roots: Roots, path: str) -> Sidecar | None:
    found = journal.of(roots, path, UNDO)
    return found if found is not None and not found.unfinished else None


def without_pages(sidecar: Sidecar | None) -> dict[str, Any] | None:
    """An earlier, finished record inside the next one; the oldest of many are forgotten."""
    if sidecar is None:
        return None
    record = {**sidecar.record, "pages": []}
    level = record
    for _ in range(_MOST_EARLIER):
        if not level.get("previous"):
            break
        level = level["previous"]["record"]
    level["previous"] = None
    return {"job": sidecar.job, "token": sidecar.token, "record": record}


def require_readable(record: dict[str, Any]) -> None:
    """Raises one of journal.UNREADABLE unless all of a record is what a rewrite leaves.

    Before the disk is touched: what is found out half-way could not be taken back.
    """
    int(record.get("entry_bytes") or 0), int(record.get("visible_step") or 0)
    set(record["identities"] if record.get("logged") else record.get("identities", ()))
    hash(record.get("about"))
    earlier = record.get("previous")
    for _ in range(2):  # an undo brings back the one before the update that it undoes
        if earlier is not None:
            str(earlier["job"]), int(earlier["token"])
            earlier = dict(earlier["record"]).get("previous")


def restore(roots: Roots, sidecar: Sidecar, previous: dict[str, Any] | None) -> None:
    if previous is None:
        journal.remove(roots, sidecar)
        return
    journal.write(
        roots,
        replace(
            sidecar,
            state=DONE,
            help=help_text(sidecar.disk, LINK, logged=bool(previous["record"].get("logged"))),
            job=str(previous["job"]),
            token=int(previous["token"]),
            record=previous["record"],
        ),
    )
