"""`disk repair`: the footer from its surviving copy."""

from __future__ import annotations

import argparse
from typing import Any

from disks.commandline.console import Console
from disks.commandline.linking import known_children
from disks.commandline.options import add_offline, build_roots, file_path
from disks.commandline.outcome import conclude
from disks.engine.errors import ImageError
from disks.operations import guards, repair
from disks.operations.repair import RepairPlan


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "repair",
        parents=[common],
        description="Write the sound copy of a dynamic or differencing disk's footer over the "
        "damaged or missing one. The content is not touched, the file never cut.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")
    add_offline(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    path = file_path(args.file)
    roots = build_roots(args, [path])
    plan = repair.plan(path, roots)
    for warning in plan.warnings:
        console.note(f"{warning.level}: {warning.message}")
    if args.dry_run:
        refused = None
        try:
            guards.require_offline(plan.managers, offline=args.offline)
        except ImageError as error:
            refused = error
        told = None if refused is None else {"code": refused.code, "message": refused.message}
        document = plan.as_dict() | {"dry_run": True, "refused": told}
        return conclude(console, document, refused, _as_text(plan))
    done = repair.apply(
        plan,
        roots,
        offline=args.offline,
        progress=console.progress(),
        known_children=known_children(path, roots),
    )
    console.result(done, f"{_as_text(plan)}\n{path}: the footer was repaired.")
    return 0


def _as_text(plan: RepairPlan) -> str:
    lines = []
    for change in plan.changes:
        where = "" if change.offset is None else f" (byte {change.offset:,})"
        lines.append(f"{change.field}{where}: {change.now} → {change.after}")
    return "\n".join(lines)
