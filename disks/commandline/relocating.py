"""`disk copy`, `disk move`, `disk delete`: with the links of parents and children."""

from __future__ import annotations

import argparse
import os
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import add_limit, add_offline, build_roots, file_path
from disks.commandline.outcome import conclude, count
from disks.operations import copy_chain, delete, move
from disks.operations.relocation_plan import RelocationPlan
from disks.operations.steps import TO_REPAIR


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "copy",
        parents=[common],
        description="Copy a disk, or its whole chain, into another directory: proven copies with "
        "the same identities, whose links are right there. The originals are only read.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument(
        "--chain",
        action="store_true",
        help="copy every parent, too: the set opens by itself. Without it the copy keeps the "
        "parent where that is",
    )
    _add_dry_run(parser)
    add_limit(parser)
    parser.add_argument("--offline", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run_copy)

    parser = subparsers.add_parser(
        "move",
        parents=[common],
        description="Move or rename a disk. Children are looked for in its directory, below --root "
        "and --search; links that would break are rewritten in the same job, if you say so.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("destination", metavar="DST", help="the new path, or a directory")
    parser.add_argument(
        "--relink", action="store_true", help="rewrite the parent links that would break"
    )
    _add_breaks(parser, "keep its link and not find FILE any more")
    _add_dry_run(parser)
    add_limit(parser)
    add_offline(parser)
    parser.set_defaults(run=run_move)

    parser = subparsers.add_parser(
        "delete",
        parents=[common],
        description="Put a disk into the trash (.vdtrash in its root), from where it can be "
        "restored. Refused while disks build on it.",
    )
    parser.add_argument("file", metavar="FILE")
    _add_breaks(parser, "lose its parent")
    _add_dry_run(parser)
    add_offline(parser)
    parser.set_defaults(run=run_delete)


def _add_breaks(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--breaks",
        metavar="CHILD",
        action="append",
        default=[],
        help=f"a child of FILE that may {what} (repeatable); every one must be named",
    )


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, only")


def run_copy(args: argparse.Namespace, console: Console) -> int:
    path, folder = file_path(args.file), os.path.abspath(args.folder)
    roots = build_roots(args, [path], [folder])
    plan = copy_chain.plan(path, folder, roots, whole=args.chain)
    if _told(plan, args, console):
        return conclude(console, plan.as_dict(), plan.refused, _foreseen(plan, "copy"))
    done = copy_chain.apply(plan, roots, progress=console.progress())
    lines = [f"{one.path} → {one.target}" for one in plan.files]
    console.result(done, "\n".join([*lines, f"copied and proven in {done['seconds']:.1f} s"]))
    return 0


def run_move(args: argparse.Namespace, console: Console) -> int:
    path, target = file_path(args.file), os.path.abspath(args.destination)
    if os.path.isdir(target):
        target = os.path.join(target, os.path.basename(path))
    breaks = [file_path(child) for child in args.breaks]
    roots = build_roots(args, [path, target, *breaks])
    progress = console.progress()
    plan = move.plan(path, target, roots, relink=args.relink, breaks=breaks, progress=progress)
    if _told(plan, args, console):
        return conclude(console, plan.as_dict(), plan.refused, _foreseen(plan, "move"))
    done = move.apply(plan, roots, offline=args.offline, progress=progress)
    _say_what_is_to_repair(done, console)
    lines = [f"{path} → {target}", *(f"relinked {child}" for child in done["relinked"])]
    lines += [f"the original is in {folder}" for folder in done["trash"]]
    lines += [f"on the host run: {command}" for command in done["commands"]]
    console.result(done, "\n".join(lines))
    return 0


def run_delete(args: argparse.Namespace, console: Console) -> int:
    path = file_path(args.file)
    breaks = [file_path(child) for child in args.breaks]
    roots = build_roots(args, [path, *breaks])
    progress = console.progress()
    plan = delete.plan(path, roots, breaks=breaks, progress=progress)
    if _told(plan, args, console):
        return conclude(console, plan.as_dict(), plan.refused, _foreseen(plan, "delete"))
    done = delete.apply(plan, roots, offline=args.offline, progress=progress)
    console.result(
        done,
        f"{path} is in the trash: {', '.join(done['trash'])}. Emptying that frees "
        f"{plan.allocated_bytes:,} bytes.",
    )
    return 0


def _told(plan: RelocationPlan, args: argparse.Namespace, console: Console) -> bool:
    """Say the warnings; whether that is all, for a dry run."""
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    return bool(args.dry_run)


def _say_what_is_to_repair(done: dict[str, Any], console: Console) -> None:
    for row in done.get(TO_REPAIR, []):
        console.note(f"warning: {row['message']}")


def _foreseen(plan: RelocationPlan, verb: str) -> str:
    lines = [f"would {verb}      {one.path} → {one.target}" for one in plan.files]
    if verb == "delete":
        lines = [f"would put into the trash  {one.path}" for one in plan.files]
    if plan.bytes_to_copy:
        lines.append(f"space needed    {plan.bytes_to_copy:,} of {plan.free_space_bytes:,} free")
    for change in plan.links:
        lines.append(f"rewrites the link of {change.disk}")
        lines += [
            f"    {row.field}: {row.now or 'nothing'} → {row.after or 'removed'}"
            for row in change.changes
            if row.now != row.after
        ]
    if plan.broken:
        lines.append(f"breaks {count(len(plan.broken), 'child')}: {', '.join(plan.broken)}")
    return "\n".join(lines)
