"""When a job runs: what its storage roots allow, and what was chosen for it.

Roots have hours for long jobs, a number of jobs at once, and a limit of speed (speed.py). A job
that has to wait for the clock is queued, or paused half-way, with the moment in `resume_at`; the
reconciler wakes it. A copy is held then: its worker waits with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from disks.engine.units import MIB
from disks.models import Job, StorageRoot
from disks.services import audit, held, job_roots, speed
from disks.services.hours import Hours
from disks.services.work import WORK

_TRIES = 16  # jumps from one root's hours to the next one's; more, and they never meet


@dataclass(frozen=True)
class Choice:
    """What was chosen for one job.

    limit_bytes_per_second  None: as its roots say; 0: none
    not_before              when it may start; None: at once
    stop_by                 when it pauses, or, where it cannot, is cancelled; None: never
    outside_hours           it does not mind the hours of its roots
    """

    limit_bytes_per_second: int | None = None
    not_before: datetime | None = None
    stop_by: datetime | None = None
    outside_hours: bool = False

    @property
    def is_usual(self) -> bool:
        return self == Choice()

    def columns(self) -> dict[str, Any]:
        """Of the job's row."""
        return {
            "limit_bytes_per_second": self.limit_bytes_per_second,
            "not_before": self.not_before,
            "stop_by": self.stop_by,
            "outside_hours": self.outside_hours,
        }


def choose(job: Job, choice: Choice, *, user: Any, address: str = "") -> None:
    """Keep what was chosen for a job that is asked for, in the same transaction; audited."""
    if choice.is_usual or job.status != Job.Status.QUEUED or chosen(job) == choice:
        return  # nothing to keep, or the same form sent again
    Job.objects.filter(pk=job.pk, status=Job.Status.QUEUED).update(**choice.columns())
    job.refresh_from_db()
    _record(job, "job-timed", in_words(choice), choice, user, address)


def _record(job: Job, action: str, words: str, choice: Choice, user: Any, address: str) -> None:
    after = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in choice.columns().items()
    }
    audit.record(
        user=user,
        action=action,
        sentence=f"{job.summary or job.get_kind_display()}: {words}.",
        disk=job.disk,
        job=job,
        after=after,
        address=address,
    )


def chosen(job: Job) -> Choice:
    return Choice(job.limit_bytes_per_second, job.not_before, job.stop_by, job.outside_hours)


def chosen_again(job: Job) -> Choice:
    """For a job that repeats another: the moments were for that one alone."""
    return Choice(job.limit_bytes_per_second, outside_hours=job.outside_hours)


def in_words(choice: Choice) -> str:
    """ "at most 50 MB/s, not before 22:00 on 1 May (UTC)", for the audit."""
    words = []
    if choice.limit_bytes_per_second is not None:
        words.append(rate_in_words(choice.limit_bytes_per_second))
    if choice.not_before is not None:
        words.append(f"not before {moment(choice.not_before)}")
    if choice.stop_by is not None:
        words.append(f"to stop by {moment(choice.stop_by)}")
    if choice.outside_hours:
        words.append("also outside the hours of its storage roots")
    return ", ".join(words)


def rate_in_words(bytes_per_second: int) -> str:
    if bytes_per_second == 0:
        return "no limit of speed"
    return f"at most {bytes_per_second / MIB:,.4g} MB/s"


def moment(when: datetime) -> str:
    """ "22:00 on 1 May (UTC)", in the console's time zone."""
    local = timezone.localtime(when)
    return f"{local:%H:%M} on {local.day} {local:%B} ({local:%Z})"


# --- when --------------------------------------------------------------------------------


def starts_at(job: Job, now: datetime) -> datetime | None:
    """now, if the job may run; else when it may. None: the hours of its roots never meet."""
    return _opens(_hours(_roots_with_hours(job)), max(now, job.not_before or now))


def _opens(hours: Sequence[Hours], when: datetime) -> datetime | None:
    """When all of these hours are open next, from that moment on; None: never."""
    for _ in range(_TRIES):
        later = max((one.opens(when) for one in hours), default=when)
        if later == when:
            return when
        when = later
    return None


@dataclass(frozen=True)
class End:
    """When a running job has to stop. asked: somebody chose so for this job."""

    at: datetime
    asked: bool


def ends_at(job: Job, now: datetime) -> End | None:
    """When a running job has to stop, if anything says so; no later than now: it is over."""
    # Of roots whose hours were changed meanwhile it may lie outside by now.
    ends = [End(one.closes(now) or now, asked=False) for one in _hours(_roots_with_hours(job))]
    if job.stop_by is not None:
        ends.append(End(job.stop_by, asked=True))
    return min(ends, key=lambda end: (end.at, end.asked), default=None)


