"""`disk inspect` and `disk chain`: what a file is, and what it builds on."""

from __future__ import annotations

import argparse
from typing import Any

from disks.commandline.console import Console
from disks.commandline.options import build_roots, file_path
from disks.engine.resolution.path_text import is_volume_path
from disks.operations.inspection import inspect
from disks.operations.paths import Roots

CHAIN_LIMIT = 256


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    for verb, sentence, run in (
        ("inspect", "Say what a file is, and where its parent is.", run_inspect),
        ("chain", "Describe every link from the disk (the leaf) to its base.", run_chain),
    ):
        parser = subparsers.add_parser(verb, parents=[common], description=sentence)
        parser.add_argument("file", metavar="FILE")
        parser.set_defaults(run=run)


def run_inspect(args: argparse.Namespace, console: Console) -> int:
    path = file_path(args.file)
    document = inspect(path, build_roots(args, [path]))
    console.result(document, describe(document))
    return 0


def run_chain(args: argparse.Namespace, console: Console) -> int:
    path = file_path(args.file)
    document = chain_document(path, build_roots(args, [path]))
    links = document["links"]
    lines = [
        f"{level}  {link['path']}  ({link['type'] or 'unreadable'})"
        for level, link in enumerate(links)
    ]
    if document["status"] == "broken":
        lines.append(f"broken: {_why_broken(links[-1])}")
    console.result(document, "\n".join(lines))
    return 0


def chain_document(path: str, roots: Roots) -> dict[str, Any]:
    """The links, leaf first, as far as they can be followed."""
    links: list[dict[str, Any]] = []
    seen: set[str] = set()
    identities: set[str] = set()
    following: str | None = path
    while following is not None and len(links) < CHAIN_LIMIT:
        document = inspect(following, roots)
        links.append(document)
        seen.add(following)
        if document["identity"]:
            identities.add(document["identity"])
        parent = document["parent"]
        if parent is None:
            complete = document["type"] is not None
            return {"status": "complete" if complete else "broken", "links": links}
        if parent["status"] != "found":
            break
        following = parent["path"]
        if following in seen or parent["identity"] in identities:
            parent["status"] = "cycle"
            document["reason"] = f"The chain leads in a circle, back to {following}."
            break
    return {"status": "broken", "links": links}


def _why_broken(link: dict[str, Any]) -> str:
    if link["parent"] is None:
        errors = [finding for finding in link["findings"] if finding["level"] == "error"]
        return str(errors[0]["message"]) if errors else "the disk cannot be read"
    if link["parent"]["status"] == "found":
        return f"the chain has more than {CHAIN_LIMIT} levels"
    return str(link["reason"] or f"the parent is {link['parent']['status']}")


def describe(document: dict[str, Any]) -> str:
    """The inspect document as lines for a person."""
    rows = [
        ("File", document["path"]),
        ("Type", f"{document['format'].upper()}, {document['type'] or 'cannot be told'}"),
        ("Virtual size", _bytes(document["virtual_size_bytes"])),
        ("File size", _bytes(document["file_size_bytes"])),
        ("On disk", _bytes(document["allocated_bytes"])),
    ]
    if document["block_size_bytes"]:
        used, total = document["blocks_allocated"], document["blocks_total"]
        rows.append(
            ("Blocks", f"{used:,} of {total:,} used, {document['block_size_bytes']:,} bytes each")
        )
    facts = dict(document["properties"])
    rows += [
        ("Identity", document["identity"]),
        ("Chain's id", document["virtual_disk_id"]),
        ("FileWriteGuid", facts.get("FileWriteGuid")),
        ("Log", facts.get("Log")),
        ("Creator", " ".join((document["creator"] or "").split())),
        ("Created", document["created"]),
    ]
    parent = document["parent"]
    if parent is not None:
        rows += [
            ("Parent", parent["path"] or parent["name"] or parent["named"]),
            ("Parent status", parent["status"]),
            ("", document["reason"]),
        ]
        rows += [("  looked at", _step(step)) for step in parent["trace"]]
        if parent["status"] != "found":
            rows += [("  try", hint) for hint in _hints(parent["trace"])]
    if document["managed_by"]:
        rows.append(("Managed by", document["managed_by"]["sentence"]))
    rows += [
        (finding["level"].capitalize(), f"{finding['code']}: {finding['message']}")
        for finding in document["findings"]
    ]
    return "\n".join(f"{label:<14} {value}" for label, value in rows if value not in (None, ""))


def _hints(trace: list[dict[str, Any]]) -> list[str]:
    """The options that would let the search go where it was not allowed or able to."""
    # No --map can say where a volume's GUID leads.
    verdicts = {step["verdict"] for step in trace if not is_volume_path(step["raw"])}
    hints = []
    if "outside-roots" in verdicts:
        hints.append("--root DIR: a path leads out of the folders that may be looked into")
    if "unmapped" in verdicts:
        hints.append(r"--map 'C:\VMs=/srv/vms': a Windows path that no --map covers")
    return hints


def _step(step: dict[str, Any]) -> str:
    where = f" → {step['candidate']}" if step["candidate"] else ""
    return f"{step['source']}: {step['raw']}{where}: {step['verdict']}"


def _bytes(count: int | None) -> str | None:
    return None if count is None else f"{count:,} bytes"
