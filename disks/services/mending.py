"""Repair headers and Replay log: the dry run for the page, the job, and the catalog afterwards.

One description for each; everything else they share (operations/mending.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from disks.engine import codes
from disks.engine.errors import ImageError
from disks.models import Disk, Job
from disks.operations import fingerprints, mending
from disks.operations.mending import Mend, MendPlan
from disks.operations.progress import Progress
from disks.operations.repair import REPAIR
from disks.operations.replay import REPLAY
from disks.services import audit, declarations, inspection, jobs, parent_updates, roots, sidecars
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext, Recovery


@dataclass(frozen=True)
class Words:
    """label of the button; summary, done and audit of the job; promise: what will happen.

    after: what is done when something is not as planned.
    """

    label: str
    summary: str
    promise: str
    after: str
    done: str
    audit: str


@dataclass(frozen=True)
class Mending:
    """One thing about a disk that can be mended without touching its content.

    address     of its page; key of its button
    codes       the findings that it is for
    in_the_way  findings that keep it from being done
    words       by format; the first ones for all others
    repeatable  an interrupted one leaves the disk waiting for the same to be done again
    """

    kind: str
    mend: Mend
    address: str
    icon: str
    action: str
    codes: frozenset[str]
    in_the_way: tuple[str, ...]
    words: Mapping[str, Words]
    repeatable: bool = False

    def words_for(self, disk: Disk) -> Words:
        return self.words.get(disk.format) or next(iter(self.words.values()))

    def is_needed(self, disk: Disk) -> bool:
        """Whether the last reading of the disk found what this mends; asks no query."""
        return bool(self.codes & _codes(disk))

    def why_not(self, disk: Disk) -> str:
        """What was found that keeps it from being done; empty where nothing was."""
        found = _codes(disk)
        if disk.log_waits and "W_LOG" not in self.codes:
            return declarations.LOG_WAITS
        code = next((one for one in self.in_the_way if one in found), None)
        return "" if code is None else f"{codes.title(code)}: see the findings."


_SAFE = "The disk is opened again and compared afterwards; if anything is not as planned, "
MENDINGS = {
    one.address: one
    for one in (
        Mending(
            Job.Kind.REPLAY_LOG,
            REPLAY,
            "replay-log",
            "device-floppy",
            "log-replayed",
            frozenset({"W_LOG"}),
            ("E_VHDX_HEADER",),
            {
                "vhdx": Words(
                    "Replay log",
                    "Replay the log of {}",
                    "What waits in the log of {} is written into its place, as Windows does when "
                    "it opens the disk",
                    "Interrupted, it leaves the log waiting, and is simply repeated; the log is "
                    "emptied last, after everything was read back.",
                    "The log is replayed and empty. Content, DataWriteGuid and parent link are as "
                    "before: its children go on fitting to it.",
                    "Replayed the log of {}.",
                )
            },
            repeatable=True,
        ),
        Mending(
            Job.Kind.REPAIR,
            REPAIR,
            "repair-headers",
            "tool",
            "headers-repaired",
            frozenset({"E_FOOTER_END", "E_FOOTER_FRONT", "W_HEADER_COPY", "W_REGION_COPY"}),
            ("E_FOREIGN_JOURNAL", "E_FOOTERS_DIFFER", "E_TRUNCATED", "E_RAW_PARENT"),
            {
                "vhd": Words(
                    "Repair footer",
                    "Repair the footer of {}",
                    "The sound footer of {} is written over its damaged copy",
                    f"{_SAFE}the old bytes come back.",
                    "The footer is repaired: both copies are sound and equal. The content was not "
                    "touched.",
                    "Repaired the footer of {} from its sound copy.",
                ),
                "vhdx": Words(
                    "Repair headers",
                    "Repair the headers of {}",
                    "What is sound of the two headers and the two region tables of {} is written "
                    "over what is damaged",
                    f"{_SAFE}it is taken back.",
                    "The headers are repaired: both headers and both region tables are sound. The "
                    "content was not touched.",
                    "Repaired the headers of {} from their sound copies.",
                ),
            },
        ),
    )
}
_BY_KIND = {one.kind: one for one in MENDINGS.values()}


def _codes(disk: Disk) -> set[str]:
    """Lists leave the findings in the database; the verdict's code has to do there."""
    found = {"W_LOG"} if disk.log_waits else set()
    if "findings" not in disk.__dict__:  # deferred
        return found | {disk.health_code}
    return found | {row.get("code", "") for row in disk.findings}


