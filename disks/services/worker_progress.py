"""The progress of a job that a worker does: kept in its row, and told when to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from disks.models import Job, JobLogLine
from disks.operations.progress import Cancelled, Progress
from disks.services.leases import Lease, clock
from disks.services.stored_json import readable, storable

logger = logging.getLogger(__name__)

# Steps that the log tells of; a job that has more of them has one for each disk.
_STEPS_LOGGED = 50


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
    ) -> None:
        """about_to_commit: what recovery must know of the commit step, kept in the row.

        goes_on: the work may end here when somebody pauses it. in_batches: its commits are
        short, and many: a wish to stop is heard after each, so it is never too late for one.
        """
        self.lease = lease
        self.is_pausing = False
        self._goes_on = goes_on
        self._in_batches = in_batches
        self._about_to_commit = about_to_commit
        self._step = ""
        self._sentence = ""
        self._step_started_at = timezone.now()
        self._done_bytes = 0
        self._total_bytes = 0
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
        self._step_started_at = timezone.now()
        self._store()

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        self.lease.check()
        self._done_bytes, self._total_bytes = done_bytes, total_bytes
        if sentence is not None:
            self._sentence = sentence
        if clock() - self._stored_at < settings.JOB_PROGRESS_SECONDS:
            return
        if self._store() and not self._committing:
            raise JobCancelled

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

    def flush(self) -> None:
        """Store what report() kept back; the last step is over."""
        self.lease.check()
        self._log_end_of_step()
        self._store()

    def _log_end_of_step(self) -> None:
        """How much the step did and how long it took; nothing where it is told by no number."""
        if not self._done_bytes or self._steps > _STEPS_LOGGED:
            return
        seconds = clock() - self._step_began
        of = f" of {self._total_bytes:,}" if self._total_bytes else ""
        self.log(f"{self._step}: {self._done_bytes:,}{of} done in {seconds:.1f} s")

    def _is_ours(self) -> bool:
        return bool(self.lease.ours.exists())

    def _store(self) -> bool:
        """Write the row; is somebody asking to stop? A database that is busy is asked later."""
        self._stored_at = clock()
        try:
            changed = self.lease.ours.update(
                step=self._step[:40],
                step_started_at=self._step_started_at,
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
        self.is_pausing = self._goes_on and cancel is None and pause is not None
        return cancel is not None or self.is_pausing


def _reconnect() -> None:
    """Drop a broken connection, so that the next query opens a new one."""
    if not connection.in_atomic_block:
        connection.close()
