"""Choosing a parent: candidates from the catalog and the files, and paths that somebody typed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from django.db.models import Q

from disks.engine.errors import ImageError
from disks.models import Disk, ParentLink
from disks.operations import candidates
from disks.operations.candidates import Candidate
from disks.services import chains, declarations, roots
from disks.services.errors import Refusal
from disks.services.stored_json import readable

_OTHERS_OFFERED = 40


def candidates_for(child: Disk) -> list[Candidate]:
    """Possible parents, best first: the identity first, each with its reasons.

    Read from the files now; only those that the catalog says may be worth it. Raises
    ImageError where the child cannot be read.
    """
    link: ParentLink | None = getattr(child, "parent_link", None)
    if link is None:
        raise Refusal(
            "E_NOT_DIFFERENCING",
            f"{readable(child.name)} has no parent; only differencing disks have one.",
        )
    usable = (
        Disk.objects.filter(missing_since=None, format=child.format)
        .exclude(identity="")
        .exclude(root__state__in=declarations.OFFLINE_STATES)
        .exclude(pk=child.pk)
        .select_related("root")
        .defer("findings")
    )
    above = {disk.pk for disk in chains.descendants(child)}
    name = link.named_path.replace("\\", "/").rpartition("/")[2]
    others = usable.exclude(identity=link.named_identity).filter(
        Q(name__iexact=name)
        | (Q(virtual_disk_id=child.virtual_disk_id) & ~Q(virtual_disk_id=""))
        | Q(root=child.root, virtual_size_bytes=child.virtual_size_bytes)
        | Q(pk=link.suggested_id)
    )
    chosen = [*usable.filter(identity=link.named_identity), *others[:_OTHERS_OFFERED]]
    scope = roots.operation_roots()
    try:
        found = candidates.candidates(
            child.path, scope, [disk.path for disk in chosen if disk.pk not in above]
        )
    finally:
        scope.close()
    rows = {disk.path: disk for disk in chosen}
    return [
        replace(one, reasons=(*one.reasons, *_more(rows.get(one.path), child))) for one in found
    ]


def _more(row: Disk | None, child: Disk) -> Iterator[str]:
    """What the catalog adds to a candidate's reasons."""
    if row is None:
        return
    if row.root_id == child.root_id:
        yield "in the same root"
    if row.modified_at is not None:
        yield f"last written {row.modified_at:%Y-%m-%d %H:%M} UTC"
        if child.image_created_at and row.modified_at > child.image_created_at:
            yield "written after the child was made"
    if row.health in (Disk.Health.BROKEN, Disk.Health.DAMAGED):
        yield f"but: {row.sentence}"


def located(text: str) -> str:
    """A typed path, Windows or of this host, as a host path below a root.

    Raises Refusal E_NOT_FOUND, or E_OUTSIDE_ROOTS in the same words whatever lies there: nothing
    outside the roots is asked about, nor in folders of them that are left out.
    """
    with closing(roots.operation_roots()) as scope:
        try:
            found = [path for path in scope.from_windows(text) if scope.holds(path)]
        except ImageError:
            found = []  # no path at all, or one that climbs out
        for path in found:
            if scope.exists(path):
                return scope.actual(path)
        if found:
            root, relative = scope.locate(found[0])
            raise Refusal(
                "E_NOT_FOUND",
                f"There is no file {readable(relative)} in the storage root {root.label}.",
            )
    raise Refusal(
        "E_OUTSIDE_ROOTS",
        "This path is not below a storage root; the console looks only into its roots.",
        "An administrator can add a root, or tell a root how Windows sees it.",
    )
