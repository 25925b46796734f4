"""After an interrupted change that a format's own log holds: is it there, or did it not begin?

No old bytes are put back. A log that waits is replayed; then the pages that the change was
about are all new or all old (crash-safety §1, VHDX).
"""

from __future__ import annotations

from collections.abc import Sequence

from disks.engine.files import ImageFile
from disks.engine.formats import open_image
from disks.operations.pages import Page, PageState, states


def settle(file: ImageFile, pages: Sequence[Page]) -> bool | None:
    """Replay what waits in the log of a file open for writing, and say what became of pages.

    True: the change is there, durably. False: it is not there. None: neither, somebody else has
    written to them. Raises ImageError where the file cannot be opened or written.
    """
    image = open_image(file)
    if image.log_waits:
        image.replay_log()
    found = set(states(file, pages))
    if found <= {PageState.NEW}:
        return True
    return False if found <= {PageState.OLD} else None
