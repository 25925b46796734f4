"""The long proof, by hand: power cuts in full numbers, then every fuzzing target for a while.

Prints a table as it stands in docs/proof.md. VD_PROVE sets the power cuts of each operation
and format (10,000), VD_FUZZ_SECONDS the seconds of each target (600; 0: none).
"""

from __future__ import annotations

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


def main() -> None:
    cuts = int(os.environ.get("VD_PROVE", "10000"))
    seconds = int(os.environ.get("VD_FUZZ_SECONDS", "600"))
    os.chdir(TOP)
    good = power_cuts(cuts)
    if seconds:
        good = fuzzing(seconds) and good
    sys.exit(0 if good else 1)


def power_cuts(cuts: int) -> bool:
    """Run every test that cuts the power, this often each."""
    workers = str(max(2, os.cpu_count() or 2))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-m", "power_cuts"]
        environment = {**os.environ, "VD_PROVE": str(cuts)}
        done = subprocess.run([*command, f"--junitxml={report}"], env=environment, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - our own
    print("\n| power cut under | cuts | wrong | minutes |\n|---|---|---|---|")
    for case in cases:
        wrong = case.find("failure") is not None or case.find("error") is not None
        minutes = float(case.get("time", "0")) / 60
        print(f"| {_title(case)} | {cuts:,} | {'yes' if wrong else 0} | {minutes:.1f} |")
    return done.returncode == 0


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
