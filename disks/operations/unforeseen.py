"""What nobody foresaw, in words for a person; its traceback goes to the log."""

from __future__ import annotations

import logging

from disks.engine.errors import ImageError
from disks.engine.files import storage_error
from disks.operations.windows import shown

logger = logging.getLogger(__name__)


def typed(error: Exception, path: str) -> ImageError:
    """Any error that work on a disk met: what is an ImageError stays, all else becomes one."""
    if isinstance(error, ImageError):
        return error
    logger.error("an error that nobody foresaw, in work on %r", path, exc_info=error)
    if isinstance(error, OSError):
        return storage_error(error, path, verb="worked on")
    return ImageError(
        "E_INTERNAL",
        f"Something went wrong with {shown(path)} that should not ({type(error).__name__}: "
        f"{error}).",
        file=path,
    )
