"""Storage roots: declared, tried out, watched, and handed to the operations.

A root is declared by the settings, on the command line, or by an administrator in the
browser below the folders that the settings allow. A new one is read-only until an
administrator has said who opens its disks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import time
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Disk, Job, StorageRoot, WindowsView
from disks.operations import durable, paths, probing
from disks.services import audit, declarations, hours, timing
from disks.services.errors import Refusal

# Folders of the system itself: declaring one is a mistake, never a wish.
_NEVER = ("/", "/proc", "/sys", "/dev", "/run", "/boot", "/etc", "/usr", "/bin", "/sbin", "/lib")
_SAMPLE = 20


# ------------------------------------------------------------------- handed to operations


def operation_roots(only: Iterable[StorageRoot] | None = None) -> paths.Roots:
    """All roots that are online, as the operations know them; identities by the catalog.

    only: these instead, whatever their state.
    """
    chosen = only
    if chosen is None:
        chosen = StorageRoot.objects.exclude(
            state__in=[StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED]
        ).prefetch_related("windows_views")
    return paths.Roots([operation_root(root) for root in chosen], find_identity=find_identity)


def operation_root(root: StorageRoot) -> paths.Root:
    """One row as the operations know it."""
    views = sorted(root.windows_views.all(), key=lambda view: (not view.preferred, view.prefix))
    known = root.device is not None and root.inode is not None
    return paths.Root(
        path=root.path,
        name=root.name,
        windows_views=tuple(view.prefix for view in views),
        read_only=root.read_only,
        excluded=tuple(root.excluded_folders),
        marker=root.marker,
        expected=(root.device, root.inode) if known else None,  # type: ignore[arg-type]
    )


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
    found, relative = paths.Roots([paths.Root(path=root.path) for root in roots]).locate(path)
    return next(root for root in roots if root.path == found.path), relative


# -------------------------------------------------------------------------------- declaring


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
    probe(root)
    _require_marker(root)
    return root


def change(
    root: StorageRoot, *, says: Declaration, user: Any = None, address: str = ""
) -> StorageRoot:
    """Change what is said about a root; audited with before and after.

    Raises Refusal E_NAME, E_ROOT_EXISTS, E_READ_ONLY (the storage itself refuses writes).
    """
    before = as_dict(root)
    if says.read_only is False and root.read_only and not probe(root).get("writable"):
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
    _require_marker(root)
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
    _require_marker(root)
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


# ------------------------------------------------------------------------------- trying out


def probe(root: StorageRoot) -> dict[str, Any]:
    """Try out what the storage can do and keep the answer; leaves nothing behind."""
    single = paths.Root(path=root.path, name=root.name, excluded=tuple(root.excluded_folders))
    found = probing.probe(paths.Roots([single]), root.path).as_dict()
    root.probe = found
    root.probed_at = timezone.now()
    root.free_bytes, root.total_bytes = found["free_bytes"], found["total_bytes"]
    root.save(update_fields=["probe", "probed_at", "free_bytes", "total_bytes"])
    return found


def try_out(path: str) -> dict[str, Any]:
    """What a folder that is no root yet can do, for the form in the browser.

    Raises Refusal E_ROOT_PATH for a folder that could not be declared there.
    """
    path = _checked_path(path, StorageRoot.DeclaredBy.BROWSER)
    return probing.probe(paths.Roots([paths.Root(path=path)]), path).as_dict()


def check_state(root: StorageRoot) -> StorageRoot:
    """See whether the root is there and is the same as before; the row keeps the answer.

    Rows of an offline root are kept and nothing in it counts as deleted (bad-input 67).
    Another volume in its place is E_ROOT_CHANGED (bad-input 75) until somebody accepts it.
    A volume whose device number changed (a reboot) is known by its marker, else by files
    that are where the catalog says.
    """
    state, reason, status = _look(root)
    fields: dict[str, Any] = {"state": state, "state_reason": reason}
    if state == StorageRoot.State.ONLINE and status is not None:
        fields |= {"device": status.st_dev, "inode": status.st_ino}
        figures = os.statvfs(root.path)
        fields["free_bytes"] = figures.f_bavail * figures.f_frsize
        fields["total_bytes"] = figures.f_blocks * figures.f_frsize
    changed = {name: value for name, value in fields.items() if getattr(root, name) != value}
    if changed:
        for name, value in changed.items():
            setattr(root, name, value)
        root.save(update_fields=list(changed))
    return root


def measure(host_paths: Iterable[str]) -> None:
    """Note anew how much is free in the roots that hold these paths: something was written.

    Whether a root is there at all is for check_state() to say; one that is not is left alone.
    """
    for root in declarations.roots_of(host_paths):
        with contextlib.suppress(OSError):
            if os.stat(root.path).st_dev != root.device:
                continue
            figures = os.statvfs(root.path)
            StorageRoot.objects.filter(pk=root.pk).update(
                free_bytes=figures.f_bavail * figures.f_frsize,
                total_bytes=figures.f_blocks * figures.f_frsize,
            )


def require_online(root: StorageRoot) -> None:
    """Raises ImageError E_ROOT_OFFLINE or E_ROOT_CHANGED unless the root can be worked on."""
    check_state(root)
    if root.state == StorageRoot.State.OFFLINE:
        raise ImageError(
            "E_ROOT_OFFLINE",
            f"The storage root {root.name} is offline: {root.state_reason}",
            file=root.path,
        )
    if root.state == StorageRoot.State.CHANGED:
        raise ImageError(
            "E_ROOT_CHANGED",
            f"The storage root {root.name} is not the one that was set up: {root.state_reason}",
            file=root.path,
        )


def _look(root: StorageRoot) -> tuple[str, str, os.stat_result | None]:
    states = StorageRoot.State
    bare = paths.Roots([paths.Root(path=root.path, name=root.name)])
    try:
        fd = bare.open_folder(root.path)
    except ImageError as error:
        return states.OFFLINE, error.message, None
    try:
        status = os.fstat(fd)
        try:
            with os.scandir(fd) as entries:
                is_empty = next(iter(entries), None) is None
        except OSError as error:
            return states.OFFLINE, f"The folder cannot be listed: {error.strerror}.", status
        if is_empty and root.disks.filter(missing_since=None).exists():
            return (
                states.OFFLINE,
                "The folder is empty, though disks were here: is the volume mounted?",
                status,
            )
        if root.marker:
            if read_marker(fd) == root.marker:
                return states.ONLINE, "", status
            return states.CHANGED, "Its marker file is missing or another one.", status
        same = root.device is None or (status.st_dev, status.st_ino) == (root.device, root.inode)
        if same or _files_agree(root, bare):
            return states.ONLINE, "", status
        return states.CHANGED, "Another folder or file system is mounted there now.", status
    finally:
        os.close(fd)


def read_marker(fd: int) -> str:
    """The content of the root's marker file, "" without one."""
    try:
        marker = os.open(
            paths.ROOT_MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd
        )
    except OSError:
        return ""
    try:
        return os.read(marker, 4096).decode("utf-8", "replace").strip()
    finally:
        os.close(marker)


