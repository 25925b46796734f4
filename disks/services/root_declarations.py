"""Declaring storage roots: added, changed, removed, tried out.

A root is declared by the settings, on the command line, or by an administrator in the
browser below the folders that the settings allow. A new one is read-only until an
administrator has said who opens its disks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import time
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q

from disks.engine.errors import ImageError
from disks.models import Job, StorageRoot, WindowsView
from disks.operations import paths, probing
from disks.operations.storage_roots import Root, parsed_view
from disks.services import audit, hours, root_state, timing
from disks.services.errors import Refusal

# Folders of the system itself: declaring one is a mistake, never a wish.
_NEVER = ("/", "/proc", "/sys", "/dev", "/run", "/boot", "/etc", "/usr", "/bin", "/sbin", "/lib")
_NEVER_BELOW = ("/proc/", "/sys/", "/dev/")


def allowed_folders() -> list[str]:
    """Folders below which the browser may declare roots; set by VDADMIN_ROOTS_BELOW."""
    return list(settings.ROOTS_BELOW)


@dataclass(frozen=True)
class Declaration:
    """What an administrator says about a root; None leaves a value as it is."""

    name: str | None = None
    opened_by: str | None = None
    read_only: bool | None = None
    windows_views: Sequence[str] | None = None  # the first is preferred
    excluded_folders: Sequence[str] | None = None
    scan_every_minutes: int | None = None
    limit_bytes_per_second: int | None = None  # of all jobs together; 0: no limit
    jobs_at_once: int | None = None  # that move data; 0: no limit
    hours: str | None = None  # in which long jobs run, like 22:00-06:00; "": always


def declare(
    *,
    path: str,
    declared_by: str,
    user: Any = None,
    says: Declaration | None = None,
    address: str = "",
) -> StorageRoot:
    """Add a root and try it out.

    Raises Refusal: E_ROOT_PATH (no folder, a folder of the system, not below an allowed
    one), E_ROOT_EXISTS, E_NAME for a Windows view that is none.
    """
    says = says or Declaration()
    path = _checked_path(path, declared_by)
    if StorageRoot.objects.filter(path=path).exists():
        raise Refusal("E_ROOT_EXISTS", f"{path} is a storage root already.")
    name = _free_name(says.name or os.path.basename(path) or "root", fixed=bool(says.name))
    status = os.stat(path)
    with transaction.atomic():
        try:
            root = StorageRoot.objects.create(
                name=name,
                path=path,
                declared_by=declared_by,
                device=status.st_dev,
                inode=status.st_ino,
            )
        except IntegrityError as error:
            raise Refusal("E_ROOT_EXISTS", f"{path} is a storage root already.") from error
        _apply(root, says)
        audit.record(
            user=user,
            action="root-add",
            sentence=f"Added the storage root {root.name}: {root.path}.",
            path=root.path,
            after=as_dict(root),
            address=address,
        )
    root_state.probe(root)
    root_state.require_marker(root)
    return root


def change(
    root: StorageRoot, *, says: Declaration, user: Any = None, address: str = ""
) -> StorageRoot:
    """Change what is said about a root; audited with before and after.

    Raises Refusal E_NAME, E_ROOT_EXISTS, E_READ_ONLY (the storage itself refuses writes).
    """
    before = as_dict(root)
    if says.read_only is False and root.read_only and not root_state.probe(root).get("writable"):
        raise Refusal(
            "E_READ_ONLY",
            f"Nothing can be written in {root.path}, so the root stays read-only.",
            "Give this service the right to write there, then try again.",
        )
    with transaction.atomic():
        _apply(root, says)
        after = as_dict(root)
        if after["hours"] != before["hours"]:
            timing.hours_changed(root)
        if after != before:
            audit.record(
                user=user,
                action="root-change",
                sentence=f"Changed the storage root {root.name}.",
                path=root.path,
                before=before,
                after=after,
                address=address,
            )
    root_state.require_marker(root)
    return root


def remove(root: StorageRoot, *, user: Any = None, address: str = "") -> None:
    """Forget a root and its catalog rows; no file is touched. bad-input 80: not under a job."""
    busy = (
        Job.objects.filter(status__in=Job.OPEN)
        .filter(
            Q(root=root)
            | Q(disk__root=root)
            | Q(locks__path=root.path)
            | Q(locks__path__startswith=root.path + "/")
        )
        .first()
    )
    if busy:
        raise Refusal(
            "E_ROOT_BUSY",
            f"Job {busy.pk} ({busy.get_kind_display()}) works in {root.name}, "
            "so the root is not removed now.",
            "Wait until it ends, or cancel it.",
        )
    with transaction.atomic():
        audit.record(
            user=user,
            action="root-remove",
            sentence=f"Removed the storage root {root.name}; its files stay where they are.",
            path=root.path,
            before=as_dict(root),
            address=address,
        )
        root.delete()
    from disks.services import linking

    linking.resolve_all()


def accept(root: StorageRoot, *, user: Any = None, address: str = "") -> StorageRoot:
    """Take the folder as it is now for this root: after a restore, or a move of the volume."""
    try:
        status = os.stat(root.path)
    except OSError as error:
        raise Refusal("E_ROOT_OFFLINE", f"{root.path} cannot be opened: {error.strerror}.") from (
            error
        )
    with transaction.atomic():
        root.device, root.inode, root.marker = status.st_dev, status.st_ino, ""
        root.state, root.state_reason = StorageRoot.State.ONLINE, ""
        root.save(update_fields=["device", "inode", "marker", "state", "state_reason"])
        audit.record(
            user=user,
            action="root-accept",
            sentence=f"Accepted the folder that is now at {root.path} as root {root.name}.",
            path=root.path,
            address=address,
        )
    root_state.require_marker(root)
    return root


def sync_from_settings() -> list[StorageRoot]:
    """Declare what VDADMIN_STORAGE_ROOTS names and bring its rows in step with it.

    A folder that is not there yet (a volume that mounts later) is taken as an offline root.
    Roots that the setting no longer names stay; removing is a deliberate act.
    """
    synced = []
    for row in settings.STORAGE_ROOTS:
        says = Declaration(
            name=row["name"],
            opened_by=row.get("opened_by"),
            read_only=row.get("read_only"),
            windows_views=row.get("windows_views"),
            excluded_folders=row.get("excluded_folders"),
            scan_every_minutes=row.get("scan_every_minutes"),
            limit_bytes_per_second=row.get("limit_bytes_per_second"),
            jobs_at_once=row.get("jobs_at_once"),
            hours=row.get("hours"),
        )
        path = os.path.normpath(row["path"])
        known = StorageRoot.objects.filter(path=path).first()
        if known is not None:
            synced.append(change(known, says=says))
        elif os.path.isdir(path):
            synced.append(
                declare(path=path, declared_by=StorageRoot.DeclaredBy.SETTINGS, says=says)
            )
        else:
            root = StorageRoot.objects.create(
                name=row["name"],
                path=path,
                declared_by=StorageRoot.DeclaredBy.SETTINGS,
                state=StorageRoot.State.OFFLINE,
                state_reason="The folder is not there.",
            )
            _apply(root, says)
            synced.append(root)
    return synced


def as_dict(root: StorageRoot) -> dict[str, Any]:
    """What was declared, for the audit and `root list --json`."""
    views = root.windows_views.order_by("-preferred", "prefix")
    return {
        "name": root.name,
        "path": root.path,
        "opened_by": str(root.opened_by),
        "read_only": root.read_only,
        "windows_views": [view.prefix for view in views],
        "excluded_folders": list(root.excluded_folders),
        "scan_every_minutes": root.scan_every_minutes,
        "limit_bytes_per_second": root.limit_bytes_per_second,
        "jobs_at_once": root.jobs_at_once,
        "hours": root.hours.replace("–", "-"),
    }


def decides_links(root: StorageRoot) -> tuple[list[str], list[str]]:
    """What of a root decides where parent paths lead; after a change, a scan follows it."""
    said = as_dict(root)
    return said["windows_views"], said["excluded_folders"]


def try_out(path: str) -> dict[str, Any]:
    """What a folder that is no root yet can do, for the form in the browser.

    Raises Refusal E_ROOT_PATH for a folder that could not be declared there.
    """
    path = _checked_path(path, StorageRoot.DeclaredBy.BROWSER)
    return probing.probe(paths.Roots([Root(path=path)]), path).as_dict()


def _checked_path(path: str, declared_by: str) -> str:
    if "\0" in path or not os.path.isabs(path):
        raise Refusal("E_ROOT_PATH", "A storage root needs a full path, like /srv/vms.")
    normal = "/" + os.path.normpath(path).lstrip("/")
    if declared_by == StorageRoot.DeclaredBy.BROWSER:
        return _below_allowed(normal)
    if normal in _NEVER or normal.startswith(_NEVER_BELOW):
        raise Refusal("E_ROOT_PATH", f"{normal} belongs to the system; it cannot hold disks.")
    real = os.path.realpath(normal)
    if not os.path.isdir(real):
        raise Refusal("E_ROOT_PATH", f"{normal} is no folder.")
    return real


def _below_allowed(path: str) -> str:
    """Opened below the allowed folder alone; says nothing about what lies elsewhere."""
    allowed = paths.Roots([Root(path=folder) for folder in allowed_folders()])
    try:
        os.close(allowed.open_folder(path))
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            raise Refusal("E_ROOT_PATH", f"There is no folder {path}.") from error
        names = ", ".join(allowed_folders()) or "none, so roots are added on the command line"
        raise Refusal(
            "E_ROOT_PATH",
            "In the browser a storage root can only be a folder below the allowed ones.",
            f"Allowed: {names}. The setting VDADMIN_ROOTS_BELOW names them.",
        ) from error
    return path


def _free_name(name: str, *, fixed: bool) -> str:
    name = name.strip()[:80]
    if not name:
        raise Refusal("E_NAME", "A storage root needs a name.")
    taken = set(StorageRoot.objects.values_list("name", flat=True))
    if name not in taken:
        return name
    if fixed:
        raise Refusal("E_ROOT_EXISTS", f"Another storage root is called {name} already.")
    number = 2
    while f"{name[:70]} {number}" in taken:
        number += 1
    return f"{name[:70]} {number}"


def _apply(root: StorageRoot, says: Declaration) -> None:
    fields: dict[str, Any] = {}
    if says.name is not None and says.name.strip() != root.name:
        fields["name"] = _free_name(says.name, fixed=True)
    if says.opened_by is not None:
        if says.opened_by not in StorageRoot.OpenedBy.values:
            raise Refusal("E_NAME", f"“{says.opened_by}” is nobody who opens disks.")
        fields["opened_by"] = says.opened_by
    if says.read_only is not None:
        fields["read_only"] = says.read_only
    if says.excluded_folders is not None:
        fields["excluded_folders"] = _folder_names(says.excluded_folders)
    if says.scan_every_minutes is not None:
        fields["scan_every_minutes"] = max(0, says.scan_every_minutes)
    for name in ("limit_bytes_per_second", "jobs_at_once"):
        if (number := getattr(says, name)) is not None:
            fields[name] = max(0, number)
    if says.hours is not None:
        fields["hours_begin"], fields["hours_end"] = _hours(says.hours)
    for name, value in fields.items():
        setattr(root, name, value)
    if fields:
        root.save(update_fields=list(fields))
    if says.windows_views is not None:
        _set_views(root, says.windows_views)


def _hours(text: str) -> tuple[time, time] | tuple[None, None]:
    try:
        return hours.parsed(text) or (None, None)
    except ValueError as error:
        raise Refusal("E_HOURS", str(error), "Give them like 22:00-06:00.") from error


def _folder_names(names: Sequence[str]) -> list[str]:
    kept = []
    for name in names:
        name = name.strip()
        if "/" in name or name in (".", ".."):
            raise Refusal("E_NAME", f"“{name}” is no folder name.", "Give names, not paths.")
        if name and name not in kept:
            kept.append(name)
    return kept


def _set_views(root: StorageRoot, prefixes: Sequence[str]) -> None:
    wanted: list[str] = []
    for prefix in prefixes:
        prefix = prefix.strip()
        if not prefix:
            continue
        try:
            text = str(parsed_view(prefix))
        except ImageError as error:
            raise Refusal(error.code, error.message, error.advice) from error
        if text.casefold() not in {known.casefold() for known in wanted}:
            wanted.append(text)
    current = list(
        root.windows_views.order_by("-preferred", "prefix").values_list("prefix", flat=True)
    )
    if current == wanted:
        return
    root.windows_views.all().delete()
    WindowsView.objects.bulk_create(
        WindowsView(root=root, prefix=prefix, preferred=index == 0)
        for index, prefix in enumerate(wanted)
    )
    # A prefetched list would still hold the old views.
    getattr(root, "_prefetched_objects_cache", {}).pop("windows_views", None)
