#!/usr/bin/env python3
"""Chain to new disk: our copy phase against `cp` of the same bytes, and 7-Zip with qemu-img.

Builds a chain in a temporary folder: a dynamic base (a quarter of it zero or half-zero
blocks) and three differencing children (clustered, scattered in 4 to 16 KiB pieces, mixed),
scaled by --gib. Runs ours and each peer found on this machine in alternation, as whole
processes with a warm page cache, checks the content hash of every output, and prints
medians and ratios. No timed test: machines are noisy.

    python benchmarks/merge_to_new.py --gib 2 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import common

SEVEN_ZIP = shutil.which("7zz") or shutil.which("7z")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0, help="data in the base, GiB (1)")
    parser.add_argument("--rounds", type=int, default=5)
    common.add_format(parser)
    parser.add_argument("--folder", help="where to build (default: the temporary folder)")
    args = parser.parse_args()
    with common.workspace(args.folder) as folder:
        blocks = max(16, int(args.gib * 512))
        chain = common.build_chain(folder, blocks, args.format)
        leaf = chain[-1]
        expected = common.our_hash(leaf)
        one = os.path.join(folder, f"same-bytes.{args.format}")
        first = common.merge_to(leaf, one)
        size = os.path.getsize(one)
        print(f"chain of {len(chain)}, {blocks} base blocks; result {size / 2**20:,.0f} MiB")
        print(f"first run: peak memory {first.rss_mib:.0f} MiB, {json.dumps(first.document)}")
        ways = {"cp (limit)": cp, "ours": ours}
        if SEVEN_ZIP and shutil.which("qemu-img"):
            ways["7z + qemu-img"] = seven_zip
        times: dict[str, list[float]] = {name: [] for name in ways}
        busy: dict[str, list[float]] = {name: [] for name in ways}
        copy_phase: list[float] = []
        proof: list[float] = []
        memory = 0.0
        for number in range(args.rounds):
            for name in common.rotated(list(ways), number):
                target = os.path.join(folder, f"out.{args.format}")
                common.forget(target)
                common.settle()
                run = ways[name](leaf, one, target)
                times[name].append(run.seconds)
                busy[name].append(run.cpu_seconds)
                if name == "ours":
                    copy_phase.append(run.document["copy_seconds"])
                    proof.append(run.document["proof_seconds"])
                    memory = max(memory, run.rss_mib)
                if number == 0:
                    got = common.our_hash(target)
                    assert got == expected, f"{name}: wrong content"
        cp_time = common.median(times["cp (limit)"])
        copy_time = common.median(copy_phase)
        print(f"\n{'':24}{'median s':>10}{'× cp':>8}{'processor s':>13}")
        for name, seconds in times.items():
            value = common.median(seconds)
            used = common.median(busy[name])
            print(f"{name + ' (process)':24}{value:10.2f}{value / cp_time:8.2f}{used:13.2f}")
        print(f"{'our copy phase':24}{copy_time:10.2f}{copy_time / cp_time:8.2f}")
        print(f"{'our proof':24}{common.median(proof):10.2f}")
        print(f"peak memory of ours: {memory:.0f} MiB")
        if "7z + qemu-img" in times:
            factor = common.median(times["7z + qemu-img"]) / copy_time
            print(f"7z + qemu-img takes {factor:.1f} × our copy phase")


def cp(leaf: str, one: str, target: str) -> common.Run:
    """The same bytes, made durable as ours are."""
    return common.run(["cp", "--reflink=never", "--sparse=never", one, target], then_sync=target)


def ours(leaf: str, one: str, target: str) -> common.Run:
    return common.merge_to(leaf, target)


def seven_zip(leaf: str, one: str, target: str) -> common.Run:
    """7-Zip reads the chain into a raw file, qemu-img makes a dynamic disk of it."""
    raw = os.path.join(os.path.dirname(target), "out.raw")
    kind = os.path.splitext(leaf)[1][1:].upper()
    convert = shlex.join(["qemu-img", "convert", "-f", "raw", *common.qemu_output(target)])
    script = f"{SEVEN_ZIP} x -t{kind} -so {leaf} > {raw} && {convert} {raw} {target}"
    result = common.run(["sh", "-c", script], then_sync=target)
    Path(raw).unlink()
    return result


if __name__ == "__main__":
    sys.exit(main())
