"""Managers, children, candidates, and how a disk is described."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.operations import journal
from disks.operations.candidates import candidates
from disks.operations.family import look
from disks.operations.inspection import inspect
from disks.operations.managers import manager_of
from disks.operations.paths import Root, Roots
from disks.tests.builders import build_differencing, build_dynamic, build_fixed

SIZE = 256 * 1024
BLOCK = 64 * 1024
GUID = "01234567-89AB-cdef-0123-456789abcdef"


@pytest.mark.parametrize(
    ("name", "beside", "code"),
    [
        ("vm.vhd", [], None),
        ("vm.vhd", ["vm.xml", "notes.txt"], None),
        ("vm.avhd", [], "hyper-v-checkpoint"),
        ("vm.AVHDX", ["vm.vmcx"], "hyper-v-machine"),
        ("vm.vhdx", [f"vm_{GUID}.avhdx"], "hyper-v-checkpoint"),
        ("vm2.vhdx", [f"vm_{GUID}.avhdx"], None),
        ("vm.vhdx", ["vm.vhdx.rct"], "change-tracking"),
        ("vm.vhdx", ["VM.VHDX.MRT"], "change-tracking"),
        ("vm.vhdx", ["other.vhdx.mrt"], None),
        ("golden.vhd", ["golden.pvp"], "citrix-pvs"),
        ("golden.vhd", ["golden.lok"], "citrix-pvs"),
        ("shared.avhdx", ["shared.vhds"], "vhd-set"),
        (f"shared_{GUID}.avhdx", ["shared.vhds"], "vhd-set"),
        ("RW.VHDX", [], "fslogix"),
        ("host1_RW.vhdx", [], "fslogix"),
        ("narrow.vhdx", [], None),
        (f"{GUID}.vhd", [], "xcp-ng"),
    ],
)
def test_managers_are_told_from_the_neighbours(
    name: str, beside: list[str], code: str | None
) -> None:
    found = manager_of([name, *beside], name)
    assert (found.code if found else None) == code
    if found:
        assert found.sentence.endswith(".")
        assert found.way_out.endswith(".")


def test_the_hidden_byte_points_to_a_storage_repository() -> None:
    found = manager_of(["a.vhd"], "a.vhd", hidden=True)
    assert found is not None
    assert found.code == "xcp-ng"


def test_description_of_a_hidden_managed_hard_linked_unfinished_disk(tmp_path: Path) -> None:
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    hidden = {"hidden": 1}
    child = build_differencing(tmp_path, "vm.vhd", parent, block_size=BLOCK, footer=hidden)
    os.link(child.path, tmp_path / "second.vhd")
    roots = Roots([Root(str(tmp_path))])
    journal.write(roots, journal.Sidecar(journal.UNDO, str(child.path), "prepared"))
    document = inspect(str(child.path), roots)
    assert document["hidden"] is True
    assert document["managed_by"]["code"] == "xcp-ng"
    assert {"W_HARD_LINKS", "E_UNFINISHED"} <= {row["code"] for row in document["findings"]}


def test_twins_are_a_note_when_the_header_leads_to_one(tmp_path: Path) -> None:
    """bad-input D56: the path in the header wins, the copies are named."""
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    (tmp_path / "backup").mkdir()
    twin = shutil.copy(parent.path, tmp_path / "backup" / "base.vhd")
    child = build_differencing(tmp_path, "child.vhd", parent, block_size=BLOCK)
    roots = Roots([Root(str(tmp_path))], search=[str(tmp_path)])
    document = inspect(str(child.path), roots)
    assert (document["parent"]["status"], document["twins"]) == ("found", [str(twin)])
    assert "N_PARENT_TWINS" in {row["code"] for row in document["findings"]}


def test_inspection_reads_little_and_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract for every bad input (G3), and 20 ms for a sound disk."""
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    child = build_differencing(
        tmp_path, "child.vhd", parent, size=64 * 1024 * 1024, content=[(1, b"\x11" * 512)]
    )
    read = 0
    original = ImageFile.read_at

    def counting(self: ImageFile, offset: int, length: int) -> bytes:
        nonlocal read
        read += length
        return original(self, offset, length)

    monkeypatch.setattr(ImageFile, "read_at", counting)
    roots = Roots([Root(str(tmp_path))])
    started = time.process_time()
    inspect(str(child.path), roots)
    assert time.process_time() - started < 0.25
    assert read < 256 * 1024


def test_children_are_found_by_identity_below_the_folders(tmp_path: Path) -> None:
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    (tmp_path / "deep").mkdir()
    (tmp_path / ".vdtrash").mkdir()
    for folder in ("deep", ".vdtrash"):
        build_differencing(tmp_path / folder, "child.vhd", parent, block_size=BLOCK)
    build_dynamic(tmp_path, "other.vhd", size=SIZE, block_size=BLOCK)
    (tmp_path / "damaged.vhd").write_bytes(b"conectix" + bytes(4096))
    (tmp_path / "text.txt").write_text("no disk" * 200)
    roots = Roots([Root(str(tmp_path))])
    family = look(roots, {str(parent.path): parent.identity})
    assert family.of(str(parent.path)) == [f"{tmp_path}/deep/child.vhd"]
    assert [Path(problem.file or "").name for problem in family.unread] == ["damaged.vhd"]


def test_candidates_never_offer_the_disk_itself_or_what_builds_on_it(tmp_path: Path) -> None:
    """bad-input D60: refused in the list already."""
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    child = build_differencing(tmp_path, "child.vhd", parent, block_size=BLOCK)
    below = build_differencing(tmp_path, "below.vhd", child, block_size=BLOCK)
    build_differencing(tmp_path, "deeper.vhd", below, block_size=BLOCK)
    shutil.copy(child.path, tmp_path / "copy-of-child.vhd")
    os.utime(parent.path, (1, 1))
    twin = shutil.copy(parent.path, tmp_path / "newer.vhd")
    roots = Roots([Root(str(tmp_path))])
    found = candidates(str(child.path), roots)
    # The file name in the header speaks for one more than a later date does for its twin.
    assert [(one.path, one.verdict) for one in found] == [
        (str(parent.path), "match"),
        (str(twin), "match"),
    ]
    with pytest.raises(ImageError) as refused:
        candidates(str(parent.path), roots)
    assert refused.value.code == "E_NOT_DIFFERENCING"


def test_an_unreadable_file_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F83: EIO while reading names the file; the rest is still looked at."""
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    child = build_differencing(tmp_path, "child.vhd", parent, block_size=BLOCK)
    shutil.copy(parent.path, tmp_path / "bad.vhd")
    original = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("bad.vhd"):
            raise OSError(5, "Input/output error")
        return original(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    problems: list[ImageError] = []
    found = candidates(str(child.path), Roots([Root(str(tmp_path))]), problems=problems)
    assert [one.path for one in found] == [str(parent.path)]
    assert [(problem.code, problem.file) for problem in problems] == [
        ("E_IO", f"{tmp_path}/bad.vhd")
    ]
