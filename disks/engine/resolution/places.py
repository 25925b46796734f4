"""Where may be looked, and what is known there without looking: asked of whoever calls."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile


class Places(Protocol):
    """The part of the world that may be looked at; `operations/paths.Roots` implements it."""

    def open(self, path: str) -> ImageFile:
        """Raises ImageError: `E_NOT_FOUND`, `E_OUTSIDE_ROOTS`, `E_NOT_A_FILE`, `E_ACCESS`, …"""
        ...

    def beside(self, child_path: str, text: str) -> str:
        """Host path of a relative text (Windows or POSIX style) seen from the child's folder.

        Lexical. Raises ImageError `E_OUTSIDE_ROOTS`, `E_NAME`.
        """
        ...

    def from_windows(self, text: str) -> list[str]:
        """Host paths that an absolute Windows path can mean; none where nothing maps it."""
        ...

    def find_identity(self, identity: str) -> list[str]:
        """Host paths of files that are known, or said by a search, to have this identity."""
        ...


class Known(NamedTuple):
    """What a catalog has read of a file already, so that it need not be opened again.

    Places may have a method `known(path)` that returns one, None for "open it", or raises
    what open() would raise.

    file      device and inode
    identity  of the disk in it; None where it could not be read
    error     why not
    virtual_disk_id  of the disk in it, where its format has one
    """

    file: tuple[int, int]
    identity: str | None
    error: ImageError | None = None
    virtual_disk_id: str | None = None
