"""What every job that writes asks first: may anything be written here, is it declared offline?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from disks.engine.errors import ImageError
from disks.models import Disk, StorageRoot
from disks.operations import fingerprints
from disks.operations.compact import CompactPlan
from disks.operations.concerned import UnreadDisks
from disks.operations.expand import ExpandPlan
from disks.operations.new_copy import CopyPlan
from disks.operations.relocation_plan import RelocationPlan
from disks.services.errors import Refusal
from disks.services.stored_json import readable, restored, storable

OFFLINE_STATES = (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED)


def roots_of(host_paths: Iterable[str]) -> list[StorageRoot]:
    """The roots that hold these paths, each once; longest path wins."""
    return next(roots_of_each([host_paths]))


def roots_of_each(groups: Iterable[Iterable[str]]) -> Iterator[list[StorageRoot]]:
    """The same for several groups of paths, with one query."""
    every = sorted(StorageRoot.objects.all(), key=lambda root: -len(root.path))
    for host_paths in groups:
        found: dict[int, StorageRoot] = {}
        for path in host_paths:
            for root in every:
                if path == root.path or path.startswith(root.path.rstrip("/") + "/"):
                    found[root.pk] = root
                    break
        yield list(found.values())


def require(host_paths: Iterable[str], *, declared_offline: bool) -> None:
    """Raises Refusal E_NOT_OFFLINE where somebody else opens these disks and nobody declared
    them offline; E_READ_ONLY, E_ROOT_OFFLINE where the root allows no write at all.
    """
    for root in roots_of(host_paths):
        if root.state in OFFLINE_STATES:
            raise Refusal(
                "E_ROOT_OFFLINE",
                f"The storage root {root.name} is offline: {root.state_reason}",
                "Mount the volume again, scan the root, then try again.",
            )
        if root.read_only:
            raise Refusal(
                "E_READ_ONLY",
                f"The storage root {root.name} is read-only in this console.",
                "An administrator can allow writing, after saying who opens its disks.",
            )
        if root.opened_by != StorageRoot.OpenedBy.NOBODY and not declared_offline:
            raise Refusal(
                "E_NOT_OFFLINE",
                f"The disks of {root.name} are opened by {root.get_opened_by_display()}, whose "
                "locks this console cannot see.",
                "Make sure that nobody has these disks open, then declare it.",
            )


LOG_WAITS = "Its log waits to be replayed: replay it first."


def require_chain(disk: Disk) -> None:
    """Raises Refusal with the disk's own verdict where its chain cannot be read."""
    if disk.health in (
        Disk.Health.BROKEN,
        Disk.Health.DAMAGED,
        Disk.Health.UNREADABLE,
        Disk.Health.NOT_A_DISK,
        Disk.Health.MISSING,
    ):
        advice = ""
        if disk.health == Disk.Health.BROKEN:
            advice = "Mend the chain first: update the parent path of the disk that is broken."
        raise Refusal(disk.health_code or "E_PARENT_MISSING", disk.sentence, advice)


def require_no_hidden_children(
    disks: Iterable[Disk], *, else_do: str = "merge to a new disk, which changes nothing"
) -> None:
    """bad-input 67: a child in a root that is offline now would be ruined unseen.

    else_do: the way out that needs no such root. Raises Refusal E_ROOT_OFFLINE, naming one.
    """
    identities = [disk.identity for disk in disks if disk.identity]
    hidden = (
        Disk.objects.filter(
            parent_link__named_identity__in=identities, root__state__in=OFFLINE_STATES
        )
        .select_related("root")
        .first()
    )
    if hidden is not None:
        raise Refusal(
            "E_ROOT_OFFLINE",
            f"{readable(hidden.name)} in the storage root {hidden.root.name} builds on one of "
            "these disks, and that root is offline: nobody can say what the child needs.",
            f"Bring the root back, or {else_do}.",
        )


def require_as_shown(
    planned: CopyPlan | CompactPlan | ExpandPlan | RelocationPlan,
    shown: Iterable[tuple[str, dict[str, Any]]],
) -> None:
    """What a job plans anew must be possible, over the very files that the person saw.

    shown: path and fingerprint of each, as the request stored them. Raises what the plan
    refuses, E_CHANGED.
    """
    if planned.refused is not None:
        raise planned.refused
    for path, seen in shown:
        if planned.fingerprint.get(path) != seen:
            raise fingerprints.changed(path)


def unread_files() -> list[str]:
    """Files and folders, as host paths, of which the catalog does not know what they name.

    Damaged disks, disks that could not be opened, and what the last scan of a root could not
    read besides. For the operations' `suspects`; they look again before they believe it.
    """
    rows = Disk.objects.filter(
        own_health__in=(Disk.Health.DAMAGED, Disk.Health.UNREADABLE, Disk.Health.IN_USE),
        missing_since=None,
    ).select_related("root")
    found = {disk.path for disk in rows}
    for root in StorageRoot.objects.only("path", "last_scan_result"):
        for relative in restored(root.last_scan_result.get("unread", [])):
            found.add(os.path.join(root.path, relative) if relative else root.path)
    return sorted(found)


@contextmanager
def unread_remembered() -> Iterator[None]:
    """What E_UNREAD_DISKS names is known afterwards, so that the form asks about it then."""
    try:
        yield
    except UnreadDisks as error:
        remember_unread(error.paths)
        raise


def remember_unread(host_paths: Iterable[str]) -> None:
    """Files and folders that turned out not to be readable between two scans."""
    from disks.services import roots

    for path in host_paths:
        root, relative = roots.locate(path)
        known = restored(root.last_scan_result.get("unread", []))
        if relative not in known:
            root.last_scan_result["unread"] = storable(sorted([*known, relative]))
            root.save(update_fields=["last_scan_result"])


def catalog_children(path: str) -> list[str]:
    """Disks that name the disk at this host path as parent, by identity, as the catalog knows.

    For the operations' `children_of`; they read the headers again before they believe it.
    """
    try:
        from disks.services import roots

        root, relative = roots.locate(path)
    except ImageError:
        return []
    identity = (
        Disk.objects.filter(root=root, relative_path=relative)
        .values_list("identity", flat=True)
        .first()
    )
    if not identity:
        return []
    rows = (
        Disk.objects.filter(parent_link__named_identity=identity, missing_since=None)
        .exclude(root__state__in=OFFLINE_STATES)
        .select_related("root")
    )
    return sorted(disk.path for disk in rows if disk.path != path)
