"""The table of power cuts in docs/proof.md, from the logs that tests write to VD_PROVE_LOG.

    python scripts/proof_table.py LOG...

An operation that the logs do not have keeps its line. The same test with the same seed made the
same cuts: it is counted once, as far as it came.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

PROOF = Path(__file__).resolve().parents[1] / "docs" / "proof.md"
HEAD = "| under | VHD | VHDX | wrong |\n|---|---|---|---|\n"

Lines = dict[str, tuple[str, ...]]  # operation: what stands in the other columns


def main() -> None:
    lines = lines_of(Path(one) for one in sys.argv[1:])
    write(lines)
    print(table(lines), end="")


def lines_of(logs: Iterable[Path]) -> Lines:
    """One line for each operation of the logs."""
    last = {}
    for log in logs:
        for text in log.read_text().splitlines():
            row = json.loads(text)
            known = last.get((row["test"], row["seed"]), row)
            last[row["test"], row["seed"]] = max(known, row, key=lambda one: one["cuts"])
    cuts: Counter[tuple[str, str]] = Counter()
    wrong: Counter[str] = Counter()
    for row in last.values():
        cuts[row["operation"], row["format"]] += row["cuts"]
        wrong[row["operation"]] += row["wrong"]
    return {
        name: (
            *(f"{cuts[name, one]:,}" if cuts[name, one] else "" for one in ("vhd", "vhdx")),
            f"{wrong[name]:,}",
        )
        for name in sorted({name for name, _ in cuts})
    }


def table(lines: Lines) -> str:
    """In Markdown."""
    return HEAD + "".join(
        f"| {' | '.join((name, *cells))} |\n" for name, cells in sorted(lines.items())
    )


def write(lines: Lines, proof: Path = PROOF) -> None:
    """Put the lines into the table of docs/proof.md, in the place of those it has for them."""
    before, head, rest = proof.read_text().partition(HEAD)
    if not head:
        raise SystemExit(f"{proof} has no table that begins with\n{HEAD}")
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()))
    known = [[cell.strip() for cell in row[1:-1].split("|")] for row in rows]
    kept = {name: tuple(cells) for name, *cells in known}
    after = rest[sum(len(row) + 1 for row in rows) :]
    proof.write_text(f"{before}{table(kept | lines)}{after}")


if __name__ == "__main__":
    main()
