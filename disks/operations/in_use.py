"""What a plan says of disks that others have open now: the job would not begin."""

from __future__ import annotations

from collections.abc import Iterable

from disks.engine.findings import Finding, Level
from disks.operations import family, locks
from disks.operations.paths import Roots
from disks.operations.windows import shown

IN_HANDS = " is in the hands of "  # stands behind the disk's path, before who has it


def warnings(roots: Roots, exclusive: Iterable[str], shared: Iterable[str] = ()) -> list[str]:
    """Sentences on what locks.hold() would refuse of these disks; nothing is taken meanwhile.

    No refusals: by the time the job begins, perhaps at night, the machine may be off.
    """
    wanted = dict.fromkeys(shared, False) | dict.fromkeys(exclusive, True)
    open_elsewhere, told = [], []
    for path in sorted(wanted):
        error = locks.in_the_way(roots, path, exclusive=wanted[path])
        if error is None:
            continue
        if error.code == "E_IN_USE":
            open_elsewhere.append(shown(path))
        else:
            told.append(
                f"{shown(path)}{IN_HANDS}{shown(str(error.value))} now. Nothing begins "
                "here before that is done."
            )
    if open_elsewhere:
        is_open = "is open" if len(open_elsewhere) == 1 else "are open"
        told.insert(
            0,
            f"{family.listed(open_elsewhere)} {is_open} in another program now, for example a "
            "running virtual machine. As long as that is so, nothing begins here: shut it down, "
            "or detach the disk there, first.",
        )
    return told


def findings(roots: Roots, exclusive: Iterable[str], shared: Iterable[str] = ()) -> list[Finding]:
    """The same, as the plans of small changes have their warnings."""
    return [
        Finding(Level.WARNING, "W_IN_USE", sentence)
        for sentence in warnings(roots, exclusive, shared)
    ]
