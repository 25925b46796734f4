"""python -m disks.tests.fuzz TARGET [--seconds N] [--corpus FOLDER]: one target, until it breaks.

A break prints the error and writes the bytes that caused it to a file `crash-…` in the corpus
folder, or here; `--replay FILE` runs those alone. Limits for every single input: 2 seconds of
processor time, 256 MiB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["disks.engine", "disks.operations"]):
    from disks.tests.fuzz import targets

CPU_SECONDS = 2  # an input
HANGS_AFTER_SECONDS = 60  # on the clock: a busy machine is no hang
MEMORY_MIB = 256


def bounded(target: targets.Target) -> targets.Target:
    """The same target; AssertionError where one input took too long."""

    def timed(data: bytes) -> None:
        started = time.process_time()
        target(data)
        took = time.process_time() - started
        assert took < CPU_SECONDS, f"{took:.1f} s"

    return timed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m disks.tests.fuzz")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="end after so many inputs, too")
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    parser.add_argument("--corpus", default="", help="folder of inputs; grows")
    parser.add_argument("--replay", default="", help="a file with one input")
    asked = parser.parse_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="vdadmin-fuzz-", dir=memory) as folder:
        # The fuzzer ends its process by itself: somebody has to stay and clear up.
        child = os.fork()
        if child == 0:
            run(asked, Path(folder))
            os._exit(0)
        _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status) and 1)


def run(asked: argparse.Namespace, folder: Path) -> None:
    """Fuzz one target, or give it one input again; does not return from fuzzing."""
    known = targets.all_targets(folder)
    if asked.target not in known:
        print(f"Targets are {', '.join(known)}.", file=sys.stderr)
        os._exit(2)
    target = bounded(known[asked.target])
    if asked.replay:
        target(Path(asked.replay).read_bytes())
        return
    corpus = asked.corpus or str(folder / "corpus")
    os.makedirs(corpus, exist_ok=True)
    with tempfile.TemporaryDirectory() as models:
        for number, data in enumerate(targets.starting_points(Path(models)).get(asked.target, [])):
            Path(corpus, f"start-{number}").write_bytes(data)
    arguments = [
        sys.argv[0],
        f"-max_total_time={asked.seconds}",
        f"-seed={asked.seed}",
        f"-runs={asked.runs}",
        f"-timeout={HANGS_AFTER_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={asked.corpus or os.getcwd()}/",
        "-max_len=8192",
        "-len_control=20",
        "-print_final_stats=1",
        corpus,
    ]
    atheris.Setup(arguments, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
