"""What merging in place asks for beyond a merge by copy, and how its plan is carried out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from disks.engine.chain import Chain
from disks.engine.errors import ImageError
from disks.engine.holding import Wanted
from disks.engine.units import sectors
from disks.operations import copying, guards, journal, merge_in_place, rules, trash
from disks.operations.content import HeldContent, Run
from disks.operations.counting import Counting
from disks.operations.merge_in_place import Work
from disks.operations.merge_plan import Measured, MergePlan
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.trash import manifests


def damage(chain: Chain, last: int) -> Iterator[ImageError]:
    """Why the structure of base allows no merge, if it does not."""
    disks = [(chain.paths[last], chain.images[last])]
    damaged = rules.structure_refusal(disks, so="nothing is merged into it")
    if damaged is not None:
        yield damaged


def measure(plan: MergePlan, chain: Chain, last: int) -> None:
    """Fill the figures in: what moves, and the room for it."""
    earlier = plan.earlier
    if earlier is not None and earlier.measured and earlier.fingerprints == plan.fingerprints:
        plan.measured = earlier.measured  # of the same files, unwritten since
    else:
        plan.measured = _measured(chain, last)
    plan.amount = plan.measured.amount
    plan.predicted_size_bytes = chain.images[last].file.size_bytes + plan.measured.growth_bytes


def refusals(plan: MergePlan, chain: Chain, last: int, roots: Roots) -> Iterator[ImageError]:
    """What else stands in the way, one after the other."""
    base, above = chain.images[last], chain.images[last - 1]
    path = chain.paths[last]
    for image in (base, above):
        guards.require_one_name(image.file)
    size = chain.virtual_size_bytes
    if size > base.virtual_size_bytes:
        larger = _larger_ancestor(chain, last)
        if larger is not None:
            yield larger
        base.plan_expand(size)  # raises what the format does not allow
    elsewhere = os.path.dirname(plan.output) != os.path.dirname(path)
    if elsewhere and plan.survivors:  # its own link is rewritten there, in the end
        journal.require_nameable(roots, plan.output, instead="keep the parent's name")
    if elsewhere and roots.stat(plan.output).st_dev != base.file.stat().st_dev:
        yield ImageError(
            "E_TRASH",
            f"{path} cannot take the name {plan.output}: the two lie on different file systems, "
            "and in place nothing is copied.",
            advice="Keep the parent's name, or merge by copy.",
            file=path,
        )


def _measured(chain: Chain, last: int) -> Measured:
    base = chain.images[last]
    view = HeldContent(chain.levels(0, last - 1))
    size = view.virtual_size_bytes
    counting = Counting(rules.block_bytes_of(base), size)
    wanted = _wanted(view.runs(0, sectors(size)), counting)
    growth = base.growth_bytes(wanted)
    for _ in wanted:  # a fixed disk does not look at it
        pass
    pages = merge_in_place.journal_pages(counting.runs, counting.amount.blocks, base)
    return Measured(counting.amount, growth, pages, merge_in_place.journal_bytes(pages))


def _wanted(runs: Iterator[Run], counting: Counting) -> Iterator[Wanted]:
    for run in runs:
        counting.add(run.first_sector, run.count_sectors, zeros=run.file is None)
        yield Wanted(run.first_sector, run.count_sectors, run.file is None)


def _larger_ancestor(chain: Chain, last: int) -> ImageError | None:
    """E_PARENT_SIZE: the area that base grows by would show what an ancestor has there."""
    larger = rules.larger_ancestor(chain.paths[last:], chain.images[last:])
    if larger is None:
        return None
    path, ancestor = larger
    return ImageError(
        "E_PARENT_SIZE",
        f"{chain.paths[last]} would have to grow, but {path} is larger: what that holds "
        "behind its end would become visible, instead of zeros.",
        advice="Merge by copy instead.",
        file=chain.paths[last],
        field="current_size",
        value=ancestor.virtual_size_bytes,
    )


def start(
    plan: MergePlan, chain: Chain, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any]:
    """Carry a plan out that was checked under lock. See `merge.apply`."""
    last = len(plan.levels) - 1
    base, above = chain.images[last], chain.images[last - 1]
    paths = [level.path for level in plan.levels]
    names = " + ".join(os.path.basename(path) for path in reversed(paths))
    manifest = trash.planned(
        roots,
        job=trash.free_job(roots, plan.trash, copying.job_word(job)),
        kind=manifests.MERGED_IN_PLACE,
        summary=f"Merged {names} in place into {plan.output}",
        replacement=plan.output,
        put_away=[
            (level.path, plan.fingerprints[level.path].file, level.identity, "merged")
            for level in plan.levels[:-1]
        ],
        relinked=plan.relink,
    )
    work = Work(
        base=paths[-1],
        levels=tuple(paths[:-1]),
        surviving=plan.output,
        job=job,
        token=token,
        manifest=manifest,
        inodes=tuple(image.file.stat().st_ino for image in chain.images[: last + 1]),
        old_identity=base.identity,
        old_link=above.recorded_link(),
        size_bytes=chain.virtual_size_bytes,
        base_parent=plan.survivors[0] if plan.survivors else "",
        relink=tuple(plan.relink),
        result={
            "output": plan.output,
            "in_place": True,
            "virtual_size_bytes": chain.virtual_size_bytes,
            "file_size_before_bytes": sum(level.file_size_bytes for level in plan.levels),
            "content_sha256": None,
            "levels": paths,
            "commands": plan.commands,
            "warnings": plan.warnings,
            "relinked": plan.relink,
            "space_back_when_trash_emptied_bytes": plan.space_back_bytes,
        },
    )
    assert plan.measured is not None  # noqa: S101 - a plan without refusal was measured
    return merge_in_place.start(
        roots,
        work,
        progress,
        journal_pages=plan.measured.journal_pages,
        total_bytes=plan.amount.held_bytes,
    )
