"""After an interrupted change that a format's own log holds: is it there, or did it not begin?

No old bytes are put back. A log that waits is replayed; then the pages that the change was
about are all new or all old (crash-safety §1, VHDX).
"""

from __future__ import annotations

from collections.abc import Sequence

from disks.engine.files import ImageFile
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations.pages import Page, PageState, states


def judge(image: Image, pages: Sequence[Page]) -> bool | None:
    """What became of the pages, as they will read once the log is replayed; writes nothing.

    True: the change is there. False: it is not. None: neither, somebody else has written.
    """
    found = set(states(image.file, pages))
    if found <= {PageState.NEW}:
        return True
    return False if found <= {PageState.OLD} else None


def settle(file: ImageFile, pages: Sequence[Page]) -> bool | None:
    """As judge(), of a file open for writing; what waits in the log is in its place then.

    A file that somebody else has written to is left as it is. Raises ImageError where the file
    cannot be opened or written.
    """
    image = open_image(file)
    there = judge(image, pages)
    if there is not None and image.log_waits:
        image.replay_log()
    return there
