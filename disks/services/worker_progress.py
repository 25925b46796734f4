"""The progress of a job that a worker does: kept in its row, and told when to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from disks.engine.units import size_text
from disks.models import Job, JobLogLine
from disks.operations.pacing import Pacer
from disks.operations.progress import Cancelled, Progress
from disks.services import held, shutdown
from disks.services.leases import Lease, clock
from disks.services.stored_json import readable, storable
from disks.services.timing import End, Rules

logger = logging.getLogger(__name__)

# Steps that the log tells of; a job that has more of them has one for each disk.
_STEPS_LOGGED = 50
HELD_PIECE_SECONDS = 0.2
RULES_SECONDS = 3.0  # how soon a job follows what is changed for it, or for its storage roots


class JobCancelled(Cancelled):
    """Somebody asked this job to stop, and it was not too late."""


class JobProgress(Progress):
    """Stores step, sentence and bytes, at most once in JOB_PROGRESS_SECONDS.

    Every call makes sure by the worker's own clock that the job is still ours, and raises
    LeaseLost when not. The cancel flag is read whenever progress is stored.
    """

    def __init__(
        self,
        lease: Lease,
        about_to_commit: Callable[[], dict[str, Any]] | None = None,
        *,
        goes_on: bool = False,
        in_batches: bool = False,
        in_bytes: bool = True,
        pacer: Pacer | None = None,
        rules: Callable[[], Rules] | None = None,
        may_be_held: bool = False,
        worked_seconds: float = 0.0,
    ) -> None:
        """about_to_commit: what recovery must know of the commit step, kept in the row.

        goes_on: the work may end here when somebody pauses it. in_batches: its commits are
        short, and many: a wish to stop is heard after each, so it is never too late for one.
        in_bytes: what report() is told; else files or disks.
        pacer: how fast the work may be; while it waits the wish to stop is heard as ever.
        rules: how fast and until when, asked every few seconds. At its end, work that goes on
        pauses; other is cancelled if that was asked for, else held until its hours begin.
        may_be_held: work that cannot end and go on is paused by waiting in report().
        worked_seconds: of the workers that it had before.
        """
        self.lease = lease
        self._pacer = pacer or Pacer()
        self.is_pausing = False
        self.is_shut_down = False  # its worker was asked to end, and nobody asked for more
        self.waited_seconds = 0.0  # for its limit, or while it was held
        self.ended_by: End | None = None  # what stopped it, if the clock did
        self._rules_of = rules
        self._rules = Rules()
        self._rules_read_at = float("-inf")
        self._may_wait: bool | None = None  # for its hours; None: not asked yet
        self._may_be_held = may_be_held and not goes_on
        self._hold_wanted = False
        self._goes_on = goes_on
        self._in_batches = in_batches
        self._number: Callable[[int], str] = size_text if in_bytes else "{:,}".format
        self._about_to_commit = about_to_commit
        self._step = ""
        self._sentence = ""
        self._step_started_at = timezone.now()
        self._step_start_bytes: int | None = None  # until the first report of a step
        self._done_bytes = 0
        self._total_bytes = 0
        self._worked_before = worked_seconds
        self._began = clock()
        self._held_seconds = 0.0
        self._stored_at = float("-inf")
        self._committing = False
        self._steps = 0
        self._step_began = clock()

    def step(self, step: str, sentence: str) -> None:
        self.lease.check()
        self._log_end_of_step()
        self._steps += 1
        self._step_began = clock()
        if self._steps <= _STEPS_LOGGED:
            self.log(f"{step}: {sentence}")
        self._step, self._sentence = step, sentence
        self._done_bytes = self._total_bytes = 0
        self.begins_at(0)
        self._step_start_bytes = None
        self._store()

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        """Takes its time where the job is limited or held."""
        if self._step_start_bytes is None:
            self.begins_at(done_bytes)
        self._done_bytes, self._total_bytes = done_bytes, total_bytes
        if sentence is not None:
            self._sentence = sentence
        self._look()
        if not self._committing:
            began = clock()
            self._pacer.wait(self._look)
            self.waited_seconds += clock() - began
            self._wait_while_held()

    def begins_at(self, done_bytes: int) -> None:
        self._step_start_bytes, self._step_started_at = done_bytes, timezone.now()

    def moved(self, count_bytes: int) -> None:
        self._pacer.moved(count_bytes)

    def at_once_bytes(self, most_bytes: int) -> int:
        return self._pacer.at_once_bytes(most_bytes)

    def _look(self) -> None:
        """Is the job still ours, is anything to be stored, does somebody ask to stop?"""
        self.lease.check()
        leaving = shutdown.announced() and not self._committing
        if not leaving and clock() - self._stored_at < settings.JOB_PROGRESS_SECONDS:
            return
        asked = self._store()
        if self._committing:
            return
        self.is_shut_down = leaving and not asked
        if asked or leaving:
            raise JobCancelled(goes_on_later=self.is_pausing or self.is_shut_down)

    def _wait_while_held(self) -> None:
        """Until somebody resumes or cancels it, or its hours begin.

        The lease, locks and files are kept meanwhile.
        """
        if not self._is_held():
            return
        began, seconds, held_before, sentence = clock(), 0.0, self._held_seconds, self._sentence
        self.log("held: it waits here until it is resumed or cancelled")
        told: dict[str, Any] | None = None
        while self._is_held():
            until = {} if self._hold_wanted else self._rules.until
            if until != told:
                told, self._sentence = until, until.get("sentence", sentence)
                self._note(held_at=Coalesce("held_at", Now()), resume_at=until.get("resume_at"))
                self._stored_at = float("-inf")
            time.sleep(HELD_PIECE_SECONDS)
            seconds = clock() - began
            self._held_seconds = held_before + seconds
            self._look()
        self._sentence = sentence
        self._note(held_at=None, resume_at=None)
        self._may_wait = None
        self.waited_seconds += seconds
        self._step_started_at += timedelta(seconds=seconds)  # for the rate
        self.log(f"resumed after {seconds:.0f} s")

    def _is_held(self) -> bool:
        """By somebody, or because its hours are over and one more worker may wait."""
        if self._hold_wanted:
            return True
        if not self._may_be_held or not self._rules.until:
            return False
        if self._may_wait is None:
            self._may_wait = self._ask_to_wait()
        return bool(self._may_wait)

    def _ask_to_wait(self) -> bool | None:
        """None: it could not be asked."""
        try:
            job = Job.objects.get(pk=self.lease.job_id)
            resume_at = self._rules.until["resume_at"]
            may = held.until_the_hours_begin(job, self.lease.ours, resume_at)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("job %s: its hours are over: %s", self.lease.job_id, error)
            _reconnect()
            return None
        if not may:
            self.log("its hours are over; it goes on, for no other worker may wait")
        return may

    def _note(self, **columns: Any) -> None:
        try:
            if not self.lease.ours.update(**columns):
                self.lease.give_up()
        except (DatabaseError, InterfaceError) as error:
            # it waits all the same; only its page does not say so
            logger.warning("job %s: not noted that it is held: %s", self.lease.job_id, error)
            _reconnect()

    def log(self, sentence: str) -> None:
        self.lease.check()
        try:
            JobLogLine.objects.create(
                job_id=self.lease.job_id, at=timezone.now(), text=readable(sentence)
            )
        except (DatabaseError, InterfaceError) as error:
            # a line less is better than a merge that dies of it
            logger.warning("job %s: log line lost (%s): %s", self.lease.job_id, error, sentence)
            _reconnect()

    def commit_starts(self) -> None:
        """Cancelling is over, or came first: one conditional update decides.

        Raises JobCancelled when it came first, LeaseLost when the job is not ours.
        """
        self.lease.check()
        if self._in_batches:
            self._committing = True
            return
        self._wait_while_held()
        noted = self._about_to_commit() if self._about_to_commit is not None else {}
        deadline = clock() + settings.JOB_STOP_WRITING_SECONDS
        while True:
            self.lease.check()
            try:
                won = self.lease.ours.filter(cancel_requested_at=None).update(
                    cancellable=False, result=storable(noted)
                )
                if not won and not self._is_ours():
                    self.lease.give_up()
                break
            except (DatabaseError, InterfaceError):
                # without the answer nothing may be put in place; the lease ends the waiting
                if clock() > deadline:
                    raise
                _reconnect()
                time.sleep(0.2)
        if not won:
            raise JobCancelled
        self._committing = True

    def commit_ends(self) -> None:
        """The job can be stopped again; what recovery had to know of the commit is over, too."""
        self.lease.check()
        if self._in_batches:
            self._committing = False
            return
        try:
            if not self.lease.ours.update(cancellable=True, result={}):
                self.lease.give_up()
        except (DatabaseError, InterfaceError) as error:
            # it stays uncancellable until the next commit, which loses nothing
            logger.warning("job %s: end of a commit not stored: %s", self.lease.job_id, error)
            _reconnect()
        self._committing = False

    @property
    def is_looking(self) -> bool:
        """At what it would change; a machine may write there while it is paused."""
        return self._step == "look"

    @property
    def worked_seconds(self) -> float:
        """Of all workers that this job has had, without what it was held."""
        return self._worked_before + clock() - self._began - self._held_seconds

    def note_worked(self) -> None:
        """However it ended: how long it has worked. A job that is not ours any more is let be."""
        try:
            self.lease.ours.update(worked_seconds=self.worked_seconds)
        except (DatabaseError, InterfaceError) as error:
            # what was stored with the last progress is right within a second or so
            logger.warning("job %s: time not stored: %s", self.lease.job_id, error)
            _reconnect()

    def flush(self) -> None:
        """Store what report() kept back; the last step is over."""
        self.lease.check()
        self._log_end_of_step()
        self._store()

    def _log_end_of_step(self) -> None:
        """How far the step came and how long it took; nothing where it is told by no number.

        Not how much it did itself: work that goes on has counted what was done before.
        """
        if not self._done_bytes or self._steps > _STEPS_LOGGED:
            return
        seconds = clock() - self._step_began
        of = f" of {self._number(self._total_bytes)}" if self._total_bytes else ""
        done = self._number(self._done_bytes)
        self.log(f"{self._step}: at {done}{of} after {seconds:.1f} s")

    def _is_ours(self) -> bool:
        return bool(self.lease.ours.exists())

    def _store(self) -> bool:
        """Write the row; is somebody asking to stop? A database that is busy is asked later."""
        self._stored_at = clock()
        try:
            changed = self.lease.ours.update(
                step=self._step[:40],
                step_started_at=self._step_started_at,
                step_start_bytes=self._step_start_bytes or 0,
                worked_seconds=self.worked_seconds,
                sentence=readable(self._sentence),
                done_bytes=self._done_bytes,
                total_bytes=self._total_bytes,
            )
            if not changed:
                self.lease.give_up()
            return self._is_stop_wanted()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("job %s: progress not stored: %s", self.lease.job_id, error)
            _reconnect()
            return False

    def _is_stop_wanted(self) -> bool:
        """Does somebody ask to stop, or to pause what can go on later? Stopping counts more."""
        asked = Job.objects.filter(pk=self.lease.job_id).values_list(
            "cancel_requested_at", "pause_requested_at"
        )
        cancel, pause = asked.first() or (None, None)
        wanted = cancel is None and pause is not None
        self.is_pausing = self._goes_on and wanted
        self._hold_wanted = self._may_be_held and wanted
        self.ended_by = None
        self._follow()
        return cancel is not None or self.is_pausing or self._is_time_over()

    def _follow(self) -> None:
        """What was chosen for the job, or said of its roots, may be another by now."""
        is_over = self._rules.end is not None and timezone.now() >= self._rules.end.at
        is_due = is_over or clock() - self._rules_read_at >= RULES_SECONDS
        if self._rules_of is None or not is_due:
            return
        self._rules_read_at, self._rules = clock(), self._rules_of()
        self._pacer.change(self._rules.bytes_per_second)

    def _is_time_over(self) -> bool:
        end = self._rules.end
        if end is None or timezone.now() < end.at:
            return False
        if not (self._goes_on or end.asked):
            return False  # a copy cannot be put off; it is held, if it can be
        self.ended_by, self.is_pausing = end, self._goes_on
        return True


def _reconnect() -> None:
    """Drop a broken connection, so that the next query opens a new one."""
    if not connection.in_atomic_block:
        connection.close()