@dataclass(frozen=True)
class Rules:
    """What a job that runs keeps to. It looks again every few seconds, for all may be changed.

    bytes_per_second  0: no limit
    end               when it has to stop; None: when it is done
    until             columns of its row while it is held because its hours are over; else empty
    """

    bytes_per_second: int = 0
    end: End | None = None
    until: dict[str, Any] = field(default_factory=dict)


def rules(job_id: int) -> Rules:
    """What holds now for a running job."""
    job, now = Job.objects.get(pk=job_id), timezone.now()
    end = ends_at(job, now)
    is_over = end is not None and not end.asked and end.at <= now
    until = put_off_by_the_clock(job, end) if end is not None and is_over else {}
    if until.get("resume_at") is None:  # there is nothing to wait for
        until = {}
    return Rules(speed.of_job(job).bytes_per_second, end, until)


def stops_by(job: Job) -> datetime | None:
    """The moment that was chosen for its end, while that is still ahead."""
    return job.stop_by if job.stop_by is not None and job.stop_by > timezone.now() else None


def waits_for_the_clock(job: Job, now: datetime) -> dict[str, Any] | None:
    """Columns of a queued job that may not start now; None: it may."""
    when = starts_at(job, now)
    if when is None:
        names = _names(_roots_with_hours(job))
        return {
            "resume_at": None,
            "sentence": f"Waits: the hours of {names} never meet. Change them, or start it now.",
        }
    if when <= now:
        return None
    return {"resume_at": when, "sentence": f"Starts at {moment(when)}."}


def missed(job: Job, now: datetime) -> str:
    """Why a queued job does not start any more by itself; "" where it does."""
    if job.stop_by is None or job.stop_by > now:
        return ""
    return (
        f"Paused: it could not run before {moment(job.stop_by)}, when it was to stop. Resume it, "
        "and it runs all the same."
    )


def put_off_by_the_clock(job: Job, end: End) -> dict[str, Any]:
    """Columns of a job that its end has stopped half-way, and that can go on."""
    if end.asked:
        sentence = f"Paused at {moment(end.at)}, as asked. It goes on when it is resumed."
        return {"sentence": sentence, "resume_at": None, "stop_by": None}
    names = _names(_roots_with_hours(job))
    when = starts_at(job, max(timezone.now(), end.at))
    return _paused_until(when, f"the hours of {names} are over")


def _paused_until(when: datetime | None, why: str) -> dict[str, Any]:
    goes_on = "when it is resumed" if when is None else f"at {moment(when)}"
    return {"sentence": f"Paused: {why}. It goes on {goes_on}.", "resume_at": when}


def foreseen(job: Job) -> str:
    """What a running job's end means for it, for its page; "" where it has none."""
    now = timezone.now()
    end = ends_at(job, now) if job.status == Job.Status.RUNNING and not job.is_held else None
    if end is None or job.kind not in WORK:
        return ""
    goes_on = held.can_be_paused(job)
    if end.asked:
        return f"It will be {'paused' if goes_on else 'cancelled'} at {moment(end.at)}, as asked."
    if goes_on:
        return f"It pauses at {moment(end.at)} by itself, and goes on in the next hours."
    if held.can_be_held(job) and len(held.others(job)) < settings.JOBS_HELD_AT_MOST:
        return (
            f"It waits from {moment(end.at)} by itself, and its worker with it, and goes on in the "
            "next hours."
        )
    over = f"end at {moment(end.at)}" if end.at > now else "are over"
    return (
        f"The hours of its storage root {over}. It goes on until it is done: a copy waits only "
        "with its worker, and no more of them may wait (VDADMIN_JOBS_HELD_AT_MOST)."
    )


def does_not_fit(
    seconds: float, roots: Iterable[StorageRoot], choice: Choice, *, goes_on: bool
) -> str:
    """What a plan says where its hours are over before the work can be done; "" where not.

    roots: those that the work reads or writes in; goes_on: it can be paused without its worker
    """
    roots = [root for root in roots if hours_of(root) is not None]
    hours = _hours(roots)
    begin = _opens(hours, max(timezone.now(), choice.not_before or timezone.now()))
    if begin is None or not hours or choice.outside_hours:
        return ""
    end = min(one.closes(begin) or begin for one in hours)
    if (end - begin).total_seconds() >= seconds:
        return ""
    does = "pauses" if goes_on else "waits with its worker"
    if not goes_on and settings.JOBS_HELD_AT_MOST < 1:
        then = "Begun, a copy goes on all the same: no worker may wait with it."
    else:
        then = f"It {does} then, its disks locked, and goes on in the next ones."
    which = f"the hours of {_names(roots)} last, which end at {moment(end)}"
    return f"It takes longer than {which}. {then}"


