"""What a job's page says in words: what is safe meanwhile, what cancelling leaves, the result."""

from __future__ import annotations

import os
from typing import Any

from django.utils.html import format_html

from disks.models import Job
from disks.services import half_merged
from disks.services.stored_json import readable, restored
from disks.services.work import works_in_place
from disks.templatetags.amounts import bytes_, duration_text
from disks.templatetags.names import place
from disks.templatetags.states import icon

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
    Job.Kind.REPAIR: _HEADER,
    Job.Kind.REPLAY_LOG: _HEADER,
    Job.Kind.MERGE: _BY_COPY,
    Job.Kind.PILE: _BY_COPY,
    Job.Kind.COMPACT: _BY_COPY,
    Job.Kind.CONVERT: (
        "The disks are only read. Leave machines that use them switched off: a disk that changes "
        "meanwhile ends the job, and its copy is thrown away."
    ),
    Job.Kind.EXPAND: (
        "The disk is changed where it lies. Leave machines that use it, and disks below it, "
        "switched off."
    ),
    Job.Kind.COPY: (
        "The disks are only read. Leave machines that use them switched off: a disk that changes "
        "meanwhile ends the job, and its copies are thrown away."
    ),
    Job.Kind.MOVE: "Leave machines that use the disk, and disks below it, switched off.",
    Job.Kind.DELETE: "Leave the disk alone until it is in the trash.",
    Job.Kind.CREATE: "The new disk appears under its name when it is complete, not before.",
    Job.Kind.RESTORE: "Leave the disks that come back alone until it is done.",
    Job.Kind.EMPTY_TRASH: "Nothing outside the trash is touched.",
}

_IF_CANCELLED: dict[str, str] = {
    Job.Kind.SCAN: "Cancelling keeps what has been read so far.",
    Job.Kind.CHECK: "Cancelling changes nothing.",
    Job.Kind.REPAIR_PLAN: "Cancelling keeps the disks already repaired; they can be undone.",
    Job.Kind.UNDO_PLAN: "Cancelling keeps what has been taken back so far.",
    Job.Kind.PILE: (
        "Cancelling keeps the piles that are merged already; what that replaced is in the trash. "
        "The pile at work is left as it was."
    ),
    Job.Kind.CONVERT: "Cancelling throws the unfinished copy away.",
    Job.Kind.COPY: "Cancelling throws the unfinished copies away.",
    Job.Kind.EXPAND: "Cancelling gives the room back; the disk is as it was.",
    Job.Kind.EMPTY_TRASH: "Cancelling keeps what is not deleted yet; the rest is gone.",
}

_IN_PLACE_MEANWHILE: dict[str, str] = {
    Job.Kind.MERGE: (
        "Data moves into {base} where it lies. Until that is finished {leaf} reads as ever. Leave "
        "machines that use it switched off while the job runs, and do not open {base} by itself."
    ),
    Job.Kind.PILE: (
        "Data moves into the lowest disk of each pile where it lies. Until a pile is finished its "
        "leaf reads as ever. Leave machines that use these disks switched off while the job runs, "
        "and do not open the disks below a leaf by themselves."
    ),
    Job.Kind.COMPACT: (
        "The disk is changed where it lies, in steps that each leave it reading as before. "
        "Leave machines that use it switched off."
    ),
}

_IF_STOPPED: dict[str, str] = {
    Job.Kind.MERGE: (
        "Before data moves this leaves every file as it was. After that the job is paused: what "
        "has moved cannot be taken back, only gone on with."
    ),
    Job.Kind.PILE: (
        "Piles that are merged stay so. A pile whose data moves is paused with the job: it cannot "
        "be taken back, only gone on with."
    ),
    Job.Kind.COMPACT: (
        "What is given back by then stays so, and the disk reads as before; compacting it again "
        "goes on with the rest."
    ),
}

