"""Creating disks: fixed, dynamic, differencing."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.operations import create, space
from disks.operations.progress import Cancelled, Progress
from disks.tests.builders import (
    build_differencing,
    build_dynamic,
    build_dynamic_vhdx,
    build_fixed,
    seven_zip,
    seven_zip_sha256,
)
from disks.tests.operations import worlds
from disks.tests.operations.worlds import KIB, content_of, errors_in, noise, roots_of

MIB = 1024 * KIB


@pytest.fixture
def tmp_path(disk_folder: Path) -> Path:
    """What holes and reserved room are, a real file system says."""
    return disk_folder


@pytest.mark.parametrize(
    ("name", "kind", "size", "on_disk"),
    [
        ("new.vhd", "dynamic", 64 * MIB, 4096),
        ("new.vhd", "fixed", 3 * MIB, 3 * MIB + 512),
        ("new.vhd", "dynamic", 512, 4096),
        ("new.vhdx", "dynamic", 64 * MIB, 4 * MIB),
        ("new.vhdx", "fixed", 3 * MIB, 8 * MIB),
        ("new.avhdx", "dynamic", 512, 4 * MIB),
        ("new.vhdx", "dynamic", 64 * 1024 * 1024 * MIB, 4 * MIB + 16 * MIB),
    ],
)
def test_new_disks_read_as_zeros(
    tmp_path: Path, name: str, kind: str, size: int, on_disk: int
) -> None:
    path = tmp_path / name
    plan = create.plan(str(path), roots_of(tmp_path), disk_type=kind, size_bytes=size)
    assert plan.refused is None
    done = create.apply(plan, roots_of(tmp_path))
    assert done["file_size_after_bytes"] == path.stat().st_size == plan.predicted_size_bytes
    assert path.stat().st_size <= on_disk
    assert errors_in(path) == []
    with roots_of(tmp_path).open(str(path)) as file:
        image = open_image(file)
        assert (str(image.disk_type), image.virtual_size_bytes) == (kind, size)
    if size <= 4 * MIB:
        assert content_of(path) == hashlib.sha256(bytes(size)).hexdigest()
    assert worlds.strays(tmp_path) == []


@pytest.mark.parametrize("name", ["new.vhd", "new.vhdx"])
def test_a_fixed_disk_has_no_holes(tmp_path: Path, name: str) -> None:
    """crash-safety R9: Windows refuses sparse files."""
    path = tmp_path / name
    plan = create.plan(str(path), roots_of(tmp_path), disk_type="fixed", size_bytes=2 * MIB)
    create.apply(plan, roots_of(tmp_path))
    assert path.stat().st_blocks * 512 >= 2 * MIB


@pytest.mark.parametrize(
    ("name", "kind", "chosen", "made"),
    [
        ("a.vhd", "dynamic", {}, (2 * MIB, 512)),
        ("a.vhd", "dynamic", {"block_size_bytes": MIB // 2}, (MIB // 2, 512)),
        ("a.vhdx", "dynamic", {}, (32 * MIB, 512)),
        ("a.vhdx", "fixed", {}, (2 * MIB, 512)),
        ("a.vhdx", "dynamic", {"block_size_bytes": MIB, "sector_bytes": 4096}, (MIB, 4096)),
    ],
)
def test_disks_are_made_as_windows_makes_them_unless_somebody_chooses(
    tmp_path: Path, name: str, kind: str, chosen: dict[str, int], made: tuple[int, int]
) -> None:
    path, roots = tmp_path / name, roots_of(tmp_path)
    create.apply(create.plan(str(path), roots, disk_type=kind, size_bytes=8 * MIB, **chosen), roots)
    with roots.open(str(path)) as file:
        image = open_image(file)
        assert (image.block_size_bytes, image.logical_sector_bytes) == made
    if seven_zip():
        assert seven_zip_sha256(path) == hashlib.sha256(bytes(8 * MIB)).hexdigest()


@pytest.mark.parametrize("sector", [512, 4096])
def test_the_child_of_a_vhdx_has_what_the_whole_chain_shares(tmp_path: Path, sector: int) -> None:
    """vhdx.md 12: size, virtual disk id and sectors; blocks of 2 MiB as Windows makes them."""
    parent = build_dynamic_vhdx(
        tmp_path, "base.vhdx", size=64 * MIB, block_size=32 * MIB, logical_sector=sector,
        content=[(8, noise(1, 40))],
    )  # fmt: skip
    path, roots = tmp_path / "child.avhdx", roots_of(tmp_path)
    create.apply(create.plan(str(path), roots, parent=str(parent.path)), roots)
    with roots.open(str(path)) as file, roots.open(str(parent.path)) as other:
        image, base = open_image(file), open_image(other)
        assert image.child_traits() == base.child_traits()
        assert image.virtual_disk_id == base.virtual_disk_id
        assert (image.logical_sector_bytes, image.block_size_bytes) == (sector, 2 * MIB)
        assert image.identity != base.identity
        assert image.parent is not None
        assert {one.code: one.path for one in image.parent.locators} == {
            "parent_linkage": f"{{{parent.identity}}}",
            "relative_path": ".\\base.vhdx",
            "absolute_win32_path": "C:\\VMs\\base.vhdx",
        }
    assert content_of(path, roots) == parent.sha256
    if seven_zip():
        assert seven_zip_sha256(path) == parent.sha256


@pytest.mark.parametrize("base", ["dynamic", "fixed"])
def test_a_child_reads_as_its_parent_and_windows_finds_it(tmp_path: Path, base: str) -> None:
    build = build_fixed if base == "fixed" else build_dynamic
    parent = build(tmp_path, "base.vhd", size=64 * KIB, content=[(3, noise(1, 20))])
    path = tmp_path / "sub" / "child.vhd"
    path.parent.mkdir()
    plan = create.plan(str(path), roots_of(tmp_path), parent=str(parent.path))
    assert plan.windows_will_look_at == ["C:\\VMs\\base.vhd"]
    create.apply(plan, roots_of(tmp_path))
    with roots_of(tmp_path).open(str(path)) as file:
        image = open_image(file)
        assert image.parent is not None
        assert {one.code: one.path for one in image.parent.locators} == {
            "W2ru": "..\\base.vhd",
            "W2ku": "C:\\VMs\\base.vhd",
        }
        assert image.parent.name == "base.vhd"
        assert image.virtual_size_bytes == 64 * KIB
        assert image.block_size_bytes == (parent.block_size or 2 * MIB)
    assert content_of(path, roots_of(tmp_path)) == parent.sha256


def test_without_a_windows_view_only_the_relative_path_is_written(tmp_path: Path) -> None:
    from disks.operations.paths import Roots
    from disks.operations.storage_roots import Root

    parent = build_dynamic(tmp_path, "base.vhd")
    roots = Roots([Root(str(tmp_path))])
    create.apply(create.plan(str(tmp_path / "c.vhd"), roots, parent=str(parent.path)), roots)
    with roots.open(str(tmp_path / "c.vhd")) as file:
        reference = open_image(file).parent
        assert reference is not None
        assert [one.code for one in reference.locators] == ["W2ru"]


@pytest.mark.parametrize(
    ("name", "size", "code"),
    [
        ("old.vhd", MIB, "E_EXISTS"),
        ("new.qcow2", MIB, "E_NAME"),
        ("nul.vhd", MIB, "E_NAME"),
        ("a:b.vhd", MIB, "E_NAME"),
        ("new.vhd ", MIB, "E_NAME"),
        (".vdtmp.vhd", MIB, "E_NAME"),
        ("new.vhd", 0, "E_SIZE"),
        ("new.vhd", 1000, "E_SIZE"),
        ("new.vhd", 2041 * 1024 * MIB, "E_TOO_LARGE"),
        ("new.vhdx", 64 * 1024 * 1024 * MIB + 512, "E_TOO_LARGE"),
        ("none/new.vhd", MIB, "E_NOT_FOUND"),
        ("../new.vhd", MIB, "E_OUTSIDE_ROOTS"),
    ],
)
def test_refusals(tmp_path: Path, name: str, size: int, code: str) -> None:
    """bad-input A11, D62, F82."""
    root = tmp_path / "root"
    root.mkdir()
    build_dynamic(root, "old.vhd")
    before = worlds.snapshot(tmp_path)
    plan = create.plan(os.path.join(root, name), roots_of(root), size_bytes=size)
    assert plan.refused is not None
    assert plan.refused.code == code
    with pytest.raises(ImageError):
        create.apply(plan, roots_of(root))
    assert worlds.snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "chosen", "words"),
    [
        ("a.vhd", {"sector_bytes": 4096}, "A VHD cannot have sectors of 4,096 bytes; 512 is"),
        ("a.vhdx", {"sector_bytes": 1024}, "512 or 4,096 is possible"),
        ("a.vhdx", {"block_size_bytes": 3 * MIB}, "a power of two from 1 to 256 MiB"),
        ("a.vhdx", {"block_size_bytes": 512 * MIB}, "a power of two from 1 to 256 MiB"),
    ],
)
def test_sizes_that_the_format_does_not_know_are_refused(
    tmp_path: Path, name: str, chosen: dict[str, int], words: str
) -> None:
    plan = create.plan(str(tmp_path / name), roots_of(tmp_path), size_bytes=8 * MIB, **chosen)
    assert plan.refused is not None
    assert plan.refused.code == "E_BLOCK_SIZE"
    assert words in plan.refused.message


def test_a_child_has_its_parents_format(tmp_path: Path) -> None:
    parent = build_dynamic(tmp_path, "base.vhd")
    plan = create.plan(str(tmp_path / "c.vhdx"), roots_of(tmp_path), parent=str(parent.path))
    assert plan.refused is not None
    assert plan.refused.code == "E_PARENT_FORMAT"


def test_a_disk_larger_than_the_storage_is_refused_with_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F81, F96."""
    monkeypatch.setattr(space, "space_of", lambda fd: space.Space(MIB, 100 * MIB))
    plan = create.plan(
        str(tmp_path / "new.vhd"), roots_of(tmp_path), disk_type="fixed", size_bytes=2 * MIB
    )
    assert plan.refused is not None
    assert plan.refused.code == "E_NOSPC"
    assert "2,097,664 bytes are needed" in plan.refused.message


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    plan = create.plan(str(tmp_path / "new.vhd"), roots_of(tmp_path), size_bytes=MIB)

    class Taker(Progress):
        def commit_starts(self) -> None:
            (tmp_path / "new.vhd").write_bytes(b"mine")

    with pytest.raises(ImageError) as caught:
        create.apply(plan, roots_of(tmp_path), progress=Taker())
    assert caught.value.code == "E_EXISTS"
    assert (tmp_path / "new.vhd").read_bytes() == b"mine"
    assert worlds.strays(tmp_path) == []


