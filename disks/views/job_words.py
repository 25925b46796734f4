"""What a job's page says in words: what is safe meanwhile, what cancelling leaves, the result."""

from __future__ import annotations

from typing import Any

from django.utils.html import format_html

from disks.models import Job
from disks.templatetags.console import bytes_, duration_text, winpath

_READS_ONLY = "It only reads. Everything may be used meanwhile."
_BY_COPY = (
    "The disks are only read until the result is put in place at the end. Leave machines that "
    "use them switched off: a disk that changes meanwhile ends the job, and its copy is thrown "
    "away."
)
_HEADER = (
    "Only headers are rewritten, each in a moment. Leave machines that use these disks "
    "switched off."
)

_MEANWHILE: dict[str, str] = {
    Job.Kind.SCAN: _READS_ONLY,
    Job.Kind.CHECK: _READS_ONLY,
    Job.Kind.UPDATE_PARENT: _HEADER,
    Job.Kind.UNDO_UPDATE: _HEADER,
    Job.Kind.REPAIR_PLAN: _HEADER,
    Job.Kind.UNDO_PLAN: _HEADER,
    Job.Kind.MERGE: _BY_COPY,
    Job.Kind.COMPACT: _BY_COPY,
    Job.Kind.CREATE: "The new disk appears under its name when it is complete, not before.",
    Job.Kind.RESTORE: "Leave the disks that come back alone until it is done.",
    Job.Kind.EMPTY_TRASH: "Nothing outside the trash is touched.",
}

_IF_CANCELLED: dict[str, str] = {
    Job.Kind.SCAN: "Cancelling keeps what has been read so far.",
    Job.Kind.CHECK: "Cancelling changes nothing.",
    Job.Kind.REPAIR_PLAN: "Cancelling keeps the disks already repaired; they can be undone.",
    Job.Kind.UNDO_PLAN: "Cancelling keeps what has been taken back so far.",
    Job.Kind.EMPTY_TRASH: "Cancelling keeps what is not deleted yet; the rest is gone.",
}

_WHAT_NOW: dict[str, str] = {
    Job.Status.LOST: (
        "Its worker is gone. Within a minute the work is undone or finished, and this page "
        "says which. Do not touch its disks until then."
    ),
    Job.Status.RECOVERING: (
        "What the lost worker left is being finished or undone. Do not touch its disks until then."
    ),
    Job.Status.NEEDS_ATTENTION: (
        "Recovery failed several times. The disks stay locked and their undo records untouched. "
        "See to the cause below (is the storage there, is it writable?), then try again."
    ),
    Job.Status.PAUSED: "It can be resumed. Until then do not open the parent.",
}


def meanwhile(job: Job) -> str:
    """What may be done with the disks while it runs."""
    return _MEANWHILE.get(job.kind, "") if job.is_active else ""


def if_cancelled(job: Job) -> str:
    """What a cancelled job leaves behind."""
    if job.status == Job.Status.QUEUED:
        return "It has not started: cancelling changes nothing."
    return _IF_CANCELLED.get(job.kind, "Cancelling leaves every file as it was.")


def what_now(job: Job) -> str:
    return _WHAT_NOW.get(job.status, "")


# key of a result, the words for it, and what kind of value it is
_RESULT: tuple[tuple[str, str, str], ...] = (
    ("output", "Result", "path"),
    ("path", "Disk", "path"),
    ("virtual_size_bytes", "Virtual size", "bytes"),
    ("file_size_before_bytes", "Size before", "bytes"),
    ("file_size_after_bytes", "Size after", "bytes"),
    ("freed_bytes", "Freed now", "bytes"),
    ("freed_now_bytes", "Freed now", "bytes"),
    ("freed_later_bytes", "Freed when the trash is emptied", "bytes"),
    ("freed_with_trash_bytes", "Freed when the trash is emptied", "bytes"),
    ("bytes_written", "Written", "bytes"),
    ("copy_seconds", "Copying took", "seconds"),
    ("proof_seconds", "Proof took", "seconds"),
    ("digest", "Content proof", "code"),
    ("proof", "Content proof", "code"),
    ("content_digest", "Content proof", "code"),
    ("content_sha256", "Content SHA-256", "code"),
    ("files", "Files looked at", "number"),
    ("disks", "Disks", "number"),
    ("read", "Read anew", "number"),
    ("unchanged", "Unchanged", "number"),
    ("added", "New", "number"),
    ("new", "New", "number"),
    ("moved", "Moved", "number"),
    ("missing", "Missing now", "number"),
    ("unreadable", "Could not be read", "number"),
    ("errors", "Errors", "number"),
    ("warnings", "Warnings", "number"),
    ("repaired", "Repaired", "number"),
    ("done", "Done", "number"),
    ("failed", "Failed", "number"),
    ("seconds", "Took", "seconds"),
)


def result_rows(result: Any) -> list[tuple[str, str]]:
    """The result's known values as (words, drawn value); lists and unknown keys are left out."""
    if not isinstance(result, dict):
        return []
    rows = []
    for key, words, kind in _RESULT:
        value = result.get(key)
        if value is None or isinstance(value, dict | list | bool):
            continue
        rows.append((words, _drawn(value, kind)))
    return rows


def _drawn(value: Any, kind: str) -> str:
    if kind == "bytes" and isinstance(value, int):
        return bytes_(value)
    if kind == "seconds" and isinstance(value, int | float):
        return duration_text(value)
    if kind == "number" and isinstance(value, int):
        return f"{value:,}"
    if kind == "code":
        return format_html('<code class="text">{}</code>', str(value))
    return winpath(value)


def outcomes(result: Any) -> list[dict[str, Any]]:
    """One row for each disk of a job over many: path, what became of it, and why."""
    if not isinstance(result, dict):
        return []
    for key in ("rows", "reports", "children", "outcomes"):
        rows = result.get(key)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            return [_outcome(row) for row in rows[:2000]]
    return []


def _outcome(row: dict[str, Any]) -> dict[str, Any]:
    error = row.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    return {
        "path": row.get("path") or row.get("child") or row.get("disk") or "",
        "disk_id": row.get("disk_id") if isinstance(row.get("disk_id"), int) else None,
        "failed": bool(error) or row.get("status") in ("failed", "refused"),
        "words": said or row.get("sentence") or row.get("message") or row.get("parent") or "",
    }
