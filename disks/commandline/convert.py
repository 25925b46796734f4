"""`disk convert`: copy into another type or format."""

from __future__ import annotations

import argparse
import os
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import add_limit, build_roots, file_path
from disks.commandline.outcome import conclude, sizes
from disks.operations import convert


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "convert",
        parents=[common],
        description="Copy a disk into another type or format, by a proven copy with an identity "
        "of its own. A chain is flattened; the sources stay as they are.",
    )
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("destination", metavar="DST")
    parser.add_argument(
        "--type", choices=("fixed", "dynamic"), help="default: as SRC, dynamic for a chain"
    )
    parser.add_argument(
        "--format",
        choices=[target.name for target in convert.TARGETS],
        help="default: what DST ends in, else as SRC; raw: the bytes of the disk and nothing else",
    )
    parser.add_argument(
        "--source-format",
        choices=("raw",),
        help="SRC is a plain image: its content cannot say so, hence you must",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, only")
    add_limit(parser)
    parser.add_argument("--offline", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace, console: Console) -> int:
    source, output = file_path(args.source), os.path.abspath(args.destination)
    roots = build_roots(args, [source, output])
    progress = console.progress()
    try:
        plan = convert.plan(
            source,
            output,
            roots,
            disk_type=args.type,
            format_name=args.format,
            source_is_raw=args.source_format == "raw",
            progress=progress,
        )
    except ValueError as error:
        args.usage_error(str(error))
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    if args.dry_run:
        return conclude(console, plan.as_dict(), plan.refused, _foreseen(plan))
    done = convert.apply(plan, roots, progress=progress)
    lines = [sizes(done), *(f"on the host run: {command}" for command in done["commands"])]
    console.result(done, "\n".join(lines))
    return 0


def _foreseen(plan: convert.ConvertPlan) -> str:
    kind = f", {plan.new.disk_type}" if plan.new and plan.format_name != "raw" else ""
    lines = [
        f"would convert     {' ← '.join(level.path for level in reversed(plan.levels))}",
        f"into              {plan.output} ({plan.format_name}{kind})",
        f"bytes to copy     {plan.amount.held_bytes:,}",
        f"size afterwards   {plan.predicted_size_bytes:,} at most",
        f"space needed      {plan.predicted_size_bytes:,} of {plan.free_space_bytes:,} free",
    ]
    lines += [f"on the host run   {command}" for command in plan.commands]
    return "\n".join(lines)
