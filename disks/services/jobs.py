"""Jobs: request, claim, run, cancel, try again. The row is the truth (crash-safety §6).

Every change of state is one conditional update on the state and the token that were seen,
with its audit row in the same transaction; whoever comes second changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.models import User as Account
from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    transaction,
)
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Disk, DiskLock, Job, JobLogLine, StorageRoot
from disks.operations.progress import Cancelled, Stopped
from disks.services import access, audit, declarations, leases, processes, roots, sidecars, timing
from disks.services.errors import Refusal
from disks.services.leases import Lease, LeaseLost
from disks.services.stored_json import readable, restored, storable
from disks.services.timing import End
from disks.services.work import WORK, JobContext, function, works_in_place
from disks.services.worker_progress import JobProgress

logger = logging.getLogger(__name__)

User = Account | AnonymousUser | None

PARAMETERS_VERSION = 1
WAITING = "Waiting for a worker."
PAUSED = "Paused. It goes on where it stopped when it is resumed."
HELD_SHUT_DOWN = "Paused. Its worker was shut down meanwhile: it begins anew when it is resumed."
SHUT_DOWN = "Its worker was shut down. The next one does it."
STORING_TRIES = 10
# Of a job that waits for no other one, no root and no moment. A moment that is left behind
# would have the reconciler wake a job that somebody, or the end of its time, has paused.
NOTHING_AWAITED: dict[str, Any] = {"waits_for": None, "waits_for_root": None, "resume_at": None}


class Sender:
    """How ids of jobs reach the workers: set by `disks.tasks`, for services know no broker."""

    send: Callable[[int], object] | None = None


def hand_over(job_id: int) -> None:
    """Tell the workers after the transaction; where nothing can, the reconciler does."""

    def send() -> None:
        if Sender.send is not None:
            Sender.send(job_id)

    transaction.on_commit(send)


# --- asking for a job --------------------------------------------------------------------


def request(
    *,
    kind: str,
    parameters: dict[str, Any],
    user: User,
    summary: str,
    idempotency_key: str,
    disk: Disk | None = None,
    root: StorageRoot | None = None,
    exclusive: list[str] | None = None,
    shared: list[str] | None = None,
    declared_offline: bool = False,
    said: str = "",
    repeats: Job | None = None,
    address: str = "",
) -> Job:
    """Store a job; the same key gives the same job, however often it is asked for.

    exclusive: paths that it changes, makes or replaces, and the children of what changes;
    shared: the ancestors that it only reads. The caller enqueues it in the same transaction.
    said: which declaration was made (Job.Said), where the roots do not tell.
    Raises Refusal E_IDEMPOTENCY when the key was used for work of another kind.
    """
    if len(idempotency_key) > 64:
        idempotency_key = hashlib.sha256(idempotency_key.encode()).hexdigest()
    locks = {"exclusive": sorted(set(exclusive or [])), "shared": sorted(set(shared or []))}
    known = user if isinstance(user, Account) else None
    if declared_offline:
        said = said or _said_of(locks["exclusive"])
    which = {"said": str(said)} if said else {}
    declared = {"declared_offline": declared_offline} | (
        {"declared_unrelated": parameters["unrelated"]} if parameters.get("unrelated") else {}
    )
    try:
        with transaction.atomic():
            job = Job.objects.create(
                kind=kind,
                parameters=storable(parameters | {"locks": locks} | which),
                parameters_version=PARAMETERS_VERSION,
                summary=readable(summary),
                sentence=WAITING,
                root=root,
                disk=disk,
                repeats=repeats,
                idempotency_key=idempotency_key,
                declared_offline=declared_offline,
                requested_by=known,
                requested_at=timezone.now(),
            )
            audit.record(
                user=user,
                action="job-requested",
                sentence=f"{summary}: requested{_declared(**declared, said=said)}.",
                disk=disk,
                job=job,
                after={"kind": kind, **declared, **which, "locks": locks},
                address=address,
            )
    except IntegrityError:
        earlier = Job.objects.filter(idempotency_key=idempotency_key).first()
        if earlier is None:
            raise
        if earlier.kind != kind:
            raise Refusal(
                "E_IDEMPOTENCY",
                f"This form was already used for job {earlier.pk} ({earlier.summary}).",
                "Open the page anew and send it again.",
            ) from None
        return earlier
    return job


def _said_of(host_paths: list[str]) -> str:
    """Disks that nobody else opens are not asked about: there only a manager is."""
    roots = declarations.roots_of(host_paths)
    nobody = StorageRoot.OpenedBy.NOBODY
    if roots and all(root.opened_by == nobody for root in roots):
        return Job.Said.UNMANAGED
    return Job.Said.OFFLINE


_SAID = {
    Job.Said.OFFLINE: ", declared offline",
    Job.Said.UNMANAGED: ", with its manager declared stopped",
}


def _declared(
    declared_offline: bool, declared_unrelated: Sequence[str] = (), said: str = ""
) -> str:
    """What somebody took the responsibility for, as the end of a sentence."""
    words = _SAID[Job.Said(said)] if declared_offline else ""
    if declared_unrelated:
        count = len(declared_unrelated)
        what = declared_unrelated[0] if count == 1 else f"{count:,} files or folders"
        words += f", {what} declared to build on none of its disks though not readable"
    return words


# --- claiming ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    job: Job
    token: int
    claimed_at: float  # leases.clock(), before the claim began


def claim(job_id: int) -> Claim | None:
    """Make the queued job this process's, with all its locks; None when it is not to be had.

    A job that another one blocks stays queued, and says for whom it waits.
    """
    claimed_at = leases.clock()
    if not Job.objects.filter(pk=job_id, status=Job.Status.QUEUED).exists():
        return None  # the usual second delivery: no lock, no transaction
    with transaction.atomic(durable=True):
        leases.one_claim_at_a_time()
        job = (
            Job.objects.select_related("requested_by", "disk", "root")
            .filter(pk=job_id, status=Job.Status.QUEUED)
            .first()
        )
        if job is None:
            return None
        if job.kind not in WORK or job.parameters_version > PARAMETERS_VERSION:
            _queued(job).update(sentence="Waiting for a worker of a newer version.")
            return None
        if missed := timing.missed(job, timezone.now()):
            _queued(job).update(status=Job.Status.PAUSED, sentence=missed, **NOTHING_AWAITED)
            audit_state(job, Job.Status.QUEUED, Job.Status.PAUSED, missed, user=None)
            return None
        early = timing.waits_for_the_clock(job, timezone.now())
        if early is not None:
            _queued(job).update(**(NOTHING_AWAITED | early))
            return None
        wanted = leases.wanted_locks(job)
        blocking = leases.holder(wanted, job) or _earlier_waiting(wanted, job)
        if blocking is not None:
            awaited = NOTHING_AWAITED | {"waits_for": blocking}
            _queued(job).update(sentence=_waits_for(blocking), **awaited)
            return None
        full = timing.full_root(job)
        if full is not None:
            root, running = full
            sentence = timing.waits_for_room(root, running)
            _queued(job).update(sentence=sentence, **(NOTHING_AWAITED | {"waits_for_root": root}))
            return None
        token = job.token + 1
        claimed = _queued(job).update(
            status=Job.Status.RUNNING,
            token=token,
            attempts=F("attempts") + 1,
            **NOTHING_AWAITED,
            worker=processes.this_process(),
            started_at=Now(),
            heartbeat_at=Now(),
            lease_until=leases.from_now(settings.JOB_LEASE_SECONDS),
            cancellable=True,
            step="start",
            sentence="Starting.",
            done_bytes=0,
            total_bytes=0,
            pause_requested_at=None,
            held_at=None,
        )
        if not claimed:
            return None
        leases.take_locks(wanted, job, token)
        audit_state(job, Job.Status.QUEUED, Job.Status.RUNNING, "started.", user=job.requested_by)
        job.refresh_from_db()
    return Claim(job, token, claimed_at)


def _queued(job: Job) -> Any:
    return Job.objects.filter(pk=job.pk, status=Job.Status.QUEUED, token=job.token)


def _waits_for(blocking: Job) -> str:
    sentence = f"Waits for job {blocking.pk} ({blocking.summary or blocking.get_kind_display()})"
    if blocking.status == Job.Status.NEEDS_ATTENTION:
        return sentence + ", which needs attention."
    if blocking.status == Job.Status.PAUSED:
        return sentence + ", which is paused."
    return sentence + "."


def _earlier_waiting(wanted: list[tuple[str, str]], job: Job) -> Job | None:
    """An older job that waits for one of these locks goes first, or it might wait forever."""
    modes = dict(wanted)
    for other in Job.objects.filter(
        status=Job.Status.QUEUED, waits_for__isnull=False, pk__lt=job.pk
    ).order_by("pk"):
        for path, mode in leases.wanted_locks(other):
            if path in modes and DiskLock.Mode.EXCLUSIVE in (mode, modes[path]):
                return other
    return None


# --- running -----------------------------------------------------------------------------


def run(job_id: int) -> None:
    """Claim the job and do it, in this process. Returns at once when it is not to be had."""
    claimed = claim(job_id)
    if claimed is None:
        return
    lease = Lease(claimed.job.pk, claimed.token, Job.Status.RUNNING, claimed.claimed_at)
    with lease:
        _perform(claimed, lease)


def run_now(job: Job) -> Job:
    """Do a short job in the calling process, on the same path; the row as it is afterwards.

    Still queued? Then another job blocks it; the reconciler sends it when that one ends.
    """
    run(job.pk)
    job.refresh_from_db()
    return job


def _perform(claimed: Claim, lease: Lease) -> None:
    """Do the work, then store how it ended: with patience, for it may have taken hours."""
    store_end = _work(claimed, lease)
    for _ in range(STORING_TRIES):
        try:
            store_end()
        except (OperationalError, InterfaceError) as error:
            # the database is locked or away; if it stays so, recovery finds out what was done
            logger.warning("job %s: its end is not stored yet: %s", claimed.job.pk, error)
            connection.close()
            time.sleep(settings.JOB_PROGRESS_SECONDS)
        else:
            return
    logger.error("job %s: its end could not be stored", claimed.job.pk)


def _work(claimed: Claim, lease: Lease) -> Callable[[], object]:
    """Do the work; what is returned stores its end, and may be called again."""
    job, token = claimed.job, claimed.token
    work = WORK[job.kind]
    context = JobContext(job, token)
    parameters = restored(job.parameters)
    progress = JobProgress(
        lease,
        lambda: sidecars.traces(job, context),
        goes_on=work.goes_on(parameters),
        in_batches=works_in_place(parameters),
        rules=partial(timing.rules, job.pk),
        may_be_held=work.moves_data,
        worked_seconds=job.worked_seconds or 0.0,
    )
    seen = Job.Status.RUNNING
    try:
        try:
            result = function(work.run)(parameters, progress, context)
            progress.flush()
        finally:
            progress.note_worked()
    except Stopped as stopped:
        told = stopped.reason
        if progress.is_shut_down:
            return partial(put_back, job, token, seen, if_paused=told, moved=True)
        return partial(put_off, job, token, seen, told, cancellable=False, by=progress.ended_by)
    except Cancelled:
        if progress.is_shut_down:
            if_paused = PAUSED if work.goes_on(parameters) else HELD_SHUT_DOWN
            return partial(put_back, job, token, seen, if_paused=if_paused)
        by, cancelled = progress.ended_by, work.after_cancel(parameters)
        if progress.is_pausing:
            return partial(put_off, job, token, seen, PAUSED, by=by)
        if by is not None:
            told = f"Stopped at {timing.moment(by.at)}, as asked. {cancelled}"
            return partial(end, job, token, seen, Job.Status.CANCELLED, told)
        return partial(end, job, token, seen, Job.Status.CANCELLED, cancelled)
    except LeaseLost as error:
        logger.warning("%s", error)
        return partial(lose, job, token, seen, "The worker was away too long and lost its lease.")
    except (ImageError, Refusal) as error:
        return partial(fail, job, token, readable(error.as_dict()))
    except Exception:
        logger.exception("job %s (%s) failed", job.pk, job.kind)
        return partial(fail, job, token, INTERNAL_ERROR)

    if isinstance(result, dict) and progress.waited_seconds >= 0.1:
        result = result | {"waited_seconds": round(progress.waited_seconds, 1)}
    if isinstance(result, dict) and "seconds" in result and work.goes_on(parameters):
        result = result | {"seconds": round(progress.worked_seconds, 3)}  # not of its last part

    def done() -> None:
        note_finished(job, result)
        succeed(job, token, seen, result)

    return done


INTERNAL_ERROR: dict[str, Any] = {
    "code": "E_INTERNAL",
    "message": "Internal error. The log of the worker has the details.",
    "file": None,
    "field": None,
    "offset": None,
    "value": None,
}


def note_finished(job: Job, result: dict[str, Any]) -> None:
    """Bring the catalog up to date; the work is done, so an error in here is only logged."""
    work = WORK[job.kind]
    try:
        roots.measure(restored(job.parameters).get("locks", {}).get("exclusive", []))
        if work.finished:
            function(work.finished)(job, result)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        logger.exception("job %s: the catalog was not brought up to date", job.pk)
        JobLogLine.objects.create(
            job=job,
            at=timezone.now(),
            text="The catalog could not be brought up to date; the next scan will do it.",
        )


def fail(job: Job, token: int, error: dict[str, Any]) -> None:
    """End the job with its error; or leave it to recovery, when it left something half done."""
    if _left_something(job, token):
        Job.objects.filter(pk=job.pk, token=token).update(error=error)
        lose(
            job,
            token,
            Job.Status.RUNNING,
            f"{error['message']} What it had begun is being taken back.",
        )
        return
    end(
        job,
        token,
        Job.Status.RUNNING,
        Job.Status.FAILED,
        str(error["message"]),
        error=error,
    )


def _left_something(job: Job, token: int) -> bool:
    if not WORK[job.kind].recover:
        return False
    try:
        return sidecars.left_unfinished(job, JobContext(job, token))
    except ImageError as error:
        # storage that is away now is a reason for recovery to look, as often as it takes
        logger.warning("job %s: sidecars could not be looked for: %s", job.pk, error)
        return error.code in ("E_IO", "E_ROOT_CHANGED", "E_ROOT_OFFLINE")


def succeed(
    job: Job, token: int, seen: str, result: dict[str, Any], sentence: str = "Done."
) -> bool:
    """The work is done. False when the job is not ours any more."""
    said = result.get("sentence") if isinstance(result, dict) else None
    return end(
        job,
        token,
        seen,
        Job.Status.SUCCEEDED,
        str(said or sentence),
        result=readable(result),
        error=None,
    )


def end(job: Job, token: int, seen: str, status: str, sentence: str, **columns: Any) -> bool:
    """Into a final state: locks go, those who waited are sent. False: not ours any more."""
    with transaction.atomic():
        changed = Job.objects.filter(pk=job.pk, token=token, status=seen).update(
            status=status,
            sentence=readable(sentence),
            finished_at=Now(),
            lease_until=None,
            cancellable=False,
            **(NOTHING_AWAITED | {"result": {}} | columns),
        )
        if not changed:
            logger.warning("job %s: token %s no longer owns it", job.pk, token)
            return False
        audit_state(job, seen, status, sentence, user=job.requested_by)
        release(job)
    return True


def put_off(
    job: Job,
    token: int,
    seen: str,
    sentence: str,
    *,
    cancellable: bool = True,
    by: End | None = None,
) -> bool:
    """Running or recovering → paused; the locks stay. False: the job is not ours any more.

    cancellable: whether it may still be ended without going on. by: the end of its time, if
    that stopped it; then it may go on by itself.
    """
    clock = timing.put_off_by_the_clock(job, by) if by is not None else {}
    if "sentence" in clock:
        sentence = clock.pop("sentence") + ("" if cancellable else f" {sentence}")
    with transaction.atomic():
        changed = Job.objects.filter(pk=job.pk, token=token, status=seen).update(
            status=Job.Status.PAUSED,
            sentence=readable(sentence),
            cancellable=cancellable,
            lease_until=None,
            worker={},
            cancel_requested_at=None,
            pause_requested_at=None,
            result={},
            error=None,
            **({"resume_at": None} | clock),
        )
        if changed:
            audit_state(job, seen, Job.Status.PAUSED, sentence, user=job.requested_by)
            send_where_room_is()
    return bool(changed)


def put_back(job: Job, token: int, seen: str, *, if_paused: str, moved: bool = False) -> bool:
    """Running → queued, for another worker; this one shuts down. bad-input F98.

    if_paused: the sentence where somebody has asked it to pause, perhaps only while it stopped:
    then it is paused. moved: data has moved in place, so its locks stay and it can only be gone
    on with; else every file is as it was. False: the job is not ours any more.
    """
    ours = Job.objects.filter(pk=job.pk, token=token, status=seen)
    to_go_on = Q(pause_requested_at=None) | Q(cancel_requested_at__isnull=False)  # it counts more
    with transaction.atomic():
        changed = ours.filter(to_go_on).update(
            status=Job.Status.QUEUED,
            sentence=SHUT_DOWN,
            cancellable=not moved,
            attempts=F("attempts") - 1,  # it is not the job that made its worker end
            lease_until=None,
            worker={},
            sent_at=None,
            result={},
            error=None,
            **NOTHING_AWAITED,
        )
        if changed:
            audit_state(job, seen, Job.Status.QUEUED, SHUT_DOWN, user=None)
            if not moved:
                release(job)
            hand_over(job.pk)
    return bool(changed) or put_off(job, token, seen, if_paused, cancellable=not moved)


def release(job: Job) -> None:
    """Within a transaction: give the locks back, and send the jobs that waited for them."""
    DiskLock.objects.filter(job=job).delete()
    waiting = Job.objects.filter(waits_for=job, status=Job.Status.QUEUED).order_by("pk")
    for job_id in list(waiting.values_list("pk", flat=True)):
        Job.objects.filter(pk=job_id, status=Job.Status.QUEUED, waits_for=job).update(
            waits_for=None, sentence=WAITING
        )
        hand_over(job_id)
    send_where_room_is()


def send_where_room_is() -> None:
    """Within a transaction: send the jobs whose turn has come on a storage root."""
    for job_id in timing.may_go_now():
        hand_over(job_id)


def lose(job: Job, token: int, seen: str, sentence: str) -> bool:
    """The job has no worker any more; its locks stay until recovery is through."""
    with transaction.atomic():
        changed = Job.objects.filter(pk=job.pk, token=token, status=seen).update(
            status=Job.Status.LOST, sentence=readable(sentence), lease_until=None, worker={}
        )
        if changed:
            audit_state(job, seen, Job.Status.LOST, sentence, user=None)
    return bool(changed)


def audit_state(
    job: Job, before: str, after: str, sentence: str, *, user: User, address: str = ""
) -> None:
    """The audit row of a change of state, for the same transaction."""
    audit.record(
        user=user,
        action=f"job-{after}",
        sentence=f"{job.summary or job.get_kind_display()}: {sentence}",
        disk=job.disk,
        job=job,
        before={"status": str(before)},
        after={"status": str(after)},
        address=address,
    )


# --- trying again -----------------------------------------------------------


# Jobs that carry out a plan of one disk as it was shown in a form.
PLANNED_KINDS = frozenset(
    (
        Job.Kind.UPDATE_PARENT,
        Job.Kind.REPAIR,
        Job.Kind.REPLAY_LOG,
        Job.Kind.MERGE,
        Job.Kind.PILE,
        Job.Kind.COMPACT,
        Job.Kind.CONVERT,
        Job.Kind.EXPAND,
        Job.Kind.COPY,
        Job.Kind.MOVE,
        Job.Kind.DELETE,
    )
)


def needs_a_new_plan(job: Job) -> bool:
    """Whether trying again can only fail: what the job's plan was made for is not so any more."""
    return (
        job.status == Job.Status.FAILED
        and job.kind in PLANNED_KINDS
        and job.disk_id is not None
        and isinstance(job.error, dict)
        and job.error.get("code") in ("E_CHANGED", "E_UNREAD_DISKS")
    )


