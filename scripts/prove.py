"""The long proof, by hand: every fault, power cuts in full numbers, every fuzzing target.

Prints a table as it stands in docs/proof.md. VD_PROVE sets the power cuts of each operation
and format (10,000), divided over its cases, VD_PROVE_SEED other ones of the same number,
VD_FUZZ_SECONDS the seconds of each target (600; 0: none). VD_PROVE_LOG names a file that gets
a line of JSON for each case as soon as it is through. Arguments go to pytest: `-k expand`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

TOP = Path(__file__).resolve().parents[1]
TARGETS = ("vhd", "vhdx", "any-file", "sidecar", "manifest", "windows-path")

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
    modules = [*sorted(folder.glob("test_*_faults.py")), folder / "test_mending.py"]
    command = [*PYTEST, "-m", "not power_cuts", *map(str, modules), *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, "VD_PROVE": "1"}, check=False).returncode == 0


def power_cuts(cuts: int) -> bool:
    """Run every test that cuts the power; together those of an operation cut it this often."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        log = Path(os.environ.get("VD_PROVE_LOG") or Path(folder, "log"))
        environment = {**os.environ, "VD_PROVE": str(cuts), "VD_PROVE_LOG": str(log)}
        command = [*PYTEST, "-m", "power_cuts", f"--junitxml={report}", *sys.argv[1:]]
        done = subprocess.run(command, env=environment, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - our own
        counted = _counted(log)
    print("\n| power cut under | cuts | wrong | minutes |\n|---|---|---|---|")
    for case in cases:
        wrong = case.find("failure") is not None or case.find("error") is not None
        minutes = float(case.get("time", "0")) / 60
        cut = counted.get(case.get("name", ""))
        told = f"{cut:,}" if cut else ("up to " if wrong else "") + f"{cuts:,}"
        print(f"| {_title(case)} | {told} | {'yes' if wrong else 0} | {minutes:.1f} |")
    return done.returncode == 0


def _counted(log: Path) -> dict[str, int]:
    """How often the power was cut under each test that came through."""
    if not log.exists():
        return {}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return {row["test"].partition("::")[2]: row["cuts"] for row in rows}


def _title(case: ElementTree.Element) -> str:
    module = case.get("classname", "").rpartition(".")[2].removeprefix("test_")
    name = case.get("name", "").removeprefix("test_")
    return f"{module.replace('_', ' ')}: {name.replace('_', ' ')}"


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
