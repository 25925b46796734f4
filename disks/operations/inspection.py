"""One disk described: the document of `inspect --json`, for sound and for broken images."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from disks.engine import resolution
from disks.engine.check import check_image
from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.formats import identify
from disks.engine.images import Image
from disks.engine.parent_link import ParentReference
from disks.engine.resolution import outcome, reasons
from disks.engine.resolution.outcome import Resolution
from disks.operations import journal
from disks.operations.managers import Manager, is_telling, manager_of
from disks.operations.paths import Roots


def inspect(path: str, roots: Roots) -> dict[str, Any]:
    """The document of one file. Raises ImageError if it cannot be opened or is no disk.

    A damaged disk is no error here: what could not be read is null, findings say why.
    """
    with roots.open(path) as file:
        return inspect_file(file, path, roots)


def inspect_file(
    file: ImageFile, path: str, roots: Roots, *, resolve: bool = True
) -> dict[str, Any]:
    """The same for an opened file; resolve=False leaves the parent unsearched (status null)."""
    form = identify(file)
    document = _frame(file, path, form.name)
    manager: Manager | None
    try:
        image = form.open(file)
    except NotAnImage:
        raise
    except ImageError as error:
        findings = check_image(file)
        if not any(finding.code == error.code for finding in findings):
            findings.insert(0, Finding.from_error(error))
        manager = managed_by(path, roots)
    else:
        document |= _facts(image)
        findings = list(image.findings)
        if image.parent is not None:
            document["parent"] = _parent(image.parent)
            if resolve:
                found = resolution.resolve(image, path, roots)
                document["parent"] |= _resolved(found)
                document["twins"] = list(found.twins)
                document["reason"] = found.reason
                findings += _link_findings(found)
        manager = managed_by(path, roots, hidden=bool(document.get("hidden")))
    document["managed_by"] = manager.as_dict() if manager else None
    findings += place_findings(file, path, roots)
    document["findings"] = [finding.as_dict() for finding in findings]
    return document


def managed_by(path: str, roots: Roots, *, hidden: bool = False) -> Manager | None:
    """Who manages a disk, from what lies beside it; None where the folder cannot be listed."""
    folder, name = os.path.split(path)
    try:
        names = [entry.name for entry in roots.entries(folder) if is_telling(entry.name)]
    except ImageError:
        names = [name]
    return manager_of(names, name, hidden=hidden)


def place_findings(file: ImageFile, path: str, roots: Roots) -> list[Finding]:
    """What the file's place says: other names of it, an interrupted operation."""
    findings = []
    links = file.stat().st_nlink
    if links > 1:
        findings.append(
            Finding(
                Level.WARNING,
                "W_HARD_LINKS",
                f"The file has {links} names (hard links), perhaps outside the storage roots. "
                "It is not written in place, because that would change it under all of them.",
                "links",
                None,
                links,
            )
        )
    try:
        journal.require_settled(roots, [path])
    except ImageError as error:
        findings.append(Finding.from_error(error))
    return findings


def moment(when: datetime | None) -> str | None:
    """A date as the documents carry it: UTC, `2020-10-11T11:37:55Z`."""
    if when is None:
        return None
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(time_ns: int) -> str | None:
    """The same for a time as the file system tells it; tenths of seconds are left out."""
    return moment(datetime.fromtimestamp(time_ns // 10**9, UTC))


def link_document(parent: ParentReference) -> dict[str, Any]:
    """What a header says about the parent, without searching it."""
    return {
        "identity": parent.identity,
        "name": parent.name,
        "named": reasons.named(parent),
        "timestamp": moment(parent.timestamp),
        "locators": [
            {"code": locator.code, "path": locator.path}
            | ({"problem": locator.problem} if locator.problem else {})
            for locator in parent.locators
        ],
    }


def _frame(file: ImageFile, path: str, format_name: str) -> dict[str, Any]:
    status = file.stat()
    return {
        "path": path,
        "format": format_name,
        "type": None,
        "virtual_size_bytes": None,
        "file_size_bytes": file.size_bytes,
        "allocated_bytes": status.st_blocks * 512,
        "block_size_bytes": None,
        "blocks_total": None,
        "blocks_allocated": None,
        "logical_sector_bytes": None,
        "identity": None,
        "virtual_disk_id": None,
        "creator": None,
        "created": None,
        "parent": None,
        "modified": moment_of(status.st_mtime_ns),
        "managed_by": None,
        "twins": [],
        "reason": None,
        "properties": [],
        "write_refusal": None,
    }


def _facts(image: Image) -> dict[str, Any]:
    has_blocks = image.block_size_bytes > 0
    facts: dict[str, Any] = {
        "type": str(image.disk_type),
        "virtual_size_bytes": image.virtual_size_bytes,
        "block_size_bytes": image.block_size_bytes if has_blocks else None,
        "blocks_total": image.blocks_total if has_blocks else None,
        "blocks_allocated": image.blocks_allocated() if has_blocks else None,
        "logical_sector_bytes": image.logical_sector_bytes,
        "identity": image.identity,
        "virtual_disk_id": getattr(image, "virtual_disk_id", None),
        "creator": image.creator,
        "created": moment(image.created),
        "properties": [list(row) for row in image.properties()],
    }
    if image.write_refusal is not None:
        facts["write_refusal"] = {
            "code": image.write_refusal.code,
            "message": image.write_refusal.message,
        }
    if getattr(image, "hidden", False):
        facts["hidden"] = True
    return facts


def _parent(parent: ParentReference) -> dict[str, Any]:
    return link_document(parent) | {"status": None, "path": None, "trace": []}


def _resolved(found: Resolution) -> dict[str, Any]:
    return {
        "status": str(found.status),
        "path": found.path,
        "suggested": found.suggested,
        "trace": outcome.as_trace(found),
    }


def _link_findings(found: Resolution) -> list[Finding]:
    """Notes about a parent that was found: copies of it, a header that does not lead to it."""
    findings = []
    if found.path is not None and found.twins:
        count = len(found.twins)
        one = "One other file has" if count == 1 else f"{count} other files have"
        findings.append(
            Finding(
                Level.NOTE,
                "N_PARENT_TWINS",
                f"{one} the parent's identity, too (a copy, a backup, a restore). The path in "
                "the header decides which one is used.",
                "parent_identity",
                None,
                count,
            )
        )
    if found.path is not None and found.suggested is not None:
        findings.append(
            Finding(
                Level.WARNING,
                "W_PARENT_ELSEWHERE",
                "The parent was found by its identity, but no path in the header leads to it: "
                "Windows will not find it.",
                "parent_locators",
                None,
                found.path,
            )
        )
    return findings