def retry(job: Job, user: User, address: str = "", *, declared_offline: bool | None = None) -> Job:
    """A new job with the same parameters; pressed twice, it is the same new job.

    declared_offline: said anew, for a machine may have been started since; None keeps what
    was said (command line). Raises Refusal E_NOT_OFFLINE where it is needed and was not
    said, E_NOT_ALLOWED for what only an administrator may ask for, E_CHANGED where only a
    new plan helps.

    One that needs attention is not repeated: its recovery is tried again, for what it left
    half done comes first. The caller enqueues what is returned.
    """
    job.refresh_from_db()
    if job.status == Job.Status.NEEDS_ATTENTION:
        with transaction.atomic():
            changed = Job.objects.filter(
                pk=job.pk, status=Job.Status.NEEDS_ATTENTION, token=job.token
            ).update(
                status=Job.Status.LOST,
                recoveries=0,
                sentence="Recovery will be tried again.",
                finished_at=None,
            )
            if changed:
                audit_state(
                    job,
                    Job.Status.NEEDS_ATTENTION,
                    Job.Status.LOST,
                    "recovery is tried again.",
                    user=user,
                    address=address,
                )
        job.refresh_from_db()
        return job
    if job.status not in (Job.Status.FAILED, Job.Status.CANCELLED):
        raise Refusal(
            "E_NOT_ENDED",
            f"Job {job.pk} cannot be tried again: it is “{job.get_status_display()}”.",
        )
    if needs_a_new_plan(job):
        raise Refusal(
            "E_CHANGED",
            f"Job {job.pk} cannot be tried again: what it was planned for has changed since.",
            "Open the form of this disk again: it plans with everything as it is now.",
        )
    parameters = restored(job.parameters)
    locks = parameters.pop("locks", {})
    said = parameters.pop("said", "")
    if parameters.get("ignore_identity") and user is not None and not _administers(user):
        raise Refusal(
            "E_NOT_ALLOWED",
            "Only an administrator can give a disk a parent of another identity.",
        )
    if job.declared_offline and declared_offline is False:
        raise Refusal(
            "E_NOT_OFFLINE",
            f"Job {job.pk} was asked for with the declaration that its disks are offline; "
            "that was then.",
            "Make sure that nobody has these disks open now, and declare it again.",
        )
    again = request(
        kind=job.kind,
        parameters=parameters,
        user=user,
        summary=job.summary,
        idempotency_key=f"retry-of-{job.pk}",
        disk=job.disk,
        root=job.root,
        exclusive=locks.get("exclusive", []),
        shared=locks.get("shared", []),
        declared_offline=job.declared_offline,
        said=Job.Said.OFFLINE if job.declared_offline and declared_offline else said,
        repeats=job,
        address=address,
    )
    timing.choose(again, timing.chosen_again(job), user=user, address=address)
    return again


