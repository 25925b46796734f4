"""One file as the catalog sees it: what its headers say, in the catalog's columns."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from disks.engine.check import check_image
from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.formats import FORMATS, Format, identify, named_parent
from disks.engine.images import DiskType, Image
from disks.engine.parent_link import Locator, ParentReference
from disks.engine.resolution.reasons import named as named_path
from disks.models import Disk
from disks.operations import journal
from disks.operations.managers import manager_of
from disks.services import verdicts
from disks.services.stored_json import readable

Health = Disk.Health

# Names that promise a disk: such a file is listed even if it holds something else.
DISK_EXTENSIONS = tuple(
    {extension for format in FORMATS for extension in format.extensions} | {".vhds"}
)

_IN_USE = ("E_IN_USE", "E_LOCKED")
_SPARE_WORTH_BYTES = 64 * 1024**2


class Named(NamedTuple):
    """The columns of a ParentLink that come from the child's header: what it says."""

    named_identity: str
    named_path: str
    named_name: str
    name_problem: str
    named_timestamp: datetime | None
    locators: list[dict[str, Any]]


@dataclass(slots=True)
class Reading:
    """What one look at a file told.

    is_listed  False for a file that is no disk and does not claim to be one by its name
    was_read   False where the storage refused: the columns of headers are not known now
    columns    values of Disk's columns that come from the file
    link       what a differencing disk's header says about its parent
    """

    status: os.stat_result
    is_listed: bool
    was_read: bool
    columns: dict[str, Any] = field(default_factory=dict)
    link: Named | None = None

    @property
    def identity(self) -> str:
        return str(self.columns.get("identity", ""))

    @property
    def header_hash(self) -> str:
        return str(self.columns.get("header_hash", ""))


def managed_by(telling: Collection[str], name: str, *, hidden: bool = False) -> str:
    """The code of whoever manages the disk of this name, "" for nobody."""
    manager = manager_of(telling, name, hidden=hidden)
    return manager.code if manager else ""


def promises_disk(name: str) -> bool:
    return name.lower().endswith(DISK_EXTENSIONS)


def read(
    file: ImageFile, name: str, telling: Collection[str] = (), *, half_merged: bool = False
) -> Reading:
    """Read an open file's headers; never raises for what the file holds.

    half_merged: a merge in place into this disk is not finished
    """
    status = file.status_at_opening
    try:
        form = identify(file)
    except NotAnImage as error:
        return _no_image(file, status, name, telling, error)
    except ImageError as error:
        if error.code == "E_AMBIGUOUS_FORMAT":
            return _damaged(status, [Finding.from_error(error)], name, telling)
        return refused(error, name, status)
    try:
        image = form.open(file)
    except NotAnImage as error:
        return _no_image(file, status, name, telling, error)
    except ImageError as error:
        if error.code in ("E_IO", "E_ACCESS", *_IN_USE):
            return refused(error, name, status)
        findings = check_image(file)
        if not any(finding.code == error.code for finding in findings):
            findings.insert(0, Finding.from_error(error))
        reading = _damaged(status, findings, name, telling)
        reading.columns["format"] = form.name
        return reading
    try:
        return _sound(form, image, status, name, telling, half_merged=half_merged)
    except ImageError as error:
        return refused(error, name, status)


def refused(error: ImageError, name: str, status: os.stat_result | None = None) -> Reading:
    """The storage did not let the file be read: in use, no permission, an I/O error."""
    health = Health.IN_USE if error.code in _IN_USE else Health.UNREADABLE
    columns: dict[str, Any] = {
        "own_health": health,
        "findings": [readable(Finding.from_error(error).as_dict())],
    }
    if status is not None:
        columns |= _file_columns(status)
    return Reading(
        status or os.stat_result([0] * 10), promises_disk(name), was_read=False, columns=columns
    )


