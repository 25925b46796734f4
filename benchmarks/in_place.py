#!/usr/bin/env python3
"""In place: a child into its parent against `cp` of the child, a compaction against qemu-img.

merge    children as in the chain of `merge_to_new.py`, one clustered, one scattered in pieces
         of 4 to 16 KiB, each merged into a copy of its base; `cp` copies the child's file. Both
         make what they wrote durable. Also a disk of 2 TiB with ten blocks.
compact  a dynamic disk, a tenth of it zeros; `qemu-img convert` writes a new one.

Alternating rounds on fresh copies, whole processes with a warm page cache, results compared
by content hash. Prints medians, and the ratio with the proof and with it timed apart: no peer
reads back what it wrote. The processor time says more where others work, too.

    python benchmarks/in_place.py --gib 2 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

import common

Pairs = list[tuple[common.Run, common.Run]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0, help="data in the base, GiB (2)")
    parser.add_argument("--rounds", type=int, default=5)
    common.add_format(parser)
    parser.add_argument("--folder", help="where to build (default: the temporary folder)")
    args = parser.parse_args()
    blocks = max(20, int(args.gib * 512))
    print(
        f"{'':28}{'ours s':>9}{'proof s':>9}{'peer s':>9}{'ratio':>8}{'apart':>8}{'MiB':>6}"
        f"{'processor s':>13}{'peer':>7}"
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


def told(name: str, pairs: Pairs) -> None:
    ours = common.median([one.seconds for one, _ in pairs])
    theirs = common.median([other.seconds for _, other in pairs])
    proof = common.median([one.document["proof_seconds"] for one, _ in pairs])
    memory = max(one.rss_mib for one, _ in pairs)
    ratio, apart = ours / theirs, (ours - proof) / theirs
    busy, peer_busy = (
        common.median([one.cpu_seconds for one in each]) for each in zip(*pairs, strict=True)
    )
    print(
        f"{name:28}{ours:9.2f}{proof:9.2f}{theirs:9.2f}{ratio:8.2f}{apart:8.2f}{memory:6.0f}"
        f"{busy:13.2f}{peer_busy:7.2f}",
        flush=True,
    )


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


def merging(folder: str, base: str, child: str, rounds: int) -> Pairs:
    """Ours in a folder of its own, on copies; `cp` of the child's file."""
    own, copy = os.path.join(folder, "own"), os.path.join(folder, "child.copy")
    expected = "" if "huge" in folder else common.our_hash(child)  # hours of zeros
    pairs: Pairs = []
    for number in range(rounds):
        runs: dict[str, common.Run] = {}
        for who in common.rotated(["ours", "cp"], number):
            if who == "ours":
                shutil.rmtree(own, ignore_errors=True)
                os.mkdir(own)
                for path in (base, child):
                    common.run(["cp", "--sparse=always", path, own])
                mine = [os.path.join(own, os.path.basename(path)) for path in (base, child)]
                common.settle()
                runs[who] = common.disk("merge", mine[1], "--into-parent", "--offline")
                if expected:
                    assert common.our_hash(mine[0]) == expected, "ours: wrong content"
            else:
                common.forget(copy)
                common.settle()
                plain = ["cp", "--reflink=never", "--sparse=never"]
                runs[who] = common.run([*plain, child, copy], then_sync=copy)
        pairs.append((runs["ours"], runs["cp"]))
    shutil.rmtree(own)
    common.forget(copy)
    return pairs


def compacting(folder: str, blocks: int, format_name: str, rounds: int) -> Pairs:
    if not shutil.which("qemu-img"):
        sys.exit("qemu-img is not installed (Debian: qemu-utils)")
    size = common.BLOCK_SECTORS
    extents = [(index * size, size, index % 10 == 3) for index in range(blocks)]
    model = common.make_disk(folder, f"model.{format_name}", extents, blocks=blocks, seed=1)
    expected = common.our_hash(model)
    own, out = os.path.join(folder, "own"), os.path.join(folder, f"out.{format_name}")
    disk = os.path.join(own, f"disk.{format_name}")
    pairs: Pairs = []
    for number in range(rounds):
        runs: dict[str, common.Run] = {}
        for who in common.rotated(["ours", "qemu"], number):
            if who == "ours":
                shutil.rmtree(own, ignore_errors=True)
                os.mkdir(own)
                shutil.copyfile(model, disk)
                common.settle()
                runs[who] = common.disk("compact", disk, "--offline")
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
        pairs.append((runs["ours"], runs["qemu"]))
    return pairs


if __name__ == "__main__":
    main()
