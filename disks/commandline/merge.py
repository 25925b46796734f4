"""`disk merge`: one or more levels, into the parent or to a new disk."""

from __future__ import annotations

import argparse
import os
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import (
    add_limit,
    add_offline,
    add_stop_by,
    add_unrelated,
    add_ways,
    build_roots,
    file_path,
    require_in_place,
)
from disks.commandline.outcome import conclude, sizes
from disks.operations import merge, merge_plan


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "merge",
        parents=[common],
        description="Merge a differencing disk and disks below it: into the lowest of them, in "
        "place or by a proven copy whose originals go to the trash, or to a new disk.",
    )
    parser.add_argument("child", metavar="CHILD")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--into-parent", action="store_true", help="the merged disk replaces")
    target.add_argument("--to", metavar="NEW", help="make a new disk, change nothing else")
    add_ways(parser)
    parser.add_argument(
        "--keep-name",
        choices=(merge_plan.PARENT, merge_plan.CHILD),
        help="whose name the merged disk has (default: parent)",
    )
    parser.add_argument("--type", choices=("dynamic", "fixed"), help="of the new disk")
    parser.add_argument("--base", metavar="ANCESTOR", help="the lowest disk merged, inclusive")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, only")
    add_unrelated(parser)
    add_offline(parser)
    add_limit(parser)
    add_stop_by(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    if args.to and (args.keep_name or args.in_place or args.copy):
        args.usage_error("--keep-name, --copy and --in-place go with --into-parent")
    if args.into_parent and args.type:
        args.usage_error("--type goes with --to: into the parent keeps the parent's type")
    require_in_place(args, in_place=args.into_parent and not args.copy)
    if args.to and args.unrelated:
        args.usage_error("--unrelated goes with --into-parent: a new disk changes no other")
    leaf = file_path(args.child)
    to = os.path.abspath(args.to) if args.to else None
    base = file_path(args.base) if args.base else None
    roots = build_roots(args, [path for path in (leaf, to, base) if path])
    progress = console.progress()
    plan = merge.plan(
        leaf,
        roots,
        base=base,
        to=to,
        into_parent=args.into_parent,
        disk_type=args.type,
        keep_name=args.keep_name or merge_plan.PARENT,
        in_place=args.into_parent and not args.copy,
        progress=progress,
    )
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    if plan.request.in_place and plan.refused is None:
        console.note(
            "warning: Merging in place cannot be undone once data moves. It can be stopped and "
            f"resumed; until it is finished {leaf} reads as ever, and {plan.levels[-1].path} must "
            "not be opened by itself."
        )
    if args.dry_run:
        return conclude(console, plan.as_dict(), plan.refused, _foreseen(plan))
    done = merge.apply(
        plan, roots, offline=args.offline, unrelated=args.unrelated, progress=progress
    )
    for warning in done["warnings"]:
        if warning not in plan.warnings:
            console.note(f"warning: {warning}")
    console.result(done, _told(done))
    return 0


def _foreseen(plan: merge_plan.MergePlan) -> str:
    names = " ← ".join(level.path for level in reversed(plan.levels))
    lines = [
        f"would merge       {names}",
        f"into              {plan.output}",
        f"bytes to {'move' if plan.request.in_place else 'copy'}     {plan.amount.held_bytes:,}",
        f"size afterwards   {plan.predicted_size_bytes:,} at most",
        f"space needed      {plan.needed_bytes:,} of {plan.free_space_bytes:,} free",
    ]
    if plan.trash:
        lines.append(f"back with trash   {plan.space_back_bytes:,}")
        lines += [f"to the trash      {path}" for path in plan.trash]
    lines += [f"new parent path   {path}" for path in plan.relink]
    lines += [f"would be ruined   {path}" for path in plan.siblings]
    lines += [f"cannot be read    {path}: {e.message}" for path, e in sorted(plan.unread.items())]
    lines += [f"managed           {row['path']}: {row['sentence']}" for row in plan.managers]
    lines += [f"on the host run   {command}" for command in plan.commands]
    return "\n".join(lines)


def _told(done: dict[str, Any]) -> str:
    lines = [_moved(done) if done.get("in_place") else sizes(done)]
    if done.get("trash"):
        lines.append(f"the old files are in {done['trash']}")
    lines += [f"on the host run: {command}" for command in done["commands"]]
    return "\n".join(lines)


def _moved(done: dict[str, Any]) -> str:
    return (
        f"{done['output']}: {done['bytes_written']:,} bytes moved and read back in "
        f"{done['seconds']:.1f} s; the file has {done['file_size_after_bytes']:,} bytes"
    )