_HALF_MERGED = (
    "{leaf} and {base} belong together until it is resumed: a machine may use {leaf}. Do not open "
    "{base} by itself, and delete neither. Other jobs on these disks wait."
)
_NOT_TOLD = "Its disks stay locked for other jobs until it is resumed. "
_HALF_MERGED_PERHAPS = {
    Job.Kind.MERGE: f"{_NOT_TOLD}Do not open {{base}} by itself, and delete neither.",
    Job.Kind.PILE: f"{_NOT_TOLD}Do not open those below a leaf by themselves, and delete none.",
}
_LEAF_NOT_TO_BE_USED = (
    "{why} Resume it; until then leave machines that use these disks switched off, and delete none "
    "of them."
)
_MERGE_HURT = (
    "Recovery failed several times. {leaf} still needs {base} and what has moved there: delete "
    "neither, and do not open {base} by itself. See to the cause (is the storage there, is it "
    "writable, did somebody write to {base}?), then try again."
)
_PILE_HURT = (
    "Recovery failed several times. Delete none of the disks, and do not open those below a leaf "
    "by themselves. See to the cause (is the storage there, is it writable?), then try again."
)
_IN_PLACE_NOW: dict[tuple[str, str], str] = {
    (Job.Kind.MERGE, Job.Status.PAUSED): _HALF_MERGED,
    (Job.Kind.PILE, Job.Status.PAUSED): (
        "The pile of {leaf} and {base} is half merged: a machine may use {leaf} until the job is "
        "resumed. Do not open the disks below it by themselves, and delete none of them. Other "
        "jobs on these disks wait."
    ),
    (Job.Kind.COMPACT, Job.Status.PAUSED): (
        "The disk is whole and reads as before. Its room comes back when the job is resumed; "
        "until then other jobs on it wait."
    ),
    (Job.Kind.MERGE, Job.Status.NEEDS_ATTENTION): _MERGE_HURT,
    (Job.Kind.PILE, Job.Status.NEEDS_ATTENTION): _PILE_HURT,
    (Job.Kind.MERGE, Job.Status.LOST): (
        "Its worker is gone. Within a minute another one goes on. Do not open {base} by itself, "
        "and leave machines that use {leaf} switched off."
    ),
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
    Job.Status.PAUSED: "Its disks stay locked for other jobs until it is resumed.",
}


def meanwhile(job: Job) -> str:
    """What may be done with the disks while it runs."""
    if not job.is_active:
        return ""
    words = _MEANWHILE.get(job.kind, "")
    if works_in_place(job.parameters) and job.kind in _IN_PLACE_MEANWHILE:
        words = _IN_PLACE_MEANWHILE[job.kind].format(**_merged_names(job))
    return words if job.was_begun or not words else f"Once it runs: {words[0].lower()}{words[1:]}"


def if_cancelled(job: Job) -> str:
    """What a cancelled job leaves behind."""
    if not job.was_begun:
        return "It has not started: cancelling changes nothing."
    if works_in_place(job.parameters) and job.kind in _IF_STOPPED:
        return _IF_STOPPED[job.kind]
    return _IF_CANCELLED.get(job.kind, "Cancelling leaves every file as it was.")


def stop_word(job: Job) -> str:
    """In place, what is done stays: that is stopped, not cancelled."""
    in_place = job.is_active and works_in_place(job.parameters)
    return "Stop" if in_place and job.status != Job.Status.QUEUED else "Cancel"


def _merged_names(job: Job) -> dict[str, str]:
    """leaf: the disk that reads as ever until a merge in place is finished; base: the lowest."""
    levels = readable(restored(job.parameters).get("levels")) or ["The leaf", "the disk below it"]
    return {"leaf": os.path.basename(levels[0]), "base": os.path.basename(levels[-1])}


def what_now(job: Job) -> str:
    if job.is_paused and not job.was_begun:
        return ""  # it has no disks locked
    in_place = works_in_place(job.parameters)
    told = _IN_PLACE_NOW.get((job.kind, job.status), "") if in_place else ""
    if told and job.is_paused and job.kind in (Job.Kind.MERGE, Job.Kind.PILE):
        return _half_merged(job, told)
    return told.format(**_merged_names(job)) if told else _WHAT_NOW.get(job.status, "")


