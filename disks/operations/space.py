"""Is there room for a copy: asked before the first byte is written.

A job never fills the storage to its last byte: other machines write there too,
so a reserve stays free (one hundredth of the file system, 1 GiB at the most).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from disks.engine.errors import ImageError
from disks.engine.units import GIB
from disks.operations.paths import Roots

RESERVE_LIMIT_BYTES = GIB


@dataclass(frozen=True, slots=True)
class Space:
    """What a file system offers, in bytes. free counts what this service may use."""

    free_bytes: int
    total_bytes: int

    @property
    def reserve_bytes(self) -> int:
        """What stays free whatever a job asks for."""
        return min(RESERVE_LIMIT_BYTES, self.total_bytes // 100)

    @property
    def usable_bytes(self) -> int:
        return max(0, self.free_bytes - self.reserve_bytes)


def space_of(folder: int) -> Space:
    """The space of the file system that an open folder lies on."""
    figures = os.fstatvfs(folder)
    return Space(
        free_bytes=figures.f_bavail * figures.f_frsize,
        total_bytes=figures.f_blocks * figures.f_frsize,
    )


def shortage(needed_bytes: int, space: Space, path: str) -> ImageError | None:
    """E_NOSPC with the figures if needed_bytes do not fit beside the reserve, else None."""
    if needed_bytes <= space.usable_bytes:
        return None
    return ImageError(
        "E_NOSPC",
        f"{needed_bytes:,} bytes are needed for {path}, but only {space.free_bytes:,} are free "
        f"there, and {space.reserve_bytes:,} of these stay in reserve.",
        file=path,
        field="free_space",
        value=space.free_bytes,
    )


def shortage_at(roots: Roots, path: str, needed_bytes: int) -> tuple[int, ImageError | None]:
    """What is free where a file at path lies or will lie, and shortage() for it."""
    folder = roots.open_folder(os.path.dirname(path))
    try:
        room = space_of(folder)
    finally:
        os.close(folder)
    return room.free_bytes, shortage(needed_bytes, room, path)
