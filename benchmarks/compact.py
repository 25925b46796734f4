#!/usr/bin/env python3
"""Compact by rewriting against `qemu-img convert`: a dynamic disk, a tenth of it zeros.

Both rewrite the disk into a new file; ours proves it, swaps it in and keeps the old one in
the trash besides. Alternating rounds on fresh copies, whole processes, results compared by
content hash. Prints medians and ratios.

    python benchmarks/compact.py --gib 1 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0, help="data in the disk, GiB (1)")
    parser.add_argument("--rounds", type=int, default=5)
    common.add_format(parser)
    parser.add_argument("--folder", help="where to build (default: the temporary folder)")
    args = parser.parse_args()
    if not shutil.which("qemu-img"):
        sys.exit("qemu-img is not installed (Debian: qemu-utils)")
    with common.workspace(args.folder) as folder:
        blocks = max(10, int(args.gib * 512))
        extents = [
            (index * common.BLOCK_SECTORS, common.BLOCK_SECTORS, index % 10 == 3)
            for index in range(blocks)
        ]
        model = common.make_disk(folder, f"model.{args.format}", extents, blocks=blocks, seed=1)
        expected = common.our_hash(model)
        own = os.path.join(folder, "own")
        os.mkdir(own)
        disk, out = (
            os.path.join(own, f"disk.{args.format}"),
            os.path.join(folder, f"out.{args.format}"),
        )
        ours: list[common.Run] = []
        theirs: list[common.Run] = []
        for number in range(args.rounds):
            for who in common.rotated(["ours", "qemu"], number):
                if who == "ours":
                    shutil.rmtree(own)
                    os.mkdir(own)
                    shutil.copyfile(model, disk)
                    common.settle()
                    ours.append(common.disk("compact", disk, "--rewrite", "--offline"))
                    assert common.our_hash(disk) == expected, "ours: wrong content"
                else:
                    common.forget(out)
                    common.settle()
                    theirs.append(_convert(model, out))
                    assert common.our_hash(out) == expected, "qemu-img: wrong content"
        base = common.median([run.seconds for run in theirs])
        print(f"{blocks} blocks of 2 MiB, one in ten zeros")
        print(f"{'':24}{'median s':>10}{'× qemu-img':>12}")
        for name, values in (
            ("qemu-img convert", [run.seconds for run in theirs]),
            ("ours (process)", [run.seconds for run in ours]),
            ("our copy phase", [run.document["copy_seconds"] for run in ours]),
            ("our proof", [run.document["proof_seconds"] for run in ours]),
        ):
            value = common.median(values)
            print(f"{name:24}{value:10.2f}{value / base:12.2f}")
        before, after = (
            ours[-1].document[f"file_size_{when}_bytes"] for when in ("before", "after")
        )
        print(
            f"size {before:,} → {after:,}; peak memory {max(run.rss_mib for run in ours):.0f} MiB"
        )


def _convert(source: str, target: str) -> common.Run:
    command = ["qemu-img", "convert", *common.qemu_output(target), *common.qemu_arguments(source)]
    return common.run([*command, target], then_sync=target)


if __name__ == "__main__":
    sys.exit(main())