def _files_agree(root: StorageRoot, bare: paths.Roots) -> bool:
    """True if files that the catalog knows lie where it says, with their inode and size."""
    rows = root.disks.filter(missing_since=None).values_list(
        "relative_path", "inode", "file_size_bytes"
    )[:_SAMPLE]
    agreed = 0
    for relative, inode, size in rows:
        try:
            status = bare.stat(os.path.join(root.path, relative))
        except ImageError:
            continue
        agreed += (status.st_ino, status.st_size) == (inode, size)
    return agreed > 0 and agreed * 2 >= len(rows)


def _require_marker(root: StorageRoot) -> None:
    """A root that may be written carries a marker, so that another volume is noticed."""
    if root.read_only or root.marker or root.state == StorageRoot.State.OFFLINE:
        return
    bare = paths.Roots([paths.Root(path=root.path)])
    try:
        fd = bare.open_folder(root.path)
        try:
            marker = read_marker(fd)
        finally:
            os.close(fd)
        if not marker:
            marker = secrets.token_hex(16)
            path = os.path.join(root.path, paths.ROOT_MARKER)
            durable.replace_content(bare, path, path + ".vdtmp", marker.encode() + b"\n")
    except ImageError:
        return  # device and inode are compared instead
    root.marker = marker
    root.save(update_fields=["marker"])


# ----------------------------------------------------------------------------------- inside


def _checked_path(path: str, declared_by: str) -> str:
    if "\0" in path or not os.path.isabs(path):
        raise Refusal("E_ROOT_PATH", "A storage root needs a full path, like /srv/vms.")
    normal = "/" + os.path.normpath(path).lstrip("/")
    if declared_by == StorageRoot.DeclaredBy.BROWSER:
        return _below_allowed(normal)
    if normal in _NEVER or normal.startswith(("/proc/", "/sys/", "/dev/")):
        raise Refusal("E_ROOT_PATH", f"{normal} belongs to the system; it cannot hold disks.")
    real = os.path.realpath(normal)
    if not os.path.isdir(real):
        raise Refusal("E_ROOT_PATH", f"{normal} is no folder.")
    return real


def _below_allowed(path: str) -> str:
    """Opened below the allowed folder alone; says nothing about what lies elsewhere."""
    allowed = paths.Roots([paths.Root(path=folder) for folder in allowed_folders()])
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
            raise Refusal("E_NAME", f"“{name}” is no folder name; give names, not paths.")
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
            text = str(paths.parsed_view(prefix))
        except ImageError as error:
            raise Refusal(error.code, error.message) from error
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
