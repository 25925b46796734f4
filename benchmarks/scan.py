#!/usr/bin/env python3
"""How fast is a scan of many disks into SQLite?

    .venv/bin/python benchmarks/scan.py [--disks 10000] [--rounds 5] [--against CHECKOUT]

Builds small Windows-like VHDs in a temporary folder (one base in ten, nine differencing
children each; a few blocks, times of their own) and scans them in a process and a catalog of
its own: new, unchanged, a tenth touched, a folder moved, its bases moved elsewhere. Prints
the medians of the rounds; goals: 10,000 new ones in 5 s, unchanged in 1 s.

--against  another checkout of the project, which takes turns with this one
--profile  where a first scan spends its time, function by function
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
PROJECT = HERE.parent.parent

BLOCK = 2 * 1024 * 1024
SIZE = 64 * 1024 * 1024
BLOCKS_FROM = 24  # sector of the first block: behind headers, table and locators


def checksummed(data: bytearray, at: int) -> bytes:
    """Fill the 4-byte one's complement checksum at this offset."""
    data[at : at + 4] = bytes(4)
    struct.pack_into(">I", data, at, ~sum(data) & 0xFFFFFFFF)
    return bytes(data)


def footer(identity: bytes, kind: int, created: int) -> bytes:
    data = bytearray(512)
    struct.pack_into(">8sIIQI4sI4sQQHBBI", data, 0, b"conectix", 2, 0x10000, 512, created, b"win ",
                     0xA0000, b"Wi2k", SIZE, SIZE, 963, 8, 17, kind)  # fmt: skip
    data[68:84] = identity
    return checksummed(data, 64)