def _administers(user: User) -> bool:
    return access.allows(user, access.Role.ADMINISTRATOR)


def document(job: Job) -> dict[str, Any]:
    """A job for scripts; names that are not UTF-8 are shown escaped."""
    return {
        "id": job.pk,
        "kind": job.kind,
        "status": job.status,
        "summary": job.summary,
        "step": job.step,
        "sentence": job.sentence,
        "done_bytes": job.done_bytes,
        "total_bytes": job.total_bytes,
        "waits_for": job.waits_for_id,
        "repeats": job.repeats_id,
        "parameters": readable(restored(job.parameters)),
        "result": job.result,
        "error": job.error,
        "requested_by": job.requested_by.get_username() if job.requested_by else audit.SYSTEM,
        "requested_at": job.requested_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "worked_seconds": job.worked_seconds,
        "cancel_requested_at": job.cancel_requested_at,
        "pause_requested_at": job.pause_requested_at,
        "held_at": job.held_at if job.is_held else None,
        "not_before": job.not_before,
        "stop_by": job.stop_by,
        "outside_hours": job.outside_hours,
        "resume_at": job.resume_at,
        "limit_bytes_per_second": job.limit_bytes_per_second,
        "cancellable": (job.is_active or job.is_paused) and job.cancellable,
        "worker": job.worker,
        "token": job.token,
        "attempts": job.attempts,
        "recoveries": job.recoveries,
    }
