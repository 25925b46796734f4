"""What we keep of a disk's bytes beside it is read by nobody who may not read the disk."""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from disks.engine import faults
from disks.operations import merge
from disks.tests.builders import FAMILIES, Family
from disks.tests.operations import worlds

_HOLD_BYTES = re.compile(r"\..+(\.vdundo|\.vdpages|-\d+)(?:\.vdtmp)?")

both = pytest.mark.parametrize("family", FAMILIES, ids=[one.name for one in FAMILIES])


def rights_while_merging(world: worlds.World, **how: Any) -> set[tuple[str, int, int]]:
    """(kind, mode, group) of every file that held bytes of a disk, at any moment.

    kind: how its name ends
    """
    seen = set()

    def look(_: faults.Event) -> None:
        for path in world.folder.iterdir():
            if kind := _HOLD_BYTES.fullmatch(path.name):
                found = path.stat()
                seen.add((kind[1], stat.S_IMODE(found.st_mode), found.st_gid))

    plan = merge.plan(str(world.leaf.path), world.roots, **how)
    faults.watch(look)
    try:
        merge.apply(plan, world.roots, offline=True)
    finally:
        faults.watch(None)
    return seen


def with_rights(world: worlds.World, mode: int, group: int = -1) -> worlds.World:
    for disk in (world.base, world.middle, world.leaf):
        os.chown(disk.path, -1, group)
        disk.path.chmod(mode)
    return world


@both
def test_a_merge_in_place_shows_nobody_the_old_pages_of_a_private_disk(
    tmp_path: Path, family: Family
) -> None:
    world = with_rights(worlds.chain(tmp_path, family=family), 0o600)
    seen = rights_while_merging(world, into_parent=True, in_place=True)
    assert {kind for kind, *_ in seen} == {".vdpages", ".vdundo"}
    assert {mode for _, mode, *_ in seen} == {0o600}


@both
def test_who_may_read_the_disk_may_read_what_is_kept_of_it(tmp_path: Path, family: Family) -> None:
    """Another host's service may run as another user of the same group, and has to recover.

    Nobody else writes it: a record that is forged could name another disk.
    """
    group = os.getgroups()[-1] if os.geteuid() else 4321
    world = with_rights(worlds.chain(tmp_path, family=family), 0o660, group)
    seen = rights_while_merging(world, into_parent=True, in_place=True)
    opened = {(kind, mode, gid) for kind, mode, gid in seen if mode & 0o077}
    assert opened == {(kind, 0o640, group) for kind in (".vdpages", ".vdundo")}


def test_an_access_list_of_the_folder_opens_no_record_of_a_disk_without_one(tmp_path: Path) -> None:
    """The mode of a file that inherits one is what it lets through."""
    world = with_rights(worlds.chain(tmp_path), 0o640)
    # Version 2; the owner rw, user 1234 r, the group none, the mask r, others none.
    rows = ((1, 6, -1), (2, 4, 1234), (4, 0, -1), (16, 4, -1), (32, 0, -1))
    inherited = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
    os.setxattr(tmp_path, "system.posix_acl_default", inherited)
    seen = rights_while_merging(world, into_parent=True, in_place=True)
    assert {mode for _, mode, _ in seen} == {0o600}


def test_a_copy_is_private_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens it while it is empty could read all that comes after."""
    world = worlds.chain(tmp_path)
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: None)
    seen = rights_while_merging(world, to=world.path("new.vhd"))
    assert {mode for _, mode, *_ in seen} == {0o600}
