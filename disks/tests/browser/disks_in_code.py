"""Chains for the browser tests, made by the engine's own writer; big ones quickly."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

from disks.engine.files import ImageFile
from disks.engine.formats import by_name, open_image
from disks.engine.images import DiskType
from disks.engine.new_image import NewImage
from disks.engine.parent_link import NewParent

MIB = 1024 * 1024
SECTOR = 512


def write_disk(
    path: Path,
    *,
    virtual_mib: int,
    filled_mib: Iterable[int],
    parent: Path | None = None,
    windows_folder: str = "",
) -> Path:
    """A dynamic disk, or a child of parent, with noise in the named MiB of its content.

    windows_folder: how Windows names the folder that holds both; a child's absolute link.
    """
    filled = sorted(filled_mib)
    link = None
    if parent is not None:
        with ImageFile(os.open(parent, os.O_RDONLY), str(parent)) as file:
            windows = f"{windows_folder}\\{parent.name}"
            link = NewParent(open_image(file).identity, windows, f".\\{parent.name}", windows)
    new = NewImage(
        DiskType.DIFFERENCING if link else DiskType.DYNAMIC,
        virtual_mib * MIB,
        identity=str(uuid.uuid4()),
        parent=link,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = os.urandom(MIB)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    with ImageFile(handle, str(path), writable=True) as file:
        writer = by_name("vhd").writer(file, new, blocks=len({at // 2 for at in filled}))
        for at in filled:
            mark = at.to_bytes(8, "big")  # no two MiB are alike
            writer.write(at * MIB // SECTOR, mark + noise[8:])
        writer.finish()
    return path
