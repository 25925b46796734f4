"""`disk compact`: give space back."""

from __future__ import annotations

import argparse
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import add_offline, build_roots, file_path
from disks.commandline.outcome import conclude, sizes
from disks.engine.errors import ImageError
from disks.operations import compact


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "compact",
        parents=[common],
        description="Rewrite a dynamic disk without its blocks of zeros, or a differencing disk "
        "without the blocks that equal its parent. The old file goes to the trash.",
    )
    parser.add_argument("file", metavar="FILE")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--rewrite", action="store_true", help="by a proven copy (the default)")
    way.add_argument("--in-place", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, only")
    add_offline(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    if args.in_place:
        raise ImageError(
            "E_NOT_OFFERED",
            "Compacting in place is not offered yet. Compact with --rewrite: it needs room until "
            "the trash is emptied, and can be undone until then.",
            file=args.file,
        )
    path = file_path(args.file)
    roots = build_roots(args, [path])
    progress = console.progress()
    if args.dry_run:
        plan = compact.plan(path, roots, progress=progress)
        for warning in plan.warnings:
            console.note(f"warning: {warning}")
        return conclude(console, plan.as_dict(), plan.refused, _foreseen(plan))
    # The rewriting itself looks at every block: no need to read all of it twice.
    plan = compact.plan(path, roots, time_budget_seconds=0.0, progress=progress)
    done = compact.apply(plan, roots, offline=args.offline, progress=progress)
    text = sizes(done)
    if not done["replaced"]:
        text = f"{path}: nothing to gain, the disk stays as it is."
    elif done.get("trash"):
        text += f"\nthe old file is in {done['trash']}"
    console.result(done, text)
    return 0


def _foreseen(plan: compact.CompactPlan) -> str:
    lines = [
        f"would compact     {plan.path}",
        f"size now          {plan.file_size_bytes:,}",
        f"size afterwards   {plan.predicted_size_bytes:,}",
        f"blocks            {plan.why}",
        f"space needed      {plan.free_space_needed_bytes:,} of {plan.free_space_bytes:,} free",
    ]
    lines += [f"managed           {row['path']}: {row['sentence']}" for row in plan.managers]
    return "\n".join(lines)
