"""The table of power cuts is written from the logs of the long proof."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from disks.tests.console import PROJECT

SCRIPT = PROJECT / "scripts" / "proof_table.py"
RUN = "import sys; sys.path.insert(0, sys.argv[1]); import proof_table; from pathlib import Path; "
RUN += "proof_table.write(proof_table.lines_of([Path(sys.argv[2])]), Path(sys.argv[3]))"


def row(test: str, seed: str, cuts: int, format_name: str = "vhd", **more: object) -> str:
    told = {"operation": "expand", "format": format_name, "wrong": 0}
    return json.dumps({"test": test, "seed": seed, "cuts": cuts, **told, **more})


def test_cuts_of_one_test_and_seed_count_once_and_other_lines_stay(tmp_path: Path) -> None:
    log, proof = tmp_path / "log", tmp_path / "proof.md"
    head = "| under | VHD | VHDX | wrong |\n|---|---|---|---|\n"
    proof.write_text(f"Before.\n\n{head}| expand | 1 | 2 | 3 |\n| undo | 9 |  | 0 |\n\nAfter.\n")
    log.write_text(
        "\n".join(
            [
                row("one", "a", 500),
                row("one", "a", 900),
                row("one", "b", 100, wrong=1),
                row("two", "a", 1000, "vhdx"),
            ]
        )
    )
    command = [sys.executable, "-c", RUN, str(SCRIPT.parent), str(log), str(proof)]
    subprocess.run(command, check=True, timeout=60)
    lines = "| expand | 1,000 | 1,000 | 1 |\n| undo | 9 |  | 0 |\n"
    assert proof.read_text() == f"Before.\n\n{head}{lines}\nAfter.\n"