def _half_merged(job: Job, told: str) -> str:
    """What is said of a merge that waits half-way, as its files are now."""
    if job.cancellable:  # nothing has moved yet
        return _WHAT_NOW[Job.Status.PAUSED]
    found = half_merged.half_done(job)
    if found is None:  # between two piles; or somebody has finished it, or the storage is away
        return _HALF_MERGED_PERHAPS[Job.Kind(job.kind)].format(**_merged_names(job))
    leaf, base, why_not = found
    return (_LEAF_NOT_TO_BE_USED if why_not else told).format(
        leaf=readable(os.path.basename(leaf)), base=readable(os.path.basename(base)), why=why_not
    )


# key of a result, the words for it, and what kind of value it is
_RESULT: tuple[tuple[str, str, str], ...] = (
    ("output", "File", "path"),
    ("path", "Disk", "path"),
    ("virtual_size_before_bytes", "Virtual size before", "bytes"),
    ("virtual_size_bytes", "Virtual size", "bytes"),
    ("file_size_before_bytes", "Size before", "bytes"),
    ("file_size_after_bytes", "Size after", "bytes"),
    ("freed_bytes", "Free again", "bytes"),
    ("space_back_when_trash_emptied_bytes", "Free when the trash is emptied", "bytes"),
    ("bytes_written", "Written", "bytes"),
    ("blocks_written", "Blocks written", "number"),
    ("blocks_dropped", "Blocks given back", "number"),
    ("blocks_moved", "Blocks moved down", "number"),
    ("blocks_left_out", "Blocks left out", "number"),
    ("proof", "Content proof", "proof"),
    ("content_sha256", "Content SHA-256", "code"),
    ("files", "Files looked at", "number"),
    ("disks", "Disks", "number"),
    ("new", "New", "number"),
    ("changed", "Changed", "number"),
    ("moved", "Moved", "number"),
    ("missing", "Missing now", "number"),
    ("returned", "Back again", "number"),
    ("in_use", "In use and not read", "number"),
    ("unreadable", "Could not be read", "number"),
    ("errors", "Errors", "number"),
    ("warnings", "Warnings", "number"),
    ("repaired", "Repaired", "number"),
    ("undone", "Taken back", "number"),
    ("done", "Done", "number"),
    ("failed", "Failed", "number"),
)

# of nothing there is nothing to say: a row is left out then
_IF_ANY = ("bytes_written", "blocks_written", "blocks_moved", "blocks_left_out")

_TO_RUN = "To run on the virtual machine's host"
# lists of a result: key, words for one and for several, kind
_LISTS: tuple[tuple[str, str, str, str], ...] = (
    ("commands", _TO_RUN, _TO_RUN, "command"),
    ("warnings", "Worth knowing", "Worth knowing", "text"),
    ("levels", "Disk that was read", "Disks that were read", "path"),
    (
        "relinked",
        "Disk whose parent path was rewritten",
        "Disks whose parent paths were rewritten",
        "path",
    ),
    ("restored", "Back at its place", "Back at their places", "path"),
    ("offline", "Storage root that was offline", "Storage roots that were offline", "path"),
)
_MERGED = "Disks that became one, uppermost first"
LONGEST_LIST = 200


def result_rows(result: Any) -> list[tuple[str, str]]:
    """The result's known values as (words, drawn value); lists and unknown keys are left out."""
    if not isinstance(result, dict):
        return []
    rows = _links_in_sum(result)
    for key, words, kind in _RESULT:
        if rows and key == "failed":
            continue
        value = result.get(key)
        if value is None or isinstance(value, dict | list | bool):
            continue
        if not value and key in _IF_ANY:
            continue
        rows.append((words, _drawn(value, kind)))
    if result.get("in_place") and result.get("bytes_written"):
        rows.append(("Content proof", _proven("each batch read back, and the same")))
    if result.get("files_proven"):
        rows.append(("Content proof", _proven("written, read again, and the same")))
    return rows


