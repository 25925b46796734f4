"""Storage that is a network share: what it cannot do, and how it fails.

NFS knows no rename that never replaces; SMB shares have no hard links and mind no case of
letters; servers go away, forget open files and locks. The jobs get by, or say why not.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disks.engine.errors import ImageError
from disks.operations import durable, merge
from disks.operations.probing import probe
from disks.operations.recover import recover
from disks.tests.builders import Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    broken_at_every_point,
    in_fork,
    killed,
    with_fault,
)
from disks.tests.operations.dying import DIED
from disks.tests.operations.test_copy_faults import CASES, Prepared
from disks.tests.operations.worlds import chain, content_of, roots_of


def refusing(number: int) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


def without_hard_links(patch: pytest.MonkeyPatch) -> None:
    """An SMB share: a name is moved, never added."""
    patch.setattr(os, "link", refusing(errno.ENOTSUP))


def without_careful_renames(patch: pytest.MonkeyPatch) -> None:
    """NFS: a rename replaces what has the name, whatever flags say."""

    class Libc:
        def __getattr__(self, name: str) -> Callable[..., int]:
            return getattr(real, name)  # type: ignore[no-any-return]

        def renameat2(self, *_: object) -> int:
            import ctypes

            ctypes.set_errno(errno.EINVAL)
            return -1

    real = durable.libc()
    patch.setattr(durable, "libc", Libc)


SHARES = {"no hard links": without_hard_links, "no careful renames": without_careful_renames}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("into the parent", "no hard links"),
        ("into the base, child's name", "no hard links"),
        ("into the base, child's name", "no careful renames"),
        ("compact", "no careful renames"),
    ],
)
def test_a_kill_at_any_point_is_mended_on_shares_that_can_do_less(
    place: Path, family: Family, name: str, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F92, F93: a pair of renames in place of links, or a link in place of a rename."""
    SHARES[share](monkeypatch)
    prepared = Prepared(CASES[name], place, family)
    outcomes = set()
    for _ in broken_at_every_point(
        prepared.fresh,
        killed,
        expected=DIED,
        every=max(1, SAMPLE // 2),
        folder=prepared.folder,
    ):
        rows = prepared.recover()
        assert all(row["action"] in ("finished", "undone", "swept") for row in rows), rows
        outcomes.add(prepared.check(finished=False))
        assert prepared.recover() == []
    assert prepared.check(finished=True)
    assert outcomes == {False, True}


def test_a_death_between_the_halves_of_a_rename_leaves_no_second_name(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F92, F93: the merged leaf has its own name and the trash's then."""
    without_careful_renames(monkeypatch)
    world = chain(tmp_path / "vms", family=family)
    leaf, content = world.leaf.path, content_of(world.leaf.path)

    def work() -> None:
        plan = merge.plan(str(leaf), world.roots, into_parent=True, in_place=True)
        merge.apply(plan, world.roots, offline=True)

    assert in_fork(with_fault("merge.end.unlink:1:kill", work)) == DIED
    assert leaf.exists()
    assert [row["action"] for row in recover(str(world.folder), world.roots)] == ["finished"]
    assert not leaf.exists()
    assert content_of(world.middle.path) == content


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EHOSTDOWN])
def test_a_server_that_goes_away_ends_the_job_and_changes_nothing(
    tmp_path: Path, family: Family, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F83, F92, F93: ESTALE after a reboot, time-outs of soft mounts, a dropped share."""
    world = chain(tmp_path / "vms", family=family)
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True)
    before = worlds.snapshot(world.folder)
    real, calls = os.preadv, 0

    def away(fd: int, buffers: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(number, os.strerror(number))
        return real(fd, buffers, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", away)
        with pytest.raises(ImageError) as told:
            merge.apply(plan, world.roots, offline=True)
    assert told.value.code == "E_IO"
    assert "Errno" not in told.value.message
    assert worlds.snapshot(world.folder) == before
    assert content_of(world.leaf.path) == world.leaf.sha256


def test_storage_without_locks_is_not_worked_on(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F92: a mount with `nolock`, or a lock server that is away."""
    world = chain(tmp_path / "vms", family=family)
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True)
    before = worlds.snapshot(world.folder)
    monkeypatch.setattr(fcntl, "fcntl", refusing(errno.ENOLCK))
    with pytest.raises(ImageError) as told:
        merge.apply(plan, world.roots, offline=True)
    assert told.value.code == "E_NO_LOCKS"
    assert worlds.snapshot(world.folder) == before
    assert probe(world.roots, str(world.folder)).locks is False


def test_the_probe_of_a_share_says_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F93."""
    without_hard_links(monkeypatch)
    found = probe(roots_of(tmp_path), str(tmp_path))
    assert found.hard_links is False
    assert found.writable
    assert list(tmp_path.iterdir()) == []