def plan(what: Mending, disk: Disk) -> MendPlan:
    """The dry run; raises ImageError with the refusal."""
    with closing(roots.operation_roots()) as scope:
        return mending.plan(what.mend, disk.path, scope)


def request(
    what: Mending,
    disk: Disk,
    *,
    user: Any,
    idempotency_key: str,
    fingerprint: str | None = None,
    declared_offline: bool = False,
    address: str = "",
) -> Job:
    """Ask for it to be done; the caller enqueues the job. Raises what the plan refuses.

    fingerprint: of the plan that was shown; E_CHANGED if it is not the same any more.
    """
    declarations.require([disk.path], declared_offline=declared_offline)
    planned = plan(what, disk)
    if fingerprint is not None and planned.fingerprint != fingerprint:
        raise fingerprints.changed(disk.path)
    return jobs.request(
        kind=what.kind,
        parameters={
            "path": disk.path,
            "fingerprint": planned.fingerprint,
            "changes": readable(planned.as_dict()["changes"]),
        },
        user=user,
        disk=disk,
        root=disk.root,
        summary=what.words_for(disk).summary.format(readable(disk.name)),
        exclusive=[disk.path],
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )


def run(parameters: dict[str, Any], progress: Progress, context: JobContext) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, write."""
    what = _BY_KIND[context.job.kind]
    path = parameters["path"]
    with closing(context.roots()) as scope:
        try:
            planned = mending.plan(what.mend, path, scope)
        except ImageError as error:
            if error.code == what.mend.nothing and what.repeatable and context.job.attempts > 1:
                return {}  # an earlier attempt came to its end before its worker did
            raise
        if planned.fingerprint != parameters["fingerprint"]:
            raise fingerprints.changed(path)
        return mending.apply(
            what.mend,
            planned,
            scope,
            offline=context.job.declared_offline,
            job=context.name,
            token=context.token,
            progress=progress,
            known_children=parent_updates.recorded_times(path),
        )


def recover(job: Job, context: JobContext) -> Recovery:
    """What the sidecar says; without one, whether the work was over already.

    What is complete leaves no record: the disk itself tells.
    """
    what = _BY_KIND[job.kind]
    recovery = sidecars.recover_by_sidecars(job, context)
    if recovery.action != "nothing" or sidecars.RECORDS not in job.result:
        return recovery
    with closing(context.roots()) as scope:
        try:
            mending.plan(what.mend, restored(job.parameters)["path"], scope)
        except ImageError as error:
            if error.code == what.mend.nothing:
                return Recovery("finished")
            raise
    return recovery


def finished(job: Job, result: dict[str, Any]) -> None:
    """The catalog afterwards: the content is the same, so children are not warned."""
    what = _BY_KIND[job.kind]
    parameters = restored(job.parameters)
    path = parameters["path"]
    result.pop("links", None)  # recovery speaks of the parent link, which is as it was
    result.pop("path", None)  # the job's own disk
    inspection.refresh_paths([], rewritten=[path], job=job)
    disk = job.disk
    if disk is None:
        result["sentence"] = next(iter(what.words.values())).done
        return
    words = what.words_for(disk)
    result["sentence"] = words.done
    if disk.audit.filter(job=job, action=what.action).exists():
        return
    changes = result.get("changes") or parameters["changes"]
    audit.record(
        user=job.requested_by,
        action=what.action,
        sentence=words.audit.format(readable(disk.name)),
        disk=disk,
        job=job,
        before={row["field"]: row["now"] for row in changes},
        after={row["field"]: row["after"] for row in changes},
    )
