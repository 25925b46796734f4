"""Managers, children, candidates, and how a disk is described."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.operations import journal
from disks.operations.candidates import candidates
from disks.operations.family import look
from disks.operations.inspection import inspect
from disks.operations.managers import manager_of
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root
from disks.tests.builders import (
    FAMILIES,
    MIB,
    VHDX,
    Built,
    Family,
    build_differencing,
    build_dynamic,
    build_fixed,
    checksum,
)
from disks.tests.operations.worlds import close_to_us

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
    assert [Path(path).name for path in family.unread] == ["damaged.vhd"]


def _without_footers(child: Built) -> None:
    child.patch(0, bytes(512))
    child.path.write_bytes(child.path.read_bytes()[:-512])


def _without_header(child: Built) -> None:
    child.patch(512 + 40, b"?")  # its checksum is wrong now


def _without_anything_but_a_cookie(child: Built) -> None:
    _without_footers(child)
    _without_header(child)


def _with_rubbish_behind(child: Built) -> None:
    child.patch(0, bytes(1536))
    child.path.write_bytes(child.path.read_bytes() + bytes(2048))


def _gone_but_for_its_name(child: Built) -> None:
    child.path.write_bytes(bytes(4096))


def _of_an_unknown_type(child: Built) -> None:
    for at in (0, child.footer_offset):
        raw = bytearray(child.path.read_bytes()[at : at + 512])
        raw[60:68] = (5).to_bytes(4) + bytes(4)
        raw[64:68] = checksum(bytes(raw)).to_bytes(4)
        child.patch(at, bytes(raw))


@pytest.mark.parametrize(
    ("damage", "with_this_parent", "with_another"),
    [
        (_without_footers, "child", ""),  # the header is sound and tells
        (_of_an_unknown_type, "child", ""),
        (_without_header, "unread", "unread"),
        (_without_anything_but_a_cookie, "unread", "unread"),
        (_with_rubbish_behind, "unread", "unread"),
        (_gone_but_for_its_name, "", ""),  # nothing in it says that it is a disk
    ],
)
def test_what_is_left_of_a_damaged_disk_tells_whether_it_is_a_child(
    tmp_path: Path, damage: Callable[[Built], None], with_this_parent: str, with_another: str
) -> None:
    """bad-input D66: nothing is lost, ever; and nobody is asked about what is known."""
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    another = build_fixed(tmp_path, "another.vhd", size=SIZE)
    for built_on, expected in ((parent, with_this_parent), (another, with_another)):
        child = build_differencing(tmp_path, "child.vhd", built_on, block_size=BLOCK)
        damage(child)
        family = look(Roots([Root(str(tmp_path))]), {str(parent.path): parent.identity})
        found = "child" if family.of(str(parent.path)) else "unread" if family.unread else ""
        assert found == expected
        child.path.unlink()


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_a_damaged_disk_that_never_had_a_parent_is_no_question(tmp_path: Path, kind: str) -> None:
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    if kind == "fixed":
        build_fixed(tmp_path, "bad.vhd", size=SIZE, footer={"current_size": 0})
    else:
        build_dynamic(tmp_path, "bad.vhd", size=SIZE, block_size=BLOCK).patch(512, b"?")
    family = look(Roots([Root(str(tmp_path))]), {str(parent.path): parent.identity})
    assert (family.children, family.unread) == ({}, {})


def test_folders_and_files_that_cannot_be_opened_are_open_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    (tmp_path / "closed").mkdir()
    build_differencing(tmp_path / "closed", "child.vhd", parent, block_size=BLOCK)
    (tmp_path / "locked.vhd").write_bytes(b"")
    close_to_us(monkeypatch, "closed", "locked.vhd")
    family = look(Roots([Root(str(tmp_path))]), {str(parent.path): parent.identity})
    assert {Path(path).name: error.code for path, error in family.unread.items()} == {
        "closed": "E_ACCESS",
        "locked.vhd": "E_ACCESS",
    }


def test_what_a_catalog_could_not_read_is_looked_at_again(tmp_path: Path) -> None:
    """Without a scan: what is readable by now, or gone, is no question any more."""
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    (tmp_path / "opened").mkdir()
    child = build_differencing(tmp_path / "opened", "child.vhd", parent, block_size=BLOCK)
    (tmp_path / "damaged.vhd").write_bytes(b"conectix" + bytes(4096))
    suspects = [f"{tmp_path}/{name}" for name in ("opened", "damaged.vhd", "gone.vhd", "gone")]
    outside = "/nowhere/else.vhd"
    family = look(
        Roots([Root(str(tmp_path))]),
        {str(parent.path): parent.identity},
        suspects=[*suspects, outside],
        scan=False,
    )
    assert family.of(str(parent.path)) == [str(child.path)]
    assert sorted(family.unread) == sorted([outside, f"{tmp_path}/damaged.vhd"])


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


@pytest.mark.parametrize("format", FAMILIES, ids=lambda one: one.name)
def test_candidates_never_offer_what_no_declaration_makes_a_parent(
    tmp_path: Path, format: Family
) -> None:
    """A disk of the other format, though it has the name, the size and even the identity."""
    parent = format.dynamic(tmp_path, format.file("base"), size=4 * MIB)
    child = format.differencing(tmp_path, format.file("child"), parent)
    (other,) = (one for one in FAMILIES if one is not format)
    (tmp_path / "else").mkdir()
    other.dynamic(tmp_path / "else", parent.path.name, size=4 * MIB)
    forced = format.dynamic(tmp_path / "else", format.file("same-size"), size=4 * MIB)
    if format is VHDX:
        VHDX.dynamic(tmp_path / "else", "sectors.vhdx", size=4 * MIB, logical_sector=4096)
    found = candidates(str(child.path), Roots([Root(str(tmp_path))]))
    assert [(one.path, one.verdict) for one in found] == [
        (str(parent.path), "match"),
        (str(forced.path), "identity-mismatch"),
    ]


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
