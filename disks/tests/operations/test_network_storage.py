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

from disks.commandline import options
from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.operations import delete, durable, journal, merge, move
from disks.operations.paths import Roots
from disks.operations.probing import probe
from disks.operations.recover import recover
from disks.operations.trash import restoring
from disks.tests.builders import Family
from disks.tests.operations import (
    test_merge_in_place_faults,
    test_relocating_faults,
    test_trash_faults,
    worlds,
)
from disks.tests.operations.crashing import (
    SAMPLE,
    broken_at_every_point,
    in_fork,
    killed,
    with_fault,
)
from disks.tests.operations.dying import DIED
from disks.tests.operations.power import Scene, cuts_of, points_of, survive_power_cuts
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
    monkeypatch.undo()  # a host may take over that knows such renames
    assert [row["action"] for row in recover(str(world.folder), world.roots)] == ["finished"]
    assert not leaf.exists()
    assert content_of(world.middle.path) == content


def _merged_in_place(place: Path, family: Family) -> Scene:
    fresh = test_merge_in_place_faults.scenes(place, family.name)
    return test_merge_in_place_faults.Repeated(fresh, fresh())


def _relocated(name: str) -> Callable[[Path, Family], Scene]:
    case = test_relocating_faults.CASES[name]
    return lambda place, family: test_relocating_faults.Scene(place, family, case)


def _restored(place: Path, family: Family) -> Scene:
    return test_trash_faults.Scene(place, family, test_trash_faults.CASES["restore a merge"])


def _new_disk(place: Path, family: Family) -> Scene:
    return Prepared(CASES["to a new disk"], place, family)


RENAMES = {
    "merge in place": _merged_in_place,
    "delete": _relocated("delete a parent"),
    "move": _relocated("move to a folder"),
    "copy": _relocated("copy a chain"),
    "restore": _restored,
    "new disk": _new_disk,
}


@pytest.mark.slow
@pytest.mark.power_cuts
@pytest.mark.parametrize("name", RENAMES)
def test_power_cuts_between_the_halves_of_a_rename_lose_no_disk(
    request: pytest.FixtureRequest,
    place: Path,
    family: Family,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """bad-input F86, F92: a new name by link and unlink, before, between and after them."""
    without_careful_renames(monkeypatch)
    scene = RENAMES[name](place, family)
    stages = {one.rpartition(".")[0] for one in points_of(scene) if one.endswith(".link")}
    survive_power_cuts(
        scene,
        operation="names by link and unlink",
        format_name=family.name,
        cuts=cuts_of(len(RENAMES), 6),
        seed=request.node.name,
        aside=place / "aside",
        dies_at=[f"{stage}.{half}" for stage in stages for half in ("link", "unlink")],
    )


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


def test_a_move_that_dies_between_the_halves_of_a_rename_leaves_no_second_name(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F92, F93: what is written under the old name would change the moved disk."""
    without_careful_renames(monkeypatch)
    world = chain(tmp_path / "vms", family=family)
    leaf, target = world.leaf.path, world.leaf.path.with_name(f"new.{family.name}")
    content = content_of(leaf)

    def work() -> None:
        move.apply(move.plan(str(leaf), str(target), world.roots), world.roots, offline=True)

    assert in_fork(with_fault("forward.unlink:1:kill", work)) == DIED
    assert leaf.exists()
    assert target.exists()
    assert [row["action"] for row in recover(str(world.folder), world.roots)] == ["finished"]
    assert not leaf.exists()
    assert content_of(target) == content


def test_a_restore_that_dies_between_the_halves_of_a_rename_is_gone_on_with(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F92, F93: the disk has its own name and the trash's then."""
    without_careful_renames(monkeypatch)
    world = chain(tmp_path / "vms", family=family)
    leaf, content = world.leaf.path, content_of(world.leaf.path)
    done = delete.apply(delete.plan(str(leaf), world.roots), world.roots, offline=True)
    (folder,) = done["trash"]

    def work() -> None:
        restoring.restore(folder, world.roots, offline=True)

    assert in_fork(with_fault("unlink:2:kill", work)) == DIED
    assert leaf.exists()
    assert (Path(folder) / leaf.name).exists()
    assert restoring.restore(folder, world.roots, offline=True)["restored"] == [str(leaf)]
    assert content_of(leaf) == content
    assert leaf.stat().st_nlink == 1
    assert not Path(folder).exists()


class MindsNoCase(Roots):
    """An SMB share: it opens a file under any spelling of its name."""

    def open(self, path: str, **options: Any) -> ImageFile:
        return super().open(self._stored(path), **options)

    def stat(self, path: str) -> os.stat_result:
        return super().stat(self._stored(path))

    def _stored(self, path: str) -> str:
        folder, name = os.path.split(path)
        names = os.listdir(folder) if os.path.isdir(folder) else []
        alike = [one for one in names if one.casefold() == name.casefold()]
        return os.path.join(folder, alike[0]) if alike else path


def test_a_record_and_a_lock_count_for_every_spelling_of_a_name_that_the_share_takes(
    tmp_path: Path, family: Family
) -> None:
    """bad-input D65, F93: Windows stores the parent's name as somebody once typed it."""
    base = family.dynamic(tmp_path, family.file("Base"), content=[(0, worlds.noise(1, 8))])
    names = family.naming(base, relative=f".\\BASE.{family.name.upper()}")
    leaf = family.differencing(tmp_path, family.file("leaf"), base, **names)
    roots = MindsNoCase(roots_of(tmp_path).roots)
    with open_chain(str(leaf.path), roots) as found:
        assert found.paths == [str(leaf.path), str(base.path)]
    journal.write(roots, journal.Sidecar(journal.UNDO, str(base.path), "prepared"))
    plan = merge.plan(str(leaf.path), roots, into_parent=True, in_place=True)
    assert plan.refused is not None
    assert plan.refused.code == "E_UNFINISHED"


def test_a_file_of_the_command_line_is_spelled_as_its_folder_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input D65, F93: so that it meets the records and locks of the same disk."""
    (tmp_path / "Base.vhd").touch()
    monkeypatch.setattr(options, "Roots", MindsNoCase)
    assert options.file_path(f"{tmp_path}/BASE.vhd") == f"{tmp_path}/Base.vhd"
    assert options.file_path(f"{tmp_path}/none.vhd") == f"{tmp_path}/none.vhd"
