"""Compact a disk: give back the room of blocks that hold nothing of their own.

In place, block by block (the usual way: it needs no room and can be stopped at any time), or by
a rewriting, a proven copy that takes the disk's place.
"""

from __future__ import annotations

from typing import Any

from disks.operations import compact_in_place
from disks.operations.compact_in_place import InPlacePlan
from disks.operations.compact_plan import CompactPlan
from disks.operations.family import ChildrenOf
from disks.operations.paths import Roots
from disks.operations.progress import Progress


def plan(
    path: str,
    roots: Roots,
    *,
    in_place: bool = True,
    time_budget_seconds: float | None = None,
    progress: Progress | None = None,
) -> CompactPlan:
    """Look at every block, or at as many as the time allows, and write nothing.

    time_budget_seconds  None: exact. Else the figures are estimated from blocks spread
                         evenly over the disk, unless all could be read in that time.

    What stands in the way is in the plan's `refused`, not raised.
    """
    if not in_place:
        from disks.operations import compact_rewrite  # only who rewrites waits for it to load

        return compact_rewrite.plan(
            path, roots, time_budget_seconds=time_budget_seconds, progress=progress
        )
    return compact_in_place.plan(
        path, roots, time_budget_seconds=time_budget_seconds, progress=progress
    )


def apply(
    plan: CompactPlan,
    roots: Roots,
    *,
    offline: bool = False,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
) -> dict[str, Any]:
    """Carry a plan out. Returns the finished job's document; see the module of its way."""
    if isinstance(plan, InPlacePlan):
        return compact_in_place.apply(
            plan,
            roots,
            offline=offline,
            job=job,
            token=token,
            progress=progress,
            children_of=children_of,
        )
    from disks.operations import compact_rewrite

    assert isinstance(plan, compact_rewrite.RewritePlan)  # noqa: S101 - there is no third way
    return compact_rewrite.apply(
        plan,
        roots,
        offline=offline,
        job=job,
        token=token,
        progress=progress,
        children_of=children_of,
    )
