"""Copy a disk, or its whole chain, to another folder: a set that opens there by itself.

The copies are the same disks, with their identities and every byte of their blocks; only
their parent links say where the parents are now. Links are written before the copies get
their names, the base of the chain gets its own first, and all of them do or none.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from disks.engine.chain import Chain, open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import by_name
from disks.engine.units import size_text
from disks.operations import (
    copying,
    file_copy,
    fingerprints,
    in_use,
    journal,
    link_changes,
    locks,
    new_copy,
    relocating,
    rules,
    space,
    steps,
)
from disks.operations.copying import Draft
from disks.operations.file_copy import Meter
from disks.operations.fingerprints import Fingerprint
from disks.operations.paths import Roots, folded
from disks.operations.progress import Progress
from disks.operations.relocating import Arrival, Relocation
from disks.operations.relocation_plan import Moved, RelocationPlan, require_same
from disks.operations.rollback import rolling_back


@dataclass(kw_only=True)
class CopyChainPlan(RelocationPlan):
    """folder: where the copies will lie. whole: the chain, not only the disk."""

    folder: str
    whole: bool

    @property
    def exclusive(self) -> list[str]:
        return [one.target for one in self.files]

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"folder": self.folder, "chain": self.whole}


def plan(path: str, folder: str, roots: Roots, *, whole: bool = False) -> CopyChainPlan:
    """Look at everything and write nothing.

    folder  where the copies shall lie; it exists
    whole   copy every ancestor, too; else the copy keeps its parent where that is

    What stands in the way is in the plan's `refused`, not raised.
    """
    output = os.path.join(folder, os.path.basename(path))
    result = CopyChainPlan(path=path, output=output, folder=folder, whole=whole)
    try:
        with open_chain(path, roots) as chain:
            _fill(result, chain, roots)
    except ImageError as error:
        result.refused = error
    else:
        result.warnings += in_use.warnings(roots, result.exclusive, result.shared)
    return result


def apply(
    plan: CopyChainPlan,
    roots: Roots,
    *,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Carry a plan out. Returns the document of the finished copy, with where each link leads.

    Locks, looks at everything again and compares with the plan before anything is written
    (E_CHANGED). Every error, a cancel and a kill leave no file behind, or the whole set.

    Raises what the plan refuses, E_LOCKED, E_IN_USE, E_NOSPC, E_PROOF, E_VERIFY, E_EXISTS,
    and Cancelled out of progress.
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    job = copying.job_name(job)
    started = time.monotonic()
    with locks.hold(roots, plan.exclusive, plan.shared, job=job, token=token):
        journal.require_settled(roots, [*plan.exclusive, *plan.shared])
        fresh = CopyChainPlan(
            path=plan.path, output=plan.output, folder=plan.folder, whole=plan.whole
        )
        progress.step("check", "Looking at the chain once more")
        with open_chain(plan.path, roots) as chain:
            try:
                _fill(fresh, chain, roots)
            except ImageError as error:
                fresh.refused = error
        require_same(plan, fresh)
        result = _copy(fresh, roots, job, token, progress)
    return result | {"seconds": round(time.monotonic() - started, 3)}


# ---------------------------------------------------------------------- planning


def _fill(result: CopyChainPlan, chain: Chain, roots: Roots) -> None:
    """Fill a plan in. Raises the first thing that stands in the way."""
    count = len(chain.paths) if result.whole else 1
    targets = _targets(chain.paths[:count], result)
    result.shared = chain.paths
    for path, image in zip(chain.paths, chain.images, strict=True):
        result.fingerprints[path] = Fingerprint.of(image.file)
    for path, image, target in zip(chain.paths, chain.images, targets, strict=False):
        kind, size = str(image.disk_type), image.file.size_bytes
        result.files.append(
            Moved(path, target, image.identity, kind, image.virtual_size_bytes, size)
        )
    result.bytes_to_copy = sum(one.file_size_bytes for one in result.files)
    rules.require_folder(roots, result.folder)
    journal.require_settled(roots, [*result.exclusive, *result.shared])
    for image, target in zip(chain.images, targets, strict=False):
        rules.check_new_name(roots, target, by_name(image.format_name))
    where = [*targets, *chain.paths[count:]]  # where each of the chain lies for the copies
    for level in range(min(count, len(chain.paths) - 1)):
        change = link_changes.plan(
            roots,
            chain.images[level],
            chain.images[level + 1],
            disk=where[level],
            parent_path=where[level + 1],
            replays=True,
        )
        if change is not None:
            result.links.append(change)
            result.warnings += change.warnings
    copies = "The copy is" if count == 1 else f"The {count:,} copies are"
    result.warnings.append(
        f"{copies} twins of the original{'' if count == 1 else 's'}: they have the same "
        "identities. Which one a child reads is told by its path alone; do not use both sets "
        "on one host for machines that run at the same time."
    )
    result.free_space_bytes, short = space.shortage_at(roots, result.output, result.bytes_to_copy)
    result.commands = new_copy.commands(roots, result.path, result.output)[-1:]
    if short is not None:
        raise short


def _targets(paths: Sequence[str], result: CopyChainPlan) -> list[str]:
    """A name in the folder for each, leaf first: its own, with a number where another has it."""
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        name = rules.free_name(os.path.basename(path), taken, "-")
        if name != os.path.basename(path):
            result.warnings.append(
                f"{path} becomes {name}: the set has a disk of the same name already."
            )
        taken.add(folded(name))
        names.append(name)
    return [os.path.join(result.folder, name) for name in names]


# ---------------------------------------------------------------------- carrying out


def _copy(
    plan: CopyChainPlan, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any]:
    base_first = list(reversed(plan.files))
    drafts = [Draft(roots, one.target, job=job, token=token) for one in base_first]
    work = Relocation(
        kind=relocating.COPY,
        disk=plan.output,
        job=job,
        token=token,
        arrivals=tuple(Arrival(draft.temp_path, draft.path) for draft in drafts),
        result=plan.as_dict(),
    )
    meter = Meter(progress, file_copy.total_bytes([one.file_size_bytes for one in base_first]))
    links = {change.disk: change.new for change in plan.links}
    proofs: dict[str, str] = {}
    with rolling_back(lambda: relocating.undo(roots, work), plan.path):
        relocating.begin(roots, work)
        with contextlib.ExitStack() as stack:
            for draft, one in zip(drafts, base_first, strict=True):
                progress.step("copy", f"Copying {size_text(one.file_size_bytes)} of {one.path}")
                stack.enter_context(draft)
                link = links.get(one.target)
                proofs[one.target] = file_copy.make(roots, one.path, draft, link, meter)
                # Whoever may read the original may read its copy; nobody else.
                draft.set_mode(roots.stat(one.path).st_mode)
                draft.file.sync()
            for path, seen in plan.fingerprints.items():
                fingerprints.require_unchanged(roots, path, seen)
            work = replace(
                work,
                arrivals=tuple(
                    Arrival(draft.temp_path, draft.path, draft.file.identity()) for draft in drafts
                ),
                result=work.result | {"proofs": proofs},
            )
            progress.commit_starts()
            relocating.commit(roots, work)
            for draft in drafts:
                draft.handed_over()
    done = relocating.carry_out(roots, work, progress, check=lambda: _arrived_right(plan, roots))
    return done | {"opens_as": [one.target for one in plan.files]}


def _arrived_right(plan: CopyChainPlan, roots: Roots) -> None:
    """Open the copy as anybody would: each link leads to the copy beside it. E_VERIFY."""
    count = len(plan.files)
    wanted = [one.target for one in plan.files]
    if not plan.whole:
        wanted += plan.shared[1:]
    try:
        with open_chain(plan.output, roots) as chain:
            found = chain.paths
    except ImageError as error:
        raise _wrong(plan, error.message) from error
    for there, expected in zip(found, wanted, strict=False):
        if steps.inode(roots, there) != steps.inode(roots, expected):
            raise _wrong(plan, f"it leads to {there} in place of {expected}.")
    if len(found) < count:
        raise _wrong(plan, "its chain is shorter than that of the original.")


def _wrong(plan: CopyChainPlan, why: str) -> ImageError:
    return ImageError(
        "E_VERIFY",
        f"The copy of {plan.path} was opened in its new place, and is not right there: {why} "
        "The copies were taken away again.",
        file=plan.output,
    )
