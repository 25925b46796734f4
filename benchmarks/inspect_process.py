#!/usr/bin/env python3
"""`manage.py disk inspect` as a process (goal 0.25 s), and inspecting in process (goal 20 ms).

The disk is the leaf of a chain of four, so parents are looked for as well.

    python benchmarks/inspect_process.py --rounds 15
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import common

from disks.operations.inspection import inspect
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    common.add_format(parser)
    args = parser.parse_args()
    with common.workspace(None) as folder:
        leaf = common.build_chain(folder, 16, args.format)[-1]
        runs = [common.disk("inspect", leaf) for _ in range(args.rounds)]
        bare = [common.run([sys.executable, "-c", "pass"]).seconds for _ in range(args.rounds)]
        seconds = [run.seconds for run in runs]
        print(
            f"process: median {common.median(seconds) * 1000:.0f} ms, best "
            f"{min(seconds) * 1000:.0f} ms, {max(run.rss_mib for run in runs):.0f} MiB; "
            f"of that Python itself {common.median(bare) * 1000:.0f} ms"
        )
        roots = Roots([Root(os.path.dirname(leaf))])
        times = []
        for _ in range(max(50, args.rounds)):
            started = time.perf_counter()
            inspect(leaf, roots)
            times.append(time.perf_counter() - started)
        print(f"in process: median {common.median(times) * 1000:.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
