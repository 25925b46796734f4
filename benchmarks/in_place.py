#!/usr/bin/env python3
"""In place: a child into its parent against `cp` of the child, a compaction against qemu-img.

merge    children as in the chain of `merge_to_new.py`, one clustered, one scattered in pieces
         of 4 to 16 KiB, each merged into a copy of its base; `cp` copies the child's file. Both
         make what they wrote durable. Also a disk of 2 TiB with ten blocks.
compact  a dynamic disk, a tenth of it zeros; `qemu-img convert` writes a new one.

Alternating rounds on fresh copies, whole processes with a warm page cache, results compared
by content hash. Prints medians, and the ratio with the proof and with it timed apart: no peer
reads back what it wrote. "warm" is that, too, in a process that has Python and its modules
already, as every worker has. The processor time says more where others work, too.

    python benchmarks/in_place.py --gib 2 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable

import common

Rounds = list[dict[str, common.Run]]
"""What "ours", "warm" and the "peer" took, by round."""

OURS = {"ours": common.disk, "warm": common.warm_disk}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0, help="data in the base, GiB (2)")
    parser.add_argument("--rounds", type=int, default=5)
    common.add_format(parser)
    parser.add_argument("--folder", help="where to build (default: the temporary folder)")
    args = parser.parse_args()
    blocks = max(20, int(args.gib * 512))
    print(
        f"{'':28}{'ours s':>9}{'proof s':>9}{'peer s':>9}{'ratio':>8}{'apart':>8}{'warm':>8}"
        f"{'MiB':>6}{'processor s':>13}{'peer':>7}"
    )
    with common.workspace(args.folder) as folder:
        base, *children = common.build_chain(folder, blocks, args.format)
        for name in ("clustered", "scattered"):
            child = _child_of(folder, base, children, name)
            told(f"merge, {name} / cp", merging(folder, base, child, args.rounds))
        huge = os.path.join(folder, "huge")
        os.mkdir(huge)
        told("merge, 2 TiB, 10 blocks", merging(huge, *_huge(huge, args.format), args.rounds))
        shutil.rmtree(huge)
        told("compact / qemu-img", compacting(folder, blocks, args.format, args.rounds))


def told(name: str, rounds: Rounds) -> None:
    ours, proof = _median(rounds, "ours"), _median(rounds, "ours", _proof)
    theirs = _median(rounds, "peer")
    apart = _median(rounds, "ours", _apart) / theirs
    warm = _median(rounds, "warm", _apart) / theirs
    memory = max(one["ours"].rss_mib for one in rounds)
    busy, peer_busy = (
        _median(rounds, who, lambda run: run.cpu_seconds) for who in ("ours", "peer")
    )
    print(
        f"{name:28}{ours:9.2f}{proof:9.2f}{theirs:9.2f}{ours / theirs:8.2f}{apart:8.2f}{warm:8.2f}"
        f"{memory:6.0f}{busy:13.2f}{peer_busy:7.2f}",
        flush=True,
    )


def _median(
    rounds: Rounds, who: str, what: Callable[[common.Run], float] = lambda run: run.seconds
) -> float:
    return common.median([what(one[who]) for one in rounds])


def _proof(run: common.Run) -> float:
    return float(run.document["proof_seconds"])


def _apart(run: common.Run) -> float:
    return run.seconds - _proof(run)


def _child_of(folder: str, base: str, children: list[str], name: str) -> str:
    """A child of its own for the base: the chain's ones stand on each other."""
    found = next(path for path in children if name in os.path.basename(path))
    extents: common.Extents = []
    with common.open_chain(found, common.Roots([common.Root(folder)])) as chain:
        image = chain.images[0]
        for extent in image.extents(0, image.virtual_size_bytes // 512):
            if extent.file_offset is None:
                continue
            end = extent.first_sector + extent.count_sectors
            for first in range(extent.first_sector, end, common.BLOCK_SECTORS):
                extents.append((first, min(common.BLOCK_SECTORS, end - first), False))
    path = f"only-{os.path.basename(found)}"
    return common.make_disk(folder, path, extents, parent=os.path.basename(base), seed=9)


def _huge(folder: str, format_name: str) -> tuple[str, str]:
    blocks = 2040 * 512 if format_name == "vhd" else 2048 * 512
    far = [(index * (blocks // 10) * common.BLOCK_SECTORS, 4096, False) for index in range(10)]
    base = common.make_disk(folder, f"base.{format_name}", far[:5], blocks=blocks, seed=1)
    return base, common.make_disk(
        folder, f"child.{format_name}", far, parent=os.path.basename(base), seed=2
    )


def merging(folder: str, base: str, child: str, rounds: int) -> Rounds:
    """Ours in a folder of its own, on copies; `cp` of the child's file."""
    own, copy = os.path.join(folder, "own"), os.path.join(folder, "child.copy")
    expected = "" if "huge" in folder else common.our_hash(child)  # hours of zeros
    measured: Rounds = []
    for number in range(rounds):
        runs: dict[str, common.Run] = {}
        for who in common.rotated([*OURS, "peer"], number):
            if who in OURS:
                shutil.rmtree(own, ignore_errors=True)
                os.mkdir(own)
                for path in (base, child):
                    common.run(["cp", "--sparse=always", path, own])
                mine = [os.path.join(own, os.path.basename(path)) for path in (base, child)]
                common.settle()
                runs[who] = OURS[who]("merge", mine[1], "--into-parent", "--offline")
                if expected:
                    assert common.our_hash(mine[0]) == expected, "ours: wrong content"
            else:
                common.forget(copy)
                common.settle()
                plain = ["cp", "--reflink=never", "--sparse=never"]
                runs[who] = common.run([*plain, child, copy], then_sync=copy)
        measured.append(runs)
    shutil.rmtree(own)
    common.forget(copy)
    return measured


def compacting(folder: str, blocks: int, format_name: str, rounds: int) -> Rounds:
    if not shutil.which("qemu-img"):
        sys.exit("qemu-img is not installed (Debian: qemu-utils)")
    size = common.BLOCK_SECTORS
    extents = [(index * size, size, index % 10 == 3) for index in range(blocks)]
    model = common.make_disk(folder, f"model.{format_name}", extents, blocks=blocks, seed=1)
    expected = common.our_hash(model)
    own, out = os.path.join(folder, "own"), os.path.join(folder, f"out.{format_name}")
    disk = os.path.join(own, f"disk.{format_name}")
    measured: Rounds = []
    for number in range(rounds):
        runs: dict[str, common.Run] = {}
        for who in common.rotated([*OURS, "peer"], number):
            if who in OURS:
                shutil.rmtree(own, ignore_errors=True)
                os.mkdir(own)
                shutil.copyfile(model, disk)
                common.settle()
                runs[who] = OURS[who]("compact", disk, "--offline")
                assert common.our_hash(disk) == expected, "ours: wrong content"
                dropped = runs[who].document["blocks_dropped"]
                assert runs[who].document["blocks_moved"] <= dropped, "more was moved than freed"
            else:
                common.forget(out)
                common.settle()
                convert = ["qemu-img", "convert", *common.qemu_output(out)]
                runs[who] = common.run(
                    [*convert, *common.qemu_arguments(model), out], then_sync=out
                )
                assert common.our_hash(out) == expected, "qemu-img: wrong content"
        measured.append(runs)
    return measured


if __name__ == "__main__":
    main()
