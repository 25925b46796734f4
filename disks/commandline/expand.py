"""`disk expand`: enlarge a disk in place."""

from __future__ import annotations

import argparse
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import add_limit, add_offline, build_roots, file_path, size_bytes
from disks.commandline.outcome import changed, conclude
from disks.operations import expand


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "expand",
        parents=[common],
        description="Make a disk larger where it lies. The added area reads zero; partitions and "
        "file systems inside stay as they are. It cannot be taken back.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--size", metavar="BYTES[K|M|G|T]", type=size_bytes, required=True, help="the new size"
    )
    parser.add_argument(
        "--breaks",
        metavar="CHILD",
        action="append",
        default=[],
        help="a child of FILE that may be broken (repeatable); every one must be named",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, only")
    add_offline(parser)
    add_limit(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    path = file_path(args.file)
    breaks = [file_path(child) for child in args.breaks]
    roots = build_roots(args, [path, *breaks])
    progress = console.progress()
    plan = expand.plan(path, args.size, roots, breaks=breaks, progress=progress)
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    if args.dry_run:
        return conclude(console, plan.as_dict(), plan.refused, _foreseen(plan))
    done = expand.apply(plan, roots, offline=args.offline, progress=progress)
    console.result(
        done,
        f"{path}: {plan.virtual_size_bytes:,} → {args.size:,} bytes; the file has "
        f"{done['file_size_after_bytes']:,} bytes. Now enlarge the partition inside of it.",
    )
    return 0


def _foreseen(plan: expand.ExpandPlan) -> str:
    lines = [
        f"would expand      {plan.path}",
        f"virtual size      {plan.virtual_size_bytes:,} → {plan.new_size_bytes:,}",
        f"file size         {plan.file_size_bytes:,} → {plan.size_after_bytes:,}",
        f"space needed      {plan.growth_bytes:,} of {plan.free_space_bytes:,} free",
    ]
    lines += [changed(change) for change in plan.changes]
    lines += [f"would be broken   {child}" for child in plan.children]
    lines += [f"managed           {row['path']}: {row['sentence']}" for row in plan.managers]
    return "\n".join(lines)