def decides(job: Job) -> bool:
    """Does a job wait for the clock, or for hours that never come?"""
    if job.is_paused or job.is_held:
        return job.resume_at is not None and job.pause_requested_at is None
    now = timezone.now()
    return job.status == Job.Status.QUEUED and (
        job.resume_at is not None or starts_at(job, now) != now
    )


def due() -> list[Job]:
    """Jobs that were paused half-way by the clock, and may go on."""
    return list(
        Job.objects.filter(status=Job.Status.PAUSED, resume_at__lte=timezone.now()).order_by("pk")
    )


def mind_no_clock(job: Job, user: Any, address: str = "") -> bool:
    """Within a transaction: the job, as it was seen, waits for no moment any more. Audited.

    When it was to stop stays as it is, if that is still ahead.
    """
    choice = Choice(job.limit_bytes_per_second, stop_by=stops_by(job), outside_hours=True)
    changed = Job.objects.filter(pk=job.pk, status=job.status, token=job.token).update(
        resume_at=None, sent_at=None, **choice.columns()
    )
    if changed:
        words = f"not to wait for the clock any more; {in_words(choice)}"
        _record(job, "job-start-now", words, choice, user, address)
    return bool(changed)


def hours_changed(root: StorageRoot) -> None:
    """Jobs that wait for the clock look anew when they may start; the reconciler sends them."""
    waiting = Job.objects.filter(status=Job.Status.QUEUED, resume_at__isnull=False)
    mine = [job.pk for job in waiting if root in job_roots.of_job(job)]
    Job.objects.filter(pk__in=mine, status=Job.Status.QUEUED).update(resume_at=None, sent_at=None)
    paused = Job.objects.filter(status=Job.Status.PAUSED, resume_at__isnull=False)
    for job in paused:
        if root in job_roots.of_job(job):
            when = starts_at(job, timezone.now())
            why = f"the hours of {root.name} have been changed"
            paused.filter(pk=job.pk).update(**_paused_until(when, why))


def _roots_with_hours(job: Job) -> list[StorageRoot]:
    if job.outside_hours or not job_roots.moves_data(job):
        return []
    return [root for root in job_roots.of_job(job) if hours_of(root) is not None]


def _hours(roots: Iterable[StorageRoot]) -> list[Hours]:
    return [hours for root in roots if (hours := hours_of(root)) is not None]


def _names(roots: Iterable[StorageRoot]) -> str:
    return " and ".join(root.name for root in roots)


def hours_of(root: StorageRoot) -> Hours | None:
    if root.hours_begin is None or root.hours_end is None:
        return None
    return Hours(root.hours_begin, root.hours_end, timezone.get_default_timezone())


# --- how many at once --------------------------------------------------------------------


def full_root(job: Job) -> tuple[StorageRoot, int] | None:
    """A root that lets no more jobs run now, and how many run there; None: there is room.

    Within the transaction of a claim. Jobs that have waited longer come first.
    """
    if not job_roots.takes_a_turn(job):
        return None
    limited = [root for root in job_roots.of_job(job) if root.jobs_at_once]
    if not limited:
        return None
    running = _running_on_each_root()
    for root in limited:
        run = running.get(root.pk, 0)
        earlier = waiting_for(root).filter(pk__lt=job.pk).count()
        if run + earlier >= root.jobs_at_once:
            return root, run
    return None


def waits_for_room(root: StorageRoot, running: int) -> str:
    """The sentence of a job that waits."""
    jobs = "1 job already runs" if running == 1 else f"{running:,} jobs already run"
    turn = "" if running >= root.jobs_at_once else ", and others have waited longer"
    return f"Waits: {jobs} on {root.name}, which allows {root.jobs_at_once:,} at once{turn}."


def waiting_for(root: StorageRoot) -> Any:
    """Jobs that wait for room on a root, the first in line first."""
    return Job.objects.filter(waits_for_root=root, status=Job.Status.QUEUED).order_by("pk")


def may_go_now() -> list[int]:
    """Ids of jobs that have waited for a root which has room for them by now."""
    waiting = list(
        StorageRoot.objects.filter(
            pk__in=Job.objects.filter(status=Job.Status.QUEUED, waits_for_root__isnull=False)
            .order_by()
            .values("waits_for_root")
        )
    )
    if not waiting:
        return []
    running = _running_on_each_root()
    found: list[int] = []
    for root in waiting:
        every = waiting_for(root).values_list("pk", flat=True)
        room = max(0, root.jobs_at_once - running.get(root.pk, 0))
        found += every[:room] if root.jobs_at_once else every
    return found


def _running_on_each_root() -> dict[int, int]:
    return job_roots.on_each_root(filter(job_roots.takes_a_turn, job_roots.running()))
