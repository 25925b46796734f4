#!/usr/bin/env python3
"""What do a million entries in one folder, and 100,000 disks in another, cost?

    .venv/bin/python benchmarks/crowded.py [--entries 1000000] [--disks 100000]

Every row is a process of its own, with its peak memory (bad-input F95): the scan into the
catalog, new and unchanged, with as many disks in the catalog; what an operation asks of a folder
before it begins (records of interrupted work, who manages the disk); recovery; the look for a
disk's children.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from common import Run, run, workspace
from scan import prepare, write_image

HERE = Path(__file__).resolve()


def build(storage: Path, entries: int, disks: int) -> None:
    crowded, many = storage / "crowded", storage / "many"
    crowded.mkdir(parents=True)
    many.mkdir()
    for number in range(entries):
        (crowded / f"a-file-that-is-no-disk-{number}.txt").touch()
    base = uuid.uuid4().bytes
    write_image(crowded / "disk.vhd", 0, base)
    for number in range(disks):
        write_image(many / f"disk-{number}.vhd", number + 1, uuid.uuid4().bytes)


def scan(state: Path) -> object:
    root = prepare(state)
    from disks.services import scanning

    return scanning.scan(root)["sentence"]


def ask(state: Path) -> object:
    from disks.operations import inspection, journal

    path = str(state / "storage" / "crowded" / "disk.vhd")
    roots = _roots(state)
    journal.require_settled(roots, [path])
    return str(inspection.managed_by(path, roots))


def recover(state: Path) -> object:
    from disks.operations.recover import recover

    return recover(str(state / "storage"), _roots(state))


def children(state: Path) -> object:
    from disks.operations import family

    path, roots = str(state / "storage" / "crowded" / "disk.vhd"), _roots(state)
    return family.look(roots, {path: str(uuid.uuid4())}, children_of=None).of(path)


def _roots(state: Path):  # type: ignore[no-untyped-def]
    from disks.operations.paths import Roots
    from disks.operations.storage_roots import Root

    return Roots([Root(str(state / "storage"))])


WORK: dict[str, Callable[[Path], object]] = {
    "start": lambda state: "",
    "scan, new": scan,
    "scan, unchanged": scan,
    "ask before an operation": ask,
    "recover": recover,
    "look for children": children,
}


def in_a_process(work: str, state: str) -> Run:
    return run([sys.executable, str(HERE), "--work", work, "--state", state], parse=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--entries", type=int, default=1_000_000)
    arguments.add_argument("--disks", type=int, default=100_000)
    arguments.add_argument("--folder", help="where to build it; needs as many inodes")
    arguments.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    arguments.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.work:
        print(json.dumps({"told": WORK[options.work](options.state)}))
        return
    with workspace(options.folder) as state:
        build(Path(state) / "storage", options.entries, options.disks)
        for name in WORK:
            done = in_a_process(name, state)
            print(f"{name:<26} {done.seconds:7.1f} s ({done.cpu_seconds:6.1f} s of processor)"
                  f" {done.rss_mib:7.0f} MiB   {done.document['told']}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