def clean(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON rows as a database takes them: what it refuses is escaped; nearly always nothing."""
    if not rows:
        return rows
    text = json.dumps(rows)
    if "\\ud" not in text and "\\u0000" not in text:
        return rows
    cleaned: list[dict[str, Any]] = readable(rows)
    return cleaned


def _file_columns(status: os.stat_result) -> dict[str, Any]:
    return {
        "file_size_bytes": status.st_size,
        "allocated_bytes": status.st_blocks * 512,
        "device": status.st_dev,
        "inode": status.st_ino,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "modified_at": datetime.fromtimestamp(status.st_mtime_ns // 10**9, UTC)
        if 0 <= status.st_mtime_ns < 253_402_300_800 * 10**9
        else None,
    }


_BLANK: dict[str, Any] = {
    "format": "",
    "disk_type": "",
    "virtual_size_bytes": None,
    "block_size_bytes": None,
    "blocks_total": None,
    "blocks_allocated": None,
    "spare_bytes": None,
    "identity": "",
    "virtual_disk_id": "",
    "file_write_guid": "",
    "log_waits": False,
    "creator": "",
    "image_created_at": None,
    "header_hash": "",
    "managed_by": "",
}


def _no_image(
    file: ImageFile,
    status: os.stat_result,
    name: str,
    telling: Collection[str],
    error: NotAnImage,
) -> Reading:
    """No disk; or one that lost what disks are known by, and may still be a child of another."""
    try:
        if error.value is None and (promises_disk(name) or named_parent(file) != ""):
            left = [finding for finding in check_image(file) if finding.code != error.code]
            if left:
                return _damaged(status, left, name, telling)
    except ImageError as failure:
        return refused(failure, name, status)
    return _not_a_disk(status, name, error)


def _not_a_disk(status: os.stat_result, name: str, error: ImageError) -> Reading:
    columns = {
        **_BLANK,
        **_file_columns(status),
        "own_health": Health.NOT_A_DISK,
        "findings": [readable(Finding.from_error(error).as_dict())],
    }
    return Reading(status, promises_disk(name), was_read=True, columns=columns)


def _damaged(
    status: os.stat_result, findings: list[Finding], name: str, telling: Collection[str]
) -> Reading:
    rows = clean([finding.as_dict() for finding in findings])
    columns = {
        **_BLANK,
        **_file_columns(status),
        "own_health": Health.DAMAGED,
        "findings": rows,
        "managed_by": managed_by(telling, name),
    }
    return Reading(status, is_listed=True, was_read=True, columns=columns)


def _sound(
    form: Format,
    image: Image,
    status: os.stat_result,
    name: str,
    telling: Collection[str],
    *,
    half_merged: bool,
) -> Reading:
    findings = form.check_opened(image)
    if half_merged:
        findings.insert(0, Finding(Level.WARNING, HALF_MERGED, _HALF_MERGED))
    if status.st_nlink > 1:
        findings.append(_hard_links(status.st_nlink))
    rows = clean([finding.as_dict() for finding in findings])
    has_blocks = image.block_size_bytes > 0
    blocks_allocated = image.blocks_allocated() if has_blocks else None
    columns = {
        **_file_columns(status),
        "own_health": verdicts.own_health(rows),
        "findings": rows,
        "format": image.format_name,
        "disk_type": str(image.disk_type),
        "virtual_size_bytes": image.virtual_size_bytes,
        "block_size_bytes": image.block_size_bytes if has_blocks else None,
        "blocks_total": image.blocks_total if has_blocks else None,
        "blocks_allocated": blocks_allocated,
        "spare_bytes": _spare_bytes(image, status.st_size, blocks_allocated),
        "identity": image.identity,
        "virtual_disk_id": image.virtual_disk_id or "",
        "file_write_guid": image.file_write_guid or "",
        "log_waits": image.log_waits,
        "creator": readable(image.creator)[:60],
        "image_created_at": image.created,
        "header_hash": hashlib.blake2b(image.stored_headers(), digest_size=16).hexdigest(),
        "managed_by": managed_by(telling, name, hidden=bool(getattr(image, "hidden", False))),
    }
    link = named(image.parent) if image.parent is not None else None
    return Reading(status, is_listed=True, was_read=True, columns=columns, link=link)


def _spare_bytes(image: Image, size_bytes: int, blocks_allocated: int | None) -> int | None:
    """Room that no block takes: certainly won back by compacting. Headers need some, too."""
    if blocks_allocated is None or image.disk_type is DiskType.FIXED:
        return None
    spare = size_bytes - blocks_allocated * image.block_size_bytes
    return spare if spare > _SPARE_WORTH_BYTES else None


HALF_MERGED = "W_HALF_MERGED"
_HALF_MERGED = (
    "A merge in place into this disk is not finished: until it is, this disk is not to be opened "
    "by itself."
)


def half_merged_by(name: str) -> str:
    """The name of the record that lies beside a disk while a merge in place concerns it."""
    return journal.sidecar_path(name, journal.MERGE)


def _hard_links(count: int) -> Finding:
    """bad-input 63: the other name may lie outside the roots, where nobody can look."""
    return Finding(
        Level.WARNING,
        "W_HARD_LINKS",
        f"The file has {count} names (hard links), perhaps outside the storage roots. "
        "It is not written in place, because that would change it under all of them.",
        "links",
        None,
        count,
    )


def named(parent: ParentReference) -> Named:
    """A parent link as stored: what the header says, before anything is looked for."""
    return Named(
        named_identity=parent.identity,
        named_path=readable(named_path(parent) or ""),
        named_name=readable(parent.name or ""),
        name_problem=readable(parent.name_problem or ""),
        named_timestamp=parent.timestamp,
        locators=[
            {
                "code": locator.code,
                "path": readable(locator.path),
                "problem": readable(locator.problem),
                "offset": locator.offset,
            }
            for locator in parent.locators
        ],
    )


class StoredLink(Protocol):
    """The header's side of a ParentLink, as `Named`, or in a row."""

    @property
    def named_identity(self) -> str: ...
    @property
    def named_name(self) -> str: ...
    @property
    def name_problem(self) -> str: ...
    @property
    def named_timestamp(self) -> datetime | None: ...
    @property
    def locators(self) -> list[dict[str, Any]]: ...


def stored_reference(link: StoredLink) -> ParentReference:
    """The inverse of named(), for looking for the parent without opening the child."""
    return ParentReference(
        identity=link.named_identity,
        name=link.named_name or None,
        timestamp=link.named_timestamp,
        locators=tuple(
            Locator(
                code=row["code"],
                path=row["path"],
                raw=b"",
                offset=row.get("offset") or 0,
                data_space=0,
                problem=row.get("problem"),
            )
            for row in link.locators
        ),
        name_problem=link.name_problem or None,
    )
