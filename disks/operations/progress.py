"""Where a long operation tells how far it is, and learns that it shall stop."""

from __future__ import annotations


class Cancelled(Exception):
    """Raised out of `report` when somebody asked to stop; the operation cleans up and re-raises.

    goes_on_later: it was only asked to pause, so that work that can be gone on with should rather
    keep what it has begun than take that back.
    """

    def __init__(self, *, goes_on_later: bool = False) -> None:
        super().__init__()
        self.goes_on_later = goes_on_later


class Stopped(Exception):
    """Work in place ended between two batches: every file is consistent, nothing is taken back.

    The sidecar tells how far it is; the same operation, asked for again, goes on from there.
    In-place work raises this instead of Cancelled once its first batch has begun, and of its own
    accord where it cannot go on (no space, say).

    reason    how far it is, or why it stopped
    how       how to go on, and what may be done with the disks until then; for the terminal:
              the page of a job says that in its own words
    sentence  both
    """

    def __init__(self, reason: str, how: str = "") -> None:
        self.reason = reason
        self.how = how
        self.sentence = f"{reason} {how}".strip()
        super().__init__(self.sentence)


class Lost(Exception):
    """Raised out of any call when the work is somebody else's by now: nothing more is written."""


class Progress:
    """Does nothing; the command line and the job runner have their own.

    report() is called at least every few MiB and every second, only while every
    file is consistent, and may raise Cancelled, or take its time: a job that is limited or
    paused waits in there. Never between commit_starts() and commit_ends().
    """

    def step(self, step: str, sentence: str) -> None:
        """A new stage begins: a stable word (`copy`, `proof`, `commit`) and a sentence."""

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        """Bytes of this stage done; sentence like "copying block 812 of 1,252"."""

    def begins_at(self, done_bytes: int) -> None:
        """So many bytes of this stage were done before: no measure of how fast it goes now.

        What the first report() of a stage tells is taken for that without being told.
        """

    def moved(self, count_bytes: int) -> None:
        """So many bytes were copied, or read again for the proof, since the last call.

        Told at least every 8 MiB (work in batches: after each). A limited job waits for them in
        its next report().
        """

    def proved(self, seconds: float) -> None:
        """So long it took to read back what was written, where that is no step of its own."""

    def at_once_bytes(self, most_bytes: int) -> int:
        """How many bytes work in batches moves before its next report(): most_bytes or fewer."""
        return most_bytes

    def log(self, sentence: str) -> None:
        """One line for the job's log."""

    def commit_starts(self) -> None:
        """From here the work only rolls forward: cancelling is over."""

    def commit_ends(self) -> None:
        """What was committed is complete; more work follows, which can be stopped again."""
