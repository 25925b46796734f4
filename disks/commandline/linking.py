"""`disk candidates`, `disk update-parent`, `disk undo-update`: finding and writing the link."""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from typing import Any

from disks.commandline.console import Console, described
from disks.commandline.options import add_offline, build_roots, file_path, parent_path
from disks.commandline.outcome import changed
from disks.operations import guards, relink
from disks.operations.candidates import candidates
from disks.operations.headers import headers_below, read_header
from disks.operations.paths import Roots
from disks.operations.relink import LinkPlan


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "candidates",
        parents=[common],
        description="Possible parents of a differencing disk, best first. Looks in its own "
        "directory and below the --search directories.",
    )
    parser.add_argument("child", metavar="CHILD")
    parser.set_defaults(run=run_candidates)

    parser = subparsers.add_parser(
        "update-parent",
        parents=[common],
        description="Rewrite a differencing disk's parent link.",
    )
    parser.add_argument("child", metavar="CHILD")
    parser.add_argument(
        "--parent",
        required=True,
        metavar="PARENT",
        help="path on this host, or a Windows path that --map covers",
    )
    parser.add_argument(
        "--windows-path", metavar="P", help="how Windows names the parent (default: by --map)"
    )
    parser.add_argument(
        "--ignore-id-mismatch",
        action="store_true",
        help="take a parent that is another disk: the child's content is then at stake",
    )
    _add_writing(parser)
    parser.set_defaults(run=run_update)

    parser = subparsers.add_parser(
        "undo-update", parents=[common], description="Take the last update-parent back."
    )
    parser.add_argument("child", metavar="CHILD")
    _add_writing(parser)
    parser.set_defaults(run=run_undo)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")
    add_offline(parser)


def run_candidates(args: argparse.Namespace, console: Console) -> int:
    child = file_path(args.child)
    found = candidates(child, build_roots(args, [child]))
    lines = [f"{one.verdict}: {one.path}\n    {'; '.join(one.reasons)}" for one in found]
    console.result(
        {"candidates": [one.as_dict() for one in found]},
        "\n".join(lines) or "No possible parent was found. Name more directories with --search.",
    )
    return 0


def run_update(args: argparse.Namespace, console: Console) -> int:
    child = file_path(args.child)
    parent = parent_path(args.parent, build_roots(args, [child]))
    roots = build_roots(args, [child, parent])
    plan = relink.plan(
        child,
        parent,
        roots,
        windows_path=args.windows_path,
        ignore_identity=args.ignore_id_mismatch,
    )
    return _carry_out(plan, roots, args, console)


def run_undo(args: argparse.Namespace, console: Console) -> int:
    child = file_path(args.child)
    roots = build_roots(args, [child])
    return _carry_out(relink.plan_undo(child, roots), roots, args, console)


def _carry_out(plan: LinkPlan, roots: Roots, args: argparse.Namespace, console: Console) -> int:
    for warning in plan.warnings:
        console.note(f"{warning.level}: {warning.message}")
    if args.dry_run:
        refused = None
        if plan.manager is not None and not args.offline:
            refused = guards.managed(plan.child, plan.manager)
        told = None if refused is None else described(refused)
        console.result(plan.as_dict() | {"dry_run": True, "refused": told}, _as_text(plan))
        if refused is not None:
            console.refuse(refused)
        return 1 if refused is not None else 0
    result = relink.apply(
        plan,
        roots,
        offline=args.offline,
        progress=console.progress(),
        known_children=known_children(plan.child, roots),
    )
    done = "taken back" if plan.is_undo else "updated"
    console.result(
        result, f"{_as_text(plan)}\nThe parent link of {os.path.basename(plan.child)} was {done}."
    )
    return 0


def _as_text(plan: LinkPlan) -> str:
    lines = [changed(change) for change in plan.changes if change.now != change.after]
    if not plan.changes:
        lines.append("The link is like that already; nothing is to be written.")
    lines += [f"Windows will look at: {path}" for path in plan.windows_will_look_at]
    return "\n".join(lines)


def known_children(path: str, roots: Roots) -> list[datetime | None]:
    """The parent timestamps that children of this disk store, as far as the folders tell."""
    identity = read_header(roots, path).identity
    places = [os.path.dirname(path), *roots.search]
    return [
        header.parent_timestamp
        for header in headers_below(roots, places)
        if header.parent_identity == identity
    ]