def test_a_parent_changed_since_the_plan_is_noticed(tmp_path: Path) -> None:
    """bad-input E76."""
    parent = build_dynamic(tmp_path, "base.vhd")
    plan = create.plan(str(tmp_path / "c.vhd"), roots_of(tmp_path), parent=str(parent.path))
    os.utime(parent.path, ns=(7, 7))
    with pytest.raises(ImageError) as caught:
        create.apply(plan, roots_of(tmp_path))
    assert caught.value.code == "E_CHANGED"
    assert not (tmp_path / "c.vhd").exists()


def test_reserving_a_fixed_disk_can_be_cancelled(tmp_path: Path) -> None:
    """bad-input E79."""

    class Stop(Progress):
        def report(self, done: int, total: int, sentence: str | None = None) -> None:
            raise Cancelled

    plan = create.plan(
        str(tmp_path / "new.vhd"), roots_of(tmp_path), disk_type="fixed", size_bytes=200 * MIB
    )
    with pytest.raises(Cancelled):
        create.apply(plan, roots_of(tmp_path), progress=Stop())
    assert worlds.snapshot(tmp_path) == {}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_a_new_disk_gets_the_rights_that_new_files_get_here(
    tmp_path: Path, umask: int, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken from what the system gives; other threads make files meanwhile, so none is set."""
    roots = roots_of(tmp_path)
    plan = create.plan(str(tmp_path / "new.vhd"), roots, size_bytes=MIB)
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", None)
            create.apply(plan, roots)
    finally:
        os.umask(before)
    assert (tmp_path / "new.vhd").stat().st_mode & 0o777 == mode


def test_a_child_of_a_chain_is_readable(tmp_path: Path) -> None:
    base = build_dynamic(tmp_path, "base.vhd", size=64 * KIB, content=[(0, noise(1, 9))])
    middle = build_differencing(tmp_path, "m.vhd", base, content=[(2, noise(2, 1))])
    roots = roots_of(tmp_path)
    create.apply(create.plan(str(tmp_path / "c.vhd"), roots, parent=str(middle.path)), roots)
    assert content_of(tmp_path / "c.vhd") == middle.sha256


def test_a_clock_that_stands_before_the_year_2000_keeps_no_vhd_from_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input H114: a host without a battery, whose time has no place in a footer."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    path, roots = tmp_path / "new.vhd", roots_of(tmp_path)
    create.apply(create.plan(str(path), roots, size_bytes=4 * MIB), roots)
    assert errors_in(path) == []
