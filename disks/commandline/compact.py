"""`disk compact`: give space back."""

from __future__ import annotations

import argparse
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import (
    add_limit,
    add_offline,
    add_stop_by,
    build_roots,
    file_path,
    require_in_place,
)
from disks.commandline.outcome import conclude, count, sizes
from disks.engine.errors import ImageError
from disks.operations import compact
from disks.operations.compact_in_place import InPlacePlan
from disks.operations.compact_plan import CompactPlan
from disks.operations.progress import Cancelled


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "compact",
        parents=[common],
        description="Take blocks that hold nothing of their own out of a disk: those of zeros, or, "
        "in a differencing disk, those that equal its parent. In place: blocks are moved inside of "
        "the file, which needs no room, keeps owner and rights, can be stopped and run again.",
    )
    parser.add_argument("file", metavar="FILE")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--in-place", action="store_true", help="in the file itself (the default)")
    way.add_argument(
        "--rewrite",
        action="store_true",
        help="by a proven copy that takes its place; the old file goes to the trash",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, only")
    add_offline(parser)
    add_limit(parser)
    add_stop_by(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    require_in_place(args, in_place=not args.rewrite)
    path = file_path(args.file)
    roots = build_roots(args, [path])
    progress = console.progress()
    in_place = not args.rewrite
    if args.dry_run:
        plan = compact.plan(path, roots, in_place=in_place, progress=progress)
        for warning in plan.warnings:
            console.note(f"warning: {warning}")
        return conclude(console, plan.as_dict(), plan.refused, _foreseen(plan))
    # The work itself looks at every block: no need to read all of it twice.
    plan = compact.plan(path, roots, in_place=in_place, time_budget_seconds=0.0, progress=progress)
    try:
        done = compact.apply(plan, roots, offline=args.offline, progress=progress)
    except Cancelled:
        if not in_place:
            raise
        raise ImageError(
            "E_CANCELLED",
            "Stopped as asked. What was moved before stays so: the disk is whole and its content "
            "the same.",
            advice="Run it again to go on.",
            file=path,
        ) from None
    console.result(done, _moved(done) if in_place else _rewritten(done))
    return 0


def _moved(done: dict[str, Any]) -> str:
    before, after = done["file_size_before_bytes"], done["file_size_after_bytes"]
    if after == before:
        return f"{done['output']}: nothing to gain, the disk stays as it is."
    return (
        f"{done['output']}: {before:,} → {after:,} bytes; {count(done['blocks_dropped'], 'block')} "
        f"left out, {done['blocks_moved']:,} moved, in {done['seconds']:.1f} s"
    )


def _rewritten(done: dict[str, Any]) -> str:
    if not done["replaced"]:
        return f"{done['output']}: nothing to gain, the disk stays as it is."
    text = sizes(done)
    return f"{text}\nthe old file is in {done['trash']}" if done.get("trash") else text


def _foreseen(plan: CompactPlan) -> str:
    lines = [
        f"would compact     {plan.path}",
        f"size now          {plan.file_size_bytes:,}",
        f"size afterwards   {plan.predicted_size_bytes:,}",
        f"blocks            {plan.why}",
    ]
    if isinstance(plan, InPlacePlan):
        lines.append(
            f"to move           {count(plan.moves, 'block')}, {plan.bytes_to_move:,} bytes"
        )
        if plan.zero_bytes:
            lines.append(
                f"zeros that stay   {plan.zero_bytes:,} bytes in blocks that hold data, too"
            )
        if plan.seconds is not None:
            lines.append(f"time, about       {plan.seconds:,.0f} s, the reading back included")
        lines.append("space needed      none")
    else:
        free = plan.free_space_bytes
        lines.append(f"space needed      {plan.free_space_needed_bytes:,} of {free:,} free")
    lines += [f"managed           {row['path']}: {row['sentence']}" for row in plan.managers]
    return "\n".join(lines)