def write_image(
    path: Path, number: int, identity: bytes, parent: tuple[bytes, str] | None = None
) -> None:
    """A dynamic disk or a differencing one that names its parent; its blocks are holes."""
    foot = footer(identity, 4 if parent else 3, 500_000_000 + number)
    header = bytearray(1024)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 2**64 - 1, 8192, 0x10000, SIZE // BLOCK,
                     BLOCK)  # fmt: skip
    body = bytearray(12288)
    if parent:
        parent_identity, name = parent
        header[40:56] = parent_identity
        absolute = f"C:\\VMs\\{name}"
        header[64 : 64 + 2 * len(absolute)] = absolute.encode("utf-16-be")
        texts = ((b"W2ku", absolute, 4096), (b"W2ru", f".\\{name}", 4608))
        for slot, (code, text, offset) in enumerate(texts):
            raw = text.encode("utf-16-le")
            struct.pack_into(">4sIIIQ", header, 576 + slot * 24, code, 512, len(raw), 0, offset)
            body[offset : offset + len(raw)] = raw
    body[:512] = foot
    body[512:1536] = checksummed(header, 36)
    blocks = number % 8
    entries = [BLOCKS_FROM + index * (BLOCK // 512 + 1) for index in range(blocks)]
    entries += [2**32 - 1] * (SIZE // BLOCK - blocks)
    body[8192 : 8192 + 4 * len(entries)] = struct.pack(f">{len(entries)}I", *entries)
    with open(path, "wb") as file:
        file.write(body)
        file.seek(blocks * (BLOCK + 512), os.SEEK_CUR)
        file.write(foot)
    modified = 1_700_000_000 + 37 * number
    os.utime(path, (modified, modified))


def build(root: Path, disks: int) -> None:
    for group in range(disks // 10):
        folder = root / f"group-{group // 50}"
        folder.mkdir(parents=True, exist_ok=True)
        base = uuid.uuid4().bytes
        write_image(folder / f"base-{group}.vhd", group, base)
        for child in range(9):
            path = folder / f"child-{group}-{child}.vhd"
            number = disks + group * 9 + child
            write_image(path, number, uuid.uuid4().bytes, (base, f"base-{group}.vhd"))


def prepare(state: Path) -> Any:
    """A console of its own with the built folder as its root."""
    for name in [name for name in os.environ if name.startswith("VDADMIN_")]:
        del os.environ[name]
    os.environ["VDADMIN_STATE_DIR"] = str(state)
    os.environ["VDADMIN_SECRET_KEY"] = "benchmark-" + "x" * 50
    os.environ["DATABASE_URL"] = f"sqlite:///{state}/catalog.sqlite3"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vdadmin.settings")
    import django

    django.setup()
    from django.core.management import call_command

    from disks.models import StorageRoot
    from disks.services import root_declarations

    call_command("migrate", verbosity=0)
    declared = StorageRoot.DeclaredBy.COMMAND_LINE
    there = StorageRoot.objects.first()
    return there or root_declarations.declare(path=str(state / "storage"), declared_by=declared)


def one_round(state: Path) -> list[dict[str, Any]]:
    """All stages, each with wall seconds, processor seconds and the scan's own sentence."""
    root = prepare(state)
    from disks.models import ParentLink
    from disks.services import scanning

    storage = state / "storage"
    stages: list[dict[str, Any]] = []

    def timed(what: str, change: Callable[[], None] = lambda: None) -> None:
        change()
        start, spent = time.perf_counter(), time.process_time()
        result = scanning.scan(root)
        seconds, busy = time.perf_counter() - start, time.process_time() - spent
        found = ParentLink.objects.filter(status="found").count()
        sentence = f"{result['sentence']} {found:,} parents found."
        stages.append({"what": what, "seconds": seconds, "busy": busy, "sentence": sentence})

    def touch() -> None:
        for path in sorted(storage.rglob("child-*.vhd"))[::10]:
            os.utime(path)

    def move_bases() -> None:
        for path in sorted((storage / "moved").glob("base-*.vhd")):
            os.rename(path, storage / path.name)

    timed("new")
    timed("unchanged")
    timed("a tenth touched", touch)
    timed("one folder moved", lambda: os.rename(storage / "group-0", storage / "moved"))
    timed("its bases moved elsewhere", move_bases)
    return stages


def profile(disks: int, order: str) -> None:
    import cProfile
    import pstats

    from common import workspace

    with workspace(None) as state:
        build(Path(state) / "storage", disks)
        root = prepare(Path(state))
        from disks.services import scanning

        profiler = cProfile.Profile()
        profiler.runcall(scanning.scan, root)
    pstats.Stats(profiler).sort_stats(order).print_stats(50)


def in_a_process(code: Path, disks: int) -> list[dict[str, Any]]:
    """A round by the project's code in another checkout, or in this one."""
    from common import run, settle, workspace

    with workspace(None) as state:
        build(Path(state) / "storage", disks)
        settle()
        command = [sys.executable, str(HERE), "--state", state, "--code", str(code)]
        stages: list[dict[str, Any]] = run(command, parse=True).document["stages"]
    return stages


def compare(disks: int, rounds: int, checkouts: dict[str, Path]) -> None:
    from common import median, rotated

    results: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in checkouts}
    names = list(checkouts)
    for number in range(rounds):
        for name in rotated(names, number):
            results[name].append(in_a_process(checkouts[name], disks))
    for name, found in results.items():
        print(f"{name}: medians of {rounds} rounds, {disks:,} disks")
        for stage in zip(*found, strict=True):
            seconds, busy = (median([row[key] for row in stage]) for key in ("seconds", "busy"))
            print(
                f"  {stage[0]['what']:<26} {seconds:6.2f} s ({busy:5.2f} s of processor)"
                f" {disks / seconds:9,.0f} disks/s   {stage[0]['sentence']}"
            )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--disks", type=int, default=10_000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--against", type=Path)
    arguments.add_argument("--profile", choices=("cumulative", "tottime"))
    arguments.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--code", type=Path, default=PROJECT, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.state:
        sys.path[0] = str(options.code)  # instead of the script's folder
        print(json.dumps({"stages": one_round(options.state)}))
    elif options.profile:
        profile(options.disks, options.profile)
    else:
        checkouts = {"this checkout": PROJECT}
        if options.against:
            checkouts["the other one"] = options.against.resolve()
        compare(options.disks, options.rounds, checkouts)


if __name__ == "__main__":
    main()
