"""Real files below real roots, for tests of the catalog.

A name's extension chooses the format; where a test holds for all of them, `either_format` runs it
for each, and names that end in .vhd here get the format's own extension.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disks.models import Disk, StorageRoot
from disks.services import root_declarations, scanning
from disks.tests.builders import FAMILIES, MIB, VHD, Built, Family

KIB = 1024
SIZE = 2 * MIB
SMALL: dict[str, Any] = {"size": SIZE, "block_size": 512 * KIB}  # of a VHD


def declare(folder: Path, *views: str, **says: Any) -> StorageRoot:
    """A writable root that nobody else opens."""
    folder.mkdir(exist_ok=True)
    return root_declarations.declare(
        path=str(folder),
        declared_by=StorageRoot.DeclaredBy.COMMAND_LINE,
        says=root_declarations.Declaration(
            **{"opened_by": "nobody", "read_only": False, "windows_views": views} | says
        ),
    )


_chosen = VHD


@pytest.fixture
def tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In memory, below /dev, where the console declares no storage but for these tests."""
    if tmp_path.is_relative_to("/dev/shm"):
        monkeypatch.setattr(root_declarations, "_NEVER_BELOW", ("/proc/", "/sys/"))
    return tmp_path


@pytest.fixture(params=FAMILIES, ids=lambda one: one.name)
def either_format(request: pytest.FixtureRequest) -> Iterator[Family]:
    """For tests that hold for all formats."""
    global _chosen
    _chosen = request.param
    yield _chosen
    _chosen = VHD


def named(name: str) -> str:
    """A name with the extension of the chosen format."""
    return name if _chosen is VHD or not name.endswith(".vhd") else f"{name}x"


def family(name: str) -> Family:
    """The format that a name's extension stands for; VHD for others."""
    fitting = (one for one in FAMILIES if name.lower().endswith(one.name))
    return next(fitting, VHD)


def base(folder: Path, name: str = "base.vhd", **options: Any) -> Built:
    folder.mkdir(parents=True, exist_ok=True)
    name = named(name)
    form = family(name)
    small = {"size": SIZE, "block_size": form.small, "content": [(0, b"base" * 128)]}
    return form.dynamic(folder, name, **(small | options))


def child(folder: Path, name: str, parent: Built, **options: Any) -> Built:
    folder.mkdir(parents=True, exist_ok=True)
    name = named(name)
    return family(name).differencing(
        folder, name, parent, **({"content": [(8, name.encode().ljust(512, b"."))]} | options)
    )


def disk(name: str) -> Disk:
    return Disk.objects.select_related("root", "parent_link").get(name=named(name))


def scan(*chosen: StorageRoot) -> dict[str, Any]:
    for root in chosen:
        root.refresh_from_db()
    return scanning.scan_roots(chosen)


def key() -> str:
    return uuid.uuid4().hex


def touch(path: Path) -> None:
    """Another modification time, a minute later."""
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 60 * 10**9))
