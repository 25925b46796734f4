"""`disk pile`: the checkpoints of a folder, in the right order, as a plan, a job or a script."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import Any

from disks.commandline.console import Console, described
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
from disks.commandline.outcome import count
from disks.engine.errors import ImageError
from disks.operations import guards, merge_plan
from disks.operations.paths import Roots
from disks.operations.pile import Pile, PilePlan, applying, planning, windows_script
from disks.operations.progress import Cancelled, Stopped

_MOST_LINES = 20  # of each list that is only for information


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "pile",
        parents=[common],
        description="Work out from the files alone how the disks of a directory build on each "
        "other, and merge each pile of checkpoints into its lowest disk. Without --offline it "
        "says what would happen, only.",
    )
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument(
        "--leaf",
        metavar="FILE",
        action="append",
        default=[],
        help="only the pile whose uppermost disk is this (repeatable); default: all piles",
    )
    parser.add_argument(
        "--keep-name",
        choices=(merge_plan.PARENT, merge_plan.CHILD),
        default=merge_plan.PARENT,
        help="whose name each merged disk has: its lowest disk's (default) or its leaf's",
    )
    add_ways(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, only")
    parser.add_argument(
        "--powershell",
        action="store_true",
        help="print a script that merges the same disks on the Hyper-V host; do nothing here",
    )
    add_unrelated(parser)
    add_offline(parser)
    add_limit(parser)
    add_stop_by(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    folder = os.path.abspath(args.folder)
    if not os.path.isdir(folder):
        args.usage_error(f"argument DIR: {args.folder} is no directory")
    if args.powershell and args.keep_name != merge_plan.PARENT:
        args.usage_error("--keep-name child: Merge-VHD always keeps the parent's name")
    require_in_place(args, in_place=not args.copy)
    leaves = [file_path(leaf) for leaf in args.leaf]
    # What a header does not lead to is looked for by identity, in the folder itself first.
    args.search = [folder, *args.search]
    roots = build_roots(args, leaves, [folder])
    plan = planning.plan(
        folder,
        roots,
        keep_name=args.keep_name,
        in_place=not args.copy,
        leaves=leaves,
        progress=console.progress(),
    )
    if args.powershell:
        return _print_script(plan, roots, console)
    if args.dry_run or not args.offline or not plan.piles:
        return _show(plan, console, would=not args.offline and not args.dry_run)
    return _carry_out(plan, roots, args.unrelated, console)


def _show(plan: PilePlan, console: Console, *, would: bool) -> int:
    document, refused = plan.as_dict(), plan.refused
    lines = _foreseen(plan)
    if would and plan.piles and refused is None:
        lines += ["", "Nothing was done. Merge with --offline, once nobody has these disks open."]
        lines += _unread_in_the_way(plan)
    if refused is not None:
        console.refuse(refused)
        document["refused"] = described(refused)
    console.result(document, "\n".join(lines))
    return 0 if refused is None else 1


def _unread_in_the_way(plan: PilePlan) -> list[str]:
    if not plan.unread:
        return []
    lines = [
        "",
        "These cannot be read. Make them readable, or move them away; or, once you know that none "
        "of them builds on a disk that is merged, add to the command:",
    ]
    paths = sorted(plan.unread)
    lines += [f"  --unrelated {shlex.quote(path)}" for path in paths[:_MOST_LINES]]
    if len(paths) > _MOST_LINES:
        lines.append(f"  and {len(paths) - _MOST_LINES:,} more; a directory stands for all in it")
    return lines


def _carry_out(plan: PilePlan, roots: Roots, unrelated: list[str], console: Console) -> int:
    steps = plan.steps()
    if plan.in_place:
        console.note(_IN_PLACE)
    for one in plan.piles:
        for warning in one.warnings:
            console.note(f"warning: {warning}")
    finished: list[dict[str, Any]] = []
    progress = console.progress()
    try:
        applying.apply(
            steps,
            roots,
            offline=True,
            unrelated=unrelated,
            progress=progress,
            done=finished.append,
        )
    except Cancelled:
        if not finished:
            raise
        raise ImageError(
            "E_CANCELLED",
            f"Stopped as asked. {_merged_before(finished)}; every other file is as it was.",
        ) from None
    except Stopped as stopped:
        if not finished:
            raise
        raise Stopped(f"{_merged_before(finished)}. {stopped.reason}", stopped.how) from stopped
    done = applying.outcome(finished)
    lines = [done["sentence"]]
    for row in finished:
        lines.append(f"{row['output']}: the old files are in {row['trash']}")
    lines += [f"on the host run: {command}" for command in done["commands"]]
    for warning in done["warnings"]:
        console.note(f"warning: {warning}")
    console.result({"folder": plan.survey.folder} | done, "\n".join(lines))
    return 0


def _merged_before(finished: list[dict[str, Any]]) -> str:
    stay = "1 pile was" if len(finished) == 1 else f"{len(finished):,} piles were"
    return f"{stay} merged before, and what that replaced is in the trash"


def _print_script(plan: PilePlan, roots: Roots, console: Console) -> int:
    text, steps = windows_script.script(plan.piles, plan.forest, roots, plan.survey.folder)
    refused = plan.refused
    if not steps and refused is not None:
        raise refused
    console.result(plan.as_dict() | {"powershell": text})
    if not console.as_json:
        print(text, end="", flush=True)
    return 0


# ---------------------------------------------------------------------- the plan in words


_IN_PLACE = (
    "warning: Merging in place cannot be undone once data moves. It can be stopped and resumed; "
    "until a pile is finished its leaf reads as ever, and the disks below it must not be opened "
    "by themselves."
)


def _foreseen(plan: PilePlan) -> list[str]:
    found = plan.as_dict()
    lines = [
        f"{found['folder']}: {count(found['disks'], 'disk')}, {found['differencing']:,} of them "
        f"differencing, {found['allocated_bytes']:,} bytes; "
        f"{count(len(plan.piles), 'pile')} to merge"
    ]
    for number, one in enumerate(plan.piles, 1):
        lines += ["", *_pile(one, number)]
    if len(plan.piles) > 1:
        lines += [
            "",
            f"all together      {found['bytes_to_copy']:,} bytes to {_verb(plan.in_place)}",
            f"space needed      {found['free_space_needed_bytes']:,}"
            + ("" if plan.in_place else ", until the trash is emptied"),
        ]
    told = [
        ("branch", [f"{row['sentence']} {row['way_out']}" for row in found["branches"]]),
        ("orphan", [f"{row['path']}: {row['reason']}" for row in found["orphans"]]),
        ("circle", [" → ".join([*ring, ring[0]]) for ring in found["rings"]]),
        ("stranger", [f"{row['path']}: {row['reason']}" for row in found["strangers"]]),
        (
            "needed outside",
            [f"{row['path']} by {', '.join(row['children'])}" for row in found["needed_outside"]],
        ),
        ("not read", [f"{row['file']}: {row['message']}" for row in found["unread"]]),
    ]
    for word, rows in told:
        if rows:
            lines.append("")
        lines += [f"{word:<17} {row}" for row in rows[:_MOST_LINES]]
        if len(rows) > _MOST_LINES:
            lines.append(f"{word:<17} and {len(rows) - _MOST_LINES:,} more")
    return lines


def _verb(in_place: bool) -> str:
    return "move" if in_place else "copy"


def _pile(one: Pile, number: int) -> list[str]:
    lines = [f"Pile {number}, in the order of merging:"]
    row = one.as_dict()
    for place, (disk, step) in enumerate(zip(row["order"], row["steps"], strict=False), 1):
        lines.append(
            f"{place:>4}  {disk['path']}  {disk['allocated_bytes']:,} bytes, "
            f"written {disk['modified']}, into {os.path.basename(step['into'])}"
        )
    plan = one.merge
    if one.refused is not None:
        lines.append(f"refused           {one.refused.code}: {one.refused.sentence}")
    else:
        lines += [
            f"in one pass       {plan.amount.held_bytes:,} bytes to "
            f"{_verb(plan.request.in_place)}; pair by pair it would be up to "
            f"{one.pairwise_bytes:,}",
            f"into              {plan.output}",
            f"size afterwards   {plan.predicted_size_bytes:,} at most",
            f"space needed      {plan.needed_bytes:,} of {plan.free_space_bytes:,} free",
            f"back with trash   {plan.space_back_bytes:,}",
        ]
        lines += [f"to the trash      {path}" for path in plan.trash]
        lines += [f"new parent path   {path}" for path in plan.relink]
    lines += [f"managed           {row['sentence']}" for row in guards.in_short(plan.managers)]
    lines += [f"warning           {warning}" for warning in one.warnings]
    return lines
