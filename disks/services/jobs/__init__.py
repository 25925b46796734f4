"""Jobs: request, claim, run, cancel, try again. The row is the truth (crash-safety §6).

Every change of state is one conditional update on the state and the token that were seen,
with its audit row in the same transaction; whoever comes second changes nothing.
"""

from disks.services.jobs.claiming import Claim, claim
from disks.services.jobs.documents import document
from disks.services.jobs.ending import SHUT_DOWN, end, lose, put_back, put_off, succeed
from disks.services.jobs.queueing import (
    NOTHING_AWAITED,
    WAITING,
    Sender,
    User,
    hand_over,
    note_state,
    release,
)
from disks.services.jobs.requesting import PARAMETERS_VERSION, request
from disks.services.jobs.retrying import PLANNED_KINDS, needs_a_new_plan, retry
from disks.services.jobs.running import (
    HELD_SHUT_DOWN,
    INTERNAL_ERROR,
    PAUSED,
    fail,
    note_finished,
    run,
    run_now,
)

__all__ = [
    "HELD_SHUT_DOWN", "INTERNAL_ERROR", "NOTHING_AWAITED", "PARAMETERS_VERSION", "PAUSED",
    "PLANNED_KINDS", "SHUT_DOWN", "WAITING", "Claim", "Sender", "User", "claim", "document",
    "end", "fail", "hand_over", "lose", "needs_a_new_plan", "note_finished", "note_state",
    "put_back", "put_off", "release", "request", "retry", "run", "run_now", "succeed",
]  # fmt: skip
