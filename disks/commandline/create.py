"""`disk create`: a new fixed, dynamic or differencing disk."""

from __future__ import annotations

import argparse
import os
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import build_roots, parent_path, size_bytes
from disks.commandline.outcome import conclude
from disks.operations import create


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "create",
        parents=[common],
        description="Make a new disk: fixed or dynamic with --size, or the child of a --parent. "
        "The extension chooses the format: .vhd up to 2040 GiB, .vhdx up to 64 TiB.",
    )
    parser.add_argument("destination", metavar="DST")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--size", metavar="BYTES[K|M|G|T]", type=size_bytes, help="size of the virtual disk"
    )
    what.add_argument("--parent", metavar="PARENT", help="make a differencing disk of this one")
    parser.add_argument("--type", choices=("fixed", "dynamic"), help="with --size")
    parser.add_argument(
        "--block-size",
        metavar="BYTES[K|M]",
        type=size_bytes,
        help="of a dynamic disk, with --size: VHD 2M or 512K, VHDX 1M to 256M (default: as Windows "
        "makes it, 2M and 32M)",
    )
    parser.add_argument(
        "--sector-size",
        metavar="BYTES",
        type=size_bytes,
        help="logical sectors of a VHDX, with --size: 512 or 4096 (default: 512)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, only")
    parser.add_argument("--offline", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace, console: Console) -> int:
    if args.parent and args.type:
        args.usage_error("--type goes with --size: the child of a parent is differencing")
    if args.parent and (args.block_size or args.sector_size):
        args.usage_error("--block-size and --sector-size go with --size: a child has its parent's")
    if args.size is not None and not args.type:
        args.usage_error("--size needs --type fixed or --type dynamic")
    path = os.path.abspath(args.destination)
    parent = None
    if args.parent:
        parent = parent_path(args.parent, build_roots(args, [path]))
    roots = build_roots(args, [name for name in (path, parent) if name])
    plan = create.plan(
        path,
        roots,
        disk_type=args.type or "dynamic",
        size_bytes=args.size,
        parent=parent,
        block_size_bytes=args.block_size,
        sector_bytes=args.sector_size,
    )
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    kind = f"{plan.format.name.upper()}, {plan.new.disk_type}"
    text = f"{path}: {kind}, {plan.new.virtual_size_bytes:,} bytes"
    if args.dry_run:
        return conclude(console, plan.as_dict(), plan.refused, f"would create {text}")
    done = create.apply(plan, roots, progress=console.progress())
    console.result(done, f"created {text}, {done['file_size_after_bytes']:,} bytes on disk")
    return 0
