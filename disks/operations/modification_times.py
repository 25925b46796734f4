"""Modification times of disks, which the children of a VHD store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime

from disks.engine import faults
from disks.engine.files import ImageFile, storage_error


def is_recorded(mtime_ns: int, timestamps: Iterable[datetime | None]) -> bool:
    """Whether one of the times that children store is exactly this modification time."""
    seconds = mtime_ns // 1_000_000_000
    return any(when is not None and int(when.timestamp()) == seconds for when in timestamps)


def set_mtime(file: ImageFile, mtime_ns: int) -> None:
    """Durably; the access time becomes now."""
    now = os.stat(file.fd).st_atime_ns
    try:
        faults.reached("utime", file.path)
        os.utime(file.fd, ns=(now, mtime_ns))
    except OSError as error:
        raise storage_error(error, file.path, verb="utime") from error
    file.sync()
