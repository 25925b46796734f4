"""`disk repair` and `disk replay-log`: what mends one file and leaves its content."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, NamedTuple

from disks.commandline.console import Console
from disks.commandline.linking import known_children
from disks.commandline.options import add_offline, build_roots, file_path
from disks.commandline.outcome import changed, conclude
from disks.engine.errors import ImageError
from disks.operations import guards, mending
from disks.operations.mending import Mend, MendPlan
from disks.operations.repair import REPAIR
from disks.operations.replay import REPLAY


class _Verb(NamedTuple):
    mend: Mend
    description: str
    done: str


_VERBS = {
    "repair": _Verb(
        REPAIR,
        "Write the sound copy of a disk's headers over the damaged or missing one: the footer of "
        "a dynamic or differencing VHD, a header or region table of a VHDX. The content is not "
        "touched, the file never cut.",
        "the headers were repaired.",
    ),
    "replay-log": _Verb(
        REPLAY,
        "Write what waits in the log of a VHDX into its place, as Windows does when it opens the "
        "disk. Content, DataWriteGuid and parent link stay: its children go on fitting to it.",
        "the log was replayed and is empty.",
    ),
}


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    for name, verb in _VERBS.items():
        parser = subparsers.add_parser(name, parents=[common], description=verb.description)
        parser.add_argument("file", metavar="FILE")
        parser.add_argument("--dry-run", action="store_true", help="say what would be written")
        add_offline(parser)
        parser.set_defaults(run=partial(_run, verb))


def _run(verb: _Verb, args: argparse.Namespace, console: Console) -> int:
    path = file_path(args.file)
    roots = build_roots(args, [path])
    plan = mending.plan(verb.mend, path, roots)
    for warning in plan.warnings:
        console.note(f"{warning.level}: {warning.message}")
    if args.dry_run:
        refused = None
        try:
            guards.require_offline(plan.managers, offline=args.offline)
        except ImageError as error:
            refused = error
        document = plan.as_dict() | {"dry_run": True, "refused": None}
        return conclude(console, document, refused, _as_text(plan))
    done = mending.apply(
        verb.mend,
        plan,
        roots,
        offline=args.offline,
        progress=console.progress(),
        known_children=known_children(path, roots),
    )
    console.result(done, f"{_as_text(plan)}\n{path}: {verb.done}")
    return 0


def _as_text(plan: MendPlan) -> str:
    return "\n".join(changed(change) for change in plan.changes)
