"""The one table: what a job of each kind does, and what becomes of it when its worker dies.

Functions are named, not imported: services ask for jobs and jobs call services, so one
of the two has to be found late. A test resolves every name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from disks.engine.files import FileIdentity
from disks.engine.images import DiskType
from disks.models import Job
from disks.services.stored_json import restored

if TYPE_CHECKING:
    from disks.operations import paths


BEGUN_AS = "begun_as"  # parameter: how the files call the job that began it
ONLY_TOUCHED = "only_touched"  # parameter: base of a merge, as it was when that was said of it
AS_IT_WAS = "Cancelled. Every file is as it was."


def said_untouched(parameters: dict[str, Any]) -> FileIdentity | None:
    """The base of a merge as it was when somebody said that nobody has written to it."""
    told = parameters.get(ONLY_TOUCHED)
    return FileIdentity.from_dict(told) if told else None


@dataclass(frozen=True)
class Work:
    """How one kind of job is done. All names are dotted paths of functions.

    run       (parameters: dict, progress: Progress, context: JobContext) -> dict
              Does it and returns the job's result. Cancelled, ImageError and Refusal are
              ends like any other; it has cleaned up when it raises.
    recover   (job: Job, context: JobContext) -> Recovery
              Finishes or undoes what a dead worker left; repeatable. The usual one asks the
              sidecars in the folders of the job's locks. Empty: such work leaves nothing.
    finished  (job: Job, result: dict) -> None
              Brings the catalog up to date after success, also after a recovery that
              finished the work. Must be repeatable.
    moves_data  It copies or moves what disks hold, so storage roots may limit when it runs, how
              fast it is, and how many run.
    measured_in_bytes  What it tells of how far it is; else it counts files or disks.
    cancelled, cancelled_in_place, lost
              What is said of the files after a stop, or when the worker died.
    requeue_when_lost  The work may simply be done again, after recover(): it changes nothing
              (scan, check), or what it has done already it recognises (a repair plan).
              Work in place is of that kind, too, whatever stands here: see goes_on().
    """

    run: str
    finished: str = ""
    recover: str = "disks.services.sidecars.recover_by_sidecars"
    requeue_when_lost: bool = False
    moves_data: bool = False
    measured_in_bytes: bool = True
    cancelled: str = AS_IT_WAS
    cancelled_in_place: str = ""
    lost: str = "The worker stopped before the work was complete; nothing was changed."

    def after_cancel(self, parameters: dict[str, Any]) -> str:
        """What is said of the files once it was cancelled."""
        in_place = works_in_place(parameters) and self.cancelled_in_place
        return in_place or self.cancelled

    def takes_a_turn(self, parameters: dict[str, Any]) -> bool:
        """Does it count among the jobs of which a storage root lets only some run at once?

        A new fixed disk moves nothing, but storage that cannot reserve room writes all of it.
        """
        return self.moves_data or parameters.get("disk_type") == DiskType.FIXED

    def goes_on(self, parameters: dict[str, Any]) -> bool:
        """May it end half-way and be started again, to go on? So it can be paused."""
        return self.requeue_when_lost or works_in_place(parameters)


def works_in_place(parameters: dict[str, Any]) -> bool:
    """In batches that are each complete, where the disk lies. Such work goes on by itself."""
    return bool(parameters.get("in_place"))


def name_in_files(pk: int, begun_as: Any) -> str:
    """A job's name in sidecars, temporary names and the trash.

    begun_as: as it is stored, of one that goes on with what somebody else began: the name that
    this has there.
    """
    return str(restored(begun_as) or pk)


@dataclass(frozen=True)
class JobContext:
    """What a running job may know about itself."""

    job: Job
    token: int

    @property
    def name(self) -> str:
        """The job's name in sidecars, temporary names and the trash."""
        return name_in_files(self.job.pk, self.job.parameters.get(BEGUN_AS))

    def roots(self) -> paths.Roots:
        """The storage roots as they are now."""
        from disks.services import roots

        return roots.operation_roots()


@dataclass(frozen=True)
class Recovery:
    """What recovery found: `nothing`, `undone` or `finished`; with the finished work's result.

    `stopped`: every file is consistent, but the work has only its first part behind it, cannot
    be taken back, and has to go on. Its job keeps its locks until it does.

    `ending`: the same, and a disk cannot be read before it is done, a moment's work: so that goes
    on even if somebody has asked to stop.
    """

    action: str
    sentence: str = ""
    result: dict[str, Any] = field(default_factory=dict)


