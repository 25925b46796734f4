"""Storage roots as the operations know them, and what the catalog says of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing

from disks.engine.errors import ImageError
from disks.models import Disk, StorageRoot
from disks.operations import paths
from disks.operations.storage_roots import Root
from disks.services import leases


def operation_roots(only: Iterable[StorageRoot] | None = None) -> paths.Roots:
    """All roots that are online, as the operations know them; identities by the catalog.

    only: these instead, whatever their state.
    """
    chosen = only
    if chosen is None:
        chosen = StorageRoot.objects.exclude(
            state__in=[StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED]
        ).prefetch_related("windows_views")
    return paths.Roots(
        [operation_root(root) for root in chosen],
        find_identity=find_identity,
        is_our_write=leases.was_ours_at,
    )


def operation_root(root: StorageRoot) -> Root:
    """One row as the operations know it."""
    views = sorted(root.windows_views.all(), key=lambda view: (not view.preferred, view.prefix))
    known = root.device is not None and root.inode is not None
    return Root(
        path=root.path,
        name=root.name,
        windows_views=tuple(view.prefix for view in views),
        read_only=root.read_only,
        excluded=tuple(root.excluded_folders),
        marker=root.marker,
        expected=(root.device, root.inode) if known else None,  # type: ignore[arg-type]
    )


def has_folder(root: StorageRoot, relative: str) -> bool:
    """Whether a folder is there below a root now."""
    with closing(operation_roots([root])) as scope:
        try:
            os.close(scope.open_folder(os.path.join(root.path, relative)))
        except ImageError:
            return False
    return True


def find_identity(identity: str) -> list[str]:
    """Where the catalog knows disks of this identity, for the operations' search."""
    rows = (
        Disk.objects.filter(identity=identity, missing_since=None)
        .exclude(root__state__in=[StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED])
        .values_list("root__path", "relative_path")
        .order_by("root__path", "relative_path")
    )
    return [os.path.join(root, relative) for root, relative in rows]


def locate(path: str) -> tuple[StorageRoot, str]:
    """The root that holds a host path, and the path below it. Raises E_OUTSIDE_ROOTS, E_NAME."""
    roots = list(StorageRoot.objects.all())
    found, relative = paths.Roots([Root(path=root.path) for root in roots]).locate(path)
    return next(root for root in roots if root.path == found.path), relative
