"""A plan for piles as a PowerShell script for the Hyper-V host."""

from __future__ import annotations

from disks.operations.forest import Forest
from disks.operations.paths import Roots
from disks.operations.pile import Pile
from disks.operations.powershell import Names, Script

# Refusals of this host, or of this console: they do not matter when Windows merges.
_ONLY_HERE = frozenset(
    {
        "E_READ_ONLY",
        "E_NOSPC",
        "E_LOCKED",
        "E_HARD_LINKS",
        "E_OWNER",
        "E_TRASH",
        "E_NO_WINDOWS_PATH",
    }
)


def script(piles: list[Pile], forest: Forest, roots: Roots, folder: str) -> tuple[str, int]:
    """The script's text, and the number of its merges.

    A pile that Windows could not merge either is left out, and a comment says why.
    """
    written = Script(Names(roots, folder))
    unread = sorted({path for pile in piles for path in pile.merge.unread})
    if unread:
        written.unread(unread)
    for number, pile in enumerate(piles, 1):
        why_not = _why_not(pile)
        written.comment()
        written.comment(f"Pile {number} of {len(piles)}: {len(pile.disks)} disks, leaf first")
        if why_not:
            written.comment(f"Left out: {why_not}")
            continue
        elsewhere = [disk for disk in reversed(pile.disks) if disk.elsewhere]
        if elsewhere:
            written.comment("The headers of these disks do not lead to their parents, base first:")
        for disk in elsewhere:
            parent = forest.parent_of(disk.path)
            if parent is not None:
                written.link(disk.path, parent)
        sizes = {disk.path: disk.allocated_bytes for disk in pile.disks}
        written.chain(pile.run.paths, sizes)
    return written.text(folder), written.steps


def _why_not(pile: Pile) -> str:
    if pile.run.above:
        return (
            "other disks build on its leaf and would lose their parent: Merge-VHD does not give "
            "them a new one. Merge it in the console."
        )
    if pile.refused is not None and pile.refused.code not in _ONLY_HERE:
        return pile.refused.message
    return ""