_SOME_STAY = "Cancelled. What was done before that stays, and can be undone."
_DONE_STAYS = "What was done before that stays."

WORK: dict[str, Work] = {
    Job.Kind.SCAN: Work(
        "disks.services.scanning.run_scan",
        recover="",
        requeue_when_lost=True,
        measured_in_bytes=False,
    ),
    Job.Kind.CHECK: Work("disks.services.inspection.run_check", recover="", requeue_when_lost=True),
    Job.Kind.UPDATE_PARENT: Work(
        "disks.services.parent_updates.run_update", "disks.services.parent_updates.finished_update"
    ),
    Job.Kind.UNDO_UPDATE: Work(
        "disks.services.parent_updates.run_undo", "disks.services.parent_updates.finished_update"
    ),
    Job.Kind.REPAIR_PLAN: Work(
        "disks.services.repair_plans.run_repair",
        "disks.services.parent_updates.finished_update",
        requeue_when_lost=True,
        measured_in_bytes=False,
        cancelled=_SOME_STAY,
        lost=_DONE_STAYS,
    ),
    Job.Kind.UNDO_PLAN: Work(
        "disks.services.repair_plans.run_undo_plan",
        "disks.services.parent_updates.finished_update",
        requeue_when_lost=True,
        measured_in_bytes=False,
        cancelled="Cancelled. What was taken back before that stays so.",
        lost=_DONE_STAYS,
    ),
    Job.Kind.REPAIR: Work(
        "disks.services.mending.run",
        "disks.services.mending.finished",
        "disks.services.mending.recover",
    ),
    Job.Kind.REPLAY_LOG: Work(
        "disks.services.mending.run",
        "disks.services.mending.finished",
        "disks.services.mending.recover",
        requeue_when_lost=True,
        lost="The log still waits, and the disk reads as before.",
    ),
    Job.Kind.MERGE: Work(
        "disks.services.merging.run_merge",
        "disks.services.merging.finished_merge",
        "disks.services.merging.recover_merge",
        moves_data=True,
    ),
    Job.Kind.PILE: Work(
        "disks.services.piles.run_pile",
        "disks.services.piles.finished_pile",
        requeue_when_lost=True,
        moves_data=True,
        cancelled="Cancelled. Piles that were merged before that stay merged, and what that "
        "replaced is in the trash; every other file is as it was.",
        lost=_DONE_STAYS,
    ),
    Job.Kind.COMPACT: Work(
        "disks.services.compacting.run_compact",
        "disks.services.compacting.finished_compact",
        "disks.services.compacting.recover_compact",
        moves_data=True,
        cancelled_in_place="Cancelled. The disk reads as before. What was given back until then "
        "stays so: compact it again, and it goes on with the rest.",
        lost="The worker stopped; the disk reads as before.",
    ),
    Job.Kind.CONVERT: Work(
        "disks.services.converting.run_convert",
        "disks.services.converting.finished_convert",
        moves_data=True,
    ),
    Job.Kind.EXPAND: Work(
        "disks.services.expanding.run_expand",
        "disks.services.expanding.finished_expand",
        "disks.services.expanding.recover_expand",
        moves_data=True,
        lost="The worker stopped before the disk was larger; its content is as it was.",
    ),
    Job.Kind.CREATE: Work(
        "disks.services.creating.run_create", "disks.services.creating.finished_create"
    ),
    Job.Kind.COPY: Work(
        "disks.services.relocating.run_copy",
        "disks.services.relocating.finished_copy",
        moves_data=True,
    ),
    Job.Kind.MOVE: Work(
        "disks.services.relocating.run_move",
        "disks.services.relocating.finished_move",
        "disks.services.relocating.recover_job",
        moves_data=True,
    ),
    Job.Kind.DELETE: Work(
        "disks.services.relocating.run_delete",
        "disks.services.relocating.finished_delete",
        "disks.services.relocating.recover_job",
    ),
    Job.Kind.RESTORE: Work(
        "disks.services.trash.run_restore",
        "disks.services.trash.finished_restore",
        requeue_when_lost=True,
        lost=_DONE_STAYS,
    ),
    Job.Kind.EMPTY_TRASH: Work(
        "disks.services.trash.run_empty",
        recover="",
        requeue_when_lost=True,
        cancelled="Cancelled. What was deleted before that is gone; the rest is still there.",
        lost=_DONE_STAYS,
    ),
}


def function(name: str) -> Callable[..., Any]:
    """The function behind a name of the table."""
    found: Callable[..., Any] = import_string(name)
    return found
