"""`disk check` and `disk hash`: is the structure sound, and what is the content."""

from __future__ import annotations

import argparse
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import build_roots, file_path
from disks.commandline.outcome import count
from disks.engine.chain import LONG_CHAIN, open_chain, walk
from disks.engine.check import check_image, check_link
from disks.engine.errors import ImageError
from disks.engine.findings import Finding, Level
from disks.operations import journal, merge_in_place
from disks.operations.inspection import place_findings
from disks.operations.merge_in_place import Work
from disks.operations.paths import Roots
from disks.operations.progress import Progress

ERRORS_FOUND = 3


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "check",
        parents=[common],
        description="Check the structure of a disk. Exit code 3: errors were found.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--deep", action="store_true", help="read every sector bitmap and every clear sector"
    )
    parser.add_argument("--chain", action="store_true", help="check every ancestor, too")
    parser.set_defaults(run=run_check)
    parser = subparsers.add_parser(
        "hash",
        parents=[common],
        description="SHA-256 of the virtual content, read through the whole chain.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(run=run_hash)


def run_check(args: argparse.Namespace, console: Console) -> int:
    path = file_path(args.file)
    roots = build_roots(args, [path])
    progress = console.progress()
    findings = check_one(path, roots, progress, deep=args.deep)
    if args.chain:
        findings += check_ancestors(path, roots, progress, deep=args.deep)
    rows = [finding.as_dict() | {"file": file} for file, finding in findings]
    errors = sum(finding.level is Level.ERROR for _, finding in findings)
    warnings = sum(finding.level is Level.WARNING for _, finding in findings)
    lines = [
        f"{finding.level}: {finding.code}: {finding.message}" + (f" ({file})" if args.chain else "")
        for file, finding in findings
    ]
    lines.append(f"{path}: {count(errors, 'error')}, {count(warnings, 'warning')}")
    console.result(
        {"file": path, "errors": errors, "warnings": warnings, "findings": rows}, "\n".join(lines)
    )
    return ERRORS_FOUND if errors else 0


def check_one(
    path: str, roots: Roots, progress: Progress, *, deep: bool
) -> list[tuple[str, Finding]]:
    """Findings about one file, each with the file's path."""
    progress.step("check", f"checking {path}")
    with roots.open(path) as file:
        findings = check_image(file, deep=deep, report=progress.report)
        findings += place_findings(file, path, roots)
    return [(path, finding) for finding in findings]


def check_ancestors(
    path: str, roots: Roots, progress: Progress, *, deep: bool
) -> list[tuple[str, Finding]]:
    """Findings about each ancestor, and about each child and parent as a pair."""
    found: list[tuple[str, Finding]] = []
    previous: str | None = None
    levels = 0
    for link in walk(path, roots):
        levels += 1
        if link.error is not None:
            if link.path != path or link.error.code in ("E_CYCLE", "E_CHAIN_DEPTH"):
                found.append((link.path, Finding.from_error(link.error)))
            break
        if previous is not None:
            found += check_one(link.path, roots, progress, deep=deep)
            found += _check_pair(previous, link.path, roots)
        if link.resolution is not None and link.resolution.path is None:
            found.append((link.path, Finding.from_error(link.resolution.error(link.path))))
        previous = link.path
    if levels > LONG_CHAIN:
        message = f"The chain has {levels} levels or more; every read may look through them all."
        found.append((path, Finding(Level.WARNING, "W_CHAIN_DEPTH", message, value=levels)))
    return found


def _check_pair(child_path: str, parent_path: str, roots: Roots) -> list[tuple[str, Finding]]:
    from disks.engine.formats import open_image

    with roots.open(child_path) as child, roots.open(parent_path) as parent:
        try:
            findings = check_link(open_image(child), open_image(parent))
        except ImageError as error:
            findings = [Finding.from_error(error)]
    return [(child_path, finding) for finding in findings]


def run_hash(args: argparse.Namespace, console: Console) -> int:
    path = file_path(args.file)
    progress = console.progress()
    roots = build_roots(args, [path])
    _refuse_half_merged(path, roots)
    progress.step("hash", "reading the virtual content")
    with open_chain(path, roots) as chain:
        digest = chain.sha256(progress.report)
        size = chain.virtual_size_bytes
    console.result({"virtual_size_bytes": size, "sha256": digest}, f"{digest}  {path}")
    return 0


def _refuse_half_merged(path: str, roots: Roots) -> None:
    """E_UNFINISHED below the leaf of a merge in place that is half-way.

    By themselves these disks hold neither what they did nor what they will; the leaf reads as ever.
    """
    for record in journal.pending(roots, [path]):
        merge = merge_in_place.to_go_on_with(roots, record)
        if merge is None:
            continue
        work = Work.from_sidecar(merge)
        if path in (work.base, *work.levels[1:]):
            journal.require_settled(roots, [path])