def time_shares(job: Job) -> str:
    """What a finished job's time went to, copying and the proof; empty where that is not known.

    Of a job with several parts it is known of the last one alone.
    """
    result = job.result if isinstance(job.result, dict) and job.token <= 1 else {}
    copying, proof = result.get("copy_seconds"), result.get("proof_seconds")
    if not copying or not proof or min(copying, proof) < 1:
        return ""  # the one was all of the time
    return f"{duration_text(copying)} copying, {duration_text(proof)} the proof"


def _links_in_sum(result: dict[str, Any]) -> list[tuple[str, str]]:
    """How a job over many links went: "Updated 5 · failed 0"."""
    links, failed = result.get("links"), result.get("failed")
    if not isinstance(links, list) or not isinstance(failed, int) or "rows" not in result:
        return []
    undone = str(result.get("sentence", "")).endswith("taken back.")
    verb = "Taken back" if undone or "taken back;" in str(result.get("sentence")) else "Updated"
    return [("Parent paths", f"{verb} {len(links):,} · failed {failed:,}")]


def result_lists(result: Any) -> list[dict[str, Any]]:
    """The result's lists: words, kind (path, text, command), rows, and how many more there are."""
    found = []
    for key, one, several, kind in _LISTS:
        rows = result.get(key) if isinstance(result, dict) else None
        if isinstance(rows, list) and rows and all(isinstance(row, str) for row in rows):
            words = one if len(rows) == 1 else several
            if key == "levels" and result.get("output") in rows:
                words = _MERGED
            found.append(
                {
                    "words": words,
                    "kind": kind,
                    "rows": rows[:LONGEST_LIST],
                    "more": max(0, len(rows) - LONGEST_LIST),
                }
            )
    return found


def _proven(words: str) -> str:
    return format_html('<span class="text-fine">{} {}</span>', icon("shield-check"), words)


def _drawn(value: Any, kind: str) -> str:
    if kind == "bytes" and isinstance(value, int):
        return bytes_(value)
    if kind == "number" and isinstance(value, int):
        return f"{value:,}"
    if kind == "code":
        return format_html('<code class="text">{}</code>', str(value))
    if kind == "proof":
        proven = _proven("written, read again, and the same")
        return format_html('{} <code class="text">{}</code>', proven, str(value))
    return place(value)


# Where jobs over many disks keep their rows.
_ROWS = ("rows", "reports", "children", "outcomes", "problems", "disks", "failed", "to_repair")


def outcomes(result: Any) -> list[dict[str, Any]]:
    """One row for each disk of a job over many: path, what became of it, and why."""
    if not isinstance(result, dict):
        return []
    found: list[dict[str, Any]] = []
    links = [row for row in result.get("links") or [] if isinstance(row, dict)]
    if "rows" not in result:
        found += [_outcome(row, failed=False) for row in links[:2000]]
    now_named = {row.get("child"): row for row in links}
    for key in _ROWS:
        rows = result.get(key)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            for row in rows[:2000]:
                link = now_named.get(row.get("child")) or {}
                found.append(
                    _outcome(link | row, failed=key in ("problems", "failed", "to_repair"))
                )
    return found


def _outcome(row: dict[str, Any], *, failed: bool) -> dict[str, Any]:
    error = row.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    errors, warnings = row.get("errors"), row.get("warnings")
    if isinstance(errors, int) and isinstance(warnings, int):
        failed = failed or errors > 0
        said = said or (
            f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
            if errors or warnings
            else "Nothing is wrong with it."
        )
    disk_id = row.get("disk_id", row.get("disk"))
    return {
        "path": row.get("path") or row.get("child") or row.get("file") or row.get("folder") or "",
        "disk_id": disk_id if isinstance(disk_id, int) else None,
        "failed": failed or bool(error) or row.get("ok") is False,
        "words": said or row.get("message") or row.get("sentence") or _link_words(row),
    }


def _link_words(row: dict[str, Any]) -> str:
    """What became of one parent link."""
    if row.get("was_done"):
        return "Was right already."
    after = row.get("after")
    name = after.get("name") if isinstance(after, dict) else None
    parent = row.get("parent")
    if name and parent:
        return f"Names {name} now: {parent}"
    return f"Names {name or parent} now." if name or parent else ""


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
