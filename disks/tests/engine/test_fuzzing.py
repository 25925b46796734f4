"""A short, repeatable run of the coverage-guided fuzzing; `make prove` runs it for longer.

Only typed errors, 2 seconds of processor time and 256 MiB for any input: bad-input G3 for
what nobody thought of.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUNS = {
    "vhd": 1200,
    "vhdx": 250,
    "any-file": 2000,
    "sidecar": 2500,
    "recovery": 160,
    "recovery-vhdx": 40,
    "manifest": 5000,
    "windows-path": 5000,
}


@pytest.mark.slow
@pytest.mark.parametrize("target", list(RUNS))
def test_bytes_of_any_kind_give_typed_errors_only(tmp_path: Path, target: str) -> None:
    command = [sys.executable, "-m", "disks.tests.fuzz", target, "--corpus", str(tmp_path)]
    bounds = ["--seed", "20261125", "--runs", str(RUNS[target]), "--seconds", "300"]
    ran = subprocess.run([*command, *bounds], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert f"Done {RUNS[target]} runs" in ran.stderr
    assert list(tmp_path.glob("crash-*")) == []
