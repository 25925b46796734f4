"""The long proof, by hand: every fault, power cuts in full numbers, every fuzzing target.

Writes the table of power cuts into docs/proof.md. VD_PROVE sets the power cuts of each operation
and format (10,000), divided over its cases, VD_PROVE_SEED other ones of the same number,
VD_FUZZ_SECONDS the seconds of each target (600; 0: none). VD_PROVE_LOG names a file that gets
a line of JSON for each case as soon as it is through, and now and then before. Arguments go to
pytest: `-k expand`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import proof_table

TOP = Path(__file__).resolve().parents[1]
TARGETS = (
    "vhd",
    "vhdx",
    "any-file",
    "sidecar",
    "recovery",
    "recovery-vhdx",
    "manifest",
    "windows-path",
)

PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", str(max(2, os.cpu_count() or 2))]


def main() -> None:
    cuts = int(os.environ.get("VD_PROVE", "10000"))
    seconds = int(os.environ.get("VD_FUZZ_SECONDS", "600"))
    os.chdir(TOP)
    good = faults()
    good = power_cuts(cuts) and good
    if seconds:
        good = fuzzing(seconds) and good
    sys.exit(0 if good else 1)


def faults() -> bool:
    """Every kind of fault at every point, of which `make test` takes a sample."""
    folder = Path("disks/tests/operations")
    every = sorted(folder.glob("test_*.py"))
    modules = [one for one in every if "disks.tests.operations.crashing" in one.read_text()]
    command = [*PYTEST, "-m", "not power_cuts", *map(str, modules), *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, "VD_PROVE": "1"}, check=False).returncode == 0


def power_cuts(cuts: int) -> bool:
    """Run every test that cuts the power; together those of an operation cut it this often.

    What they say goes into the table of docs/proof.md, also of tests that found something.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(os.environ.get("VD_PROVE_LOG") or Path(folder, "log"))
        environment = {**os.environ, "VD_PROVE": str(cuts), "VD_PROVE_LOG": str(log)}
        command = [*PYTEST, "-m", "power_cuts", *sys.argv[1:]]
        done = subprocess.run(command, env=environment, check=False)
        lines = proof_table.lines_of([log] if log.exists() else [])
    proof_table.write(lines)
    print(f"\n{proof_table.table(lines)}")
    return done.returncode == 0


def fuzzing(seconds: int) -> bool:
    """Run every target this long. What breaks one stays in a file `crash-…` here."""
    good = True
    print("\n| fuzzing target | inputs | seconds | result |\n|---|---|---|---|")
    for target in TARGETS:
        began = time.monotonic()
        command = [sys.executable, "-m", "disks.tests.fuzz", target, "--seconds", str(seconds)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        count = re.search(r"Done (\d+) runs", ran.stderr)
        runs = f"{int(count[1]):,}" if count else "?"
        result = "typed errors only" if ran.returncode == 0 else "broken"
        took = time.monotonic() - began
        print(f"| {target} | {runs} | {took:.0f} | {result} |", flush=True)
        if ran.returncode:
            print(ran.stderr[-6000:], file=sys.stderr)
            good = False
    return good


if __name__ == "__main__":
    main()
