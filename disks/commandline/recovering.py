"""`disk recover`: finish or undo what an interrupted job left behind."""

from __future__ import annotations

import argparse
import os
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import add_limit, add_stop_by, build_roots
from disks.operations.recover import recover


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "recover",
        parents=[common],
        description="Finish or undo what an interrupted job left behind in a directory and below. "
        "It may be run again at any time.",
    )
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument(
        "--assume-dead",
        action="store_true",
        help="where the storage has no locks: I declare that no other host works here",
    )
    parser.add_argument(
        "--only-touched",
        action="store_true",
        help="of merges in place that were stopped, and whose parent has other times since: "
        "I know that nobody has written to it",
    )
    add_limit(parser)
    add_stop_by(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    folder = os.path.abspath(args.folder)
    if not os.path.isdir(folder):
        args.usage_error(f"argument DIR: {args.folder} is no directory")
    roots = build_roots(args, folders=[folder])
    rows = recover(
        folder,
        roots,
        assume_dead=args.assume_dead,
        only_touched=args.only_touched,
        progress=console.progress(),
    )
    text = "\n".join(f"{row['path']}: {row['sentence']}" for row in rows)
    console.result({"recovered": rows}, text or f"{folder}: nothing was left unfinished.")
    return 1 if any(row["action"] == "needs-attention" for row in rows) else 0
