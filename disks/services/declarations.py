"""What every job that writes asks first: may anything be written here, is it declared offline?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from disks.engine.errors import ImageError
from disks.models import Disk, StorageRoot
from disks.operations import copying
from disks.operations.compact import CompactPlan
from disks.operations.expand import ExpandPlan
from disks.operations.new_copy import CopyPlan
from disks.services.errors import Refusal
from disks.services.stored_json import readable

OFFLINE_STATES = (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED)


def roots_of(host_paths: Iterable[str]) -> list[StorageRoot]:
    """The roots that hold these paths, each once; longest path wins."""
    every = sorted(StorageRoot.objects.all(), key=lambda root: -len(root.path))
    found: dict[int, StorageRoot] = {}
    for path in host_paths:
        for root in every:
            if path == root.path or path.startswith(root.path.rstrip("/") + "/"):
                found[root.pk] = root
                break
    return list(found.values())


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
    planned: CopyPlan | CompactPlan | ExpandPlan, shown: Iterable[tuple[str, dict[str, Any]]]
) -> None:
    """What a job plans anew must be possible, over the very files that the person saw.

    shown: path and fingerprint of each, as the request stored them. Raises what the plan
    refuses, E_CHANGED.
    """
    if planned.refused is not None:
        raise planned.refused
    for path, seen in shown:
        if planned.fingerprint.get(path) != seen:
            raise copying.changed(path, "was changed")


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
