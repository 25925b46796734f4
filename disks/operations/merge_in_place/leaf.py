"""Whether a machine may use the leaf of a merge that is half-way: the files tell, as they are."""

from __future__ import annotations

import os

from disks.engine.chain import open_chain
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Level
from disks.operations.journal import Sidecar
from disks.operations.merge_in_place import ending
from disks.operations.merge_in_place.as_left import is_as_stopped
from disks.operations.merge_in_place.work import ENDING, Work
from disks.operations.paths import Roots
from disks.operations.windows import shown


def why_not_used(roots: Roots, sidecar: Sidecar) -> str:
    """Why it may not, as a sentence; "" where it reads as ever.

    sidecar: of a merge that has begun to move. Raises E_SIDECAR.
    """
    work = Work.from_sidecar(sidecar)
    leaf, base = shown(os.path.basename(work.leaf)), shown(os.path.basename(work.base))
    try:
        if work.state == ENDING and ending.has_begun(roots, work):
            return (
                f"Names and headers are changing, and {leaf} may not be readable before that is "
                "done."
            )
        with roots.open(work.base) as file:
            if work.file is not None and not is_as_stopped(file, work):
                return (
                    f"Somebody has written to {base} since the merge was stopped, or changed only "
                    f"its times: what {leaf} reads may be wrong."
                )
            if work.file is None and _is_torn(file):
                return f"{base} was half written when its worker died, and {leaf} reads from it."
        open_chain(work.leaf, roots).close()
    except ImageError as error:
        return "" if error.code == "E_IN_USE" else f"{leaf} cannot be read now. {error.message}"
    return ""


def _is_torn(file: ImageFile) -> bool:
    """Whether a write to its structures stopped half-way: the batch that it was in did not end."""
    return any(finding.level is Level.ERROR for finding in check_image(file))
