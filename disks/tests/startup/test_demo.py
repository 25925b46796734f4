"""The demo root: what a newcomer finds in it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from disks.engine.errors import NotAnImage
from disks.engine.formats import open_image
from disks.operations import demo
from disks.operations.inspection import inspect
from disks.operations.paths import Roots
from disks.operations.pile import planning
from disks.operations.storage_roots import Root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "root"
    demo.make(str(folder))
    return folder


@pytest.fixture
def roots(folder: Path) -> Roots:
    def find_identity(identity: str) -> list[str]:
        return [path for path, own in identities(folder).items() if own == identity]

    root = Root(str(folder), name="demo", windows_views=(demo.WINDOWS_VIEW,))
    return Roots([root], find_identity=find_identity)


def identities(folder: Path) -> dict[str, str]:
    plain = Roots([Root(str(folder))])
    found = {}
    for path in sorted(folder.rglob("*.vhd*")):
        if path.name != "readme.vhd":
            with plain.open(str(path)) as file:
                found[str(path)] = open_image(file).identity
    return found


def seen(folder: Path, roots: Roots, name: str) -> dict[str, Any]:
    return inspect(str(folder / name), roots)


def test_it_is_the_same_on_every_machine_and_small(folder: Path, tmp_path: Path) -> None:
    demo.make(str(tmp_path))
    assert digests(tmp_path) == digests(folder)
    on_disk = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    assert on_disk < 200_000_000


def digests(folder: Path) -> dict[str, tuple[str, float]]:
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        demo.make(str(tmp_path))
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_the_children_are_laid_out_and_named_as_windows_does_it(folder: Path, roots: Roots) -> None:
    parent = seen(folder, roots, "Lab/lab-01.vhd")["parent"]
    assert parent["name"] == "C:\\VMs\\Bases\\windows10.vhd"
    assert {row["code"]: row["path"] for row in parent["locators"]} == {
        "W2ku": "C:\\VMs\\Bases\\windows10.vhd",
        "W2ru": "..\\Bases\\windows10.vhd",
    }
    assert parent["timestamp"] is None


@pytest.mark.parametrize("name", ["Web server/web-today.vhd", "Web server/web-updates.vhd"])
def test_the_three_level_chain_is_whole(folder: Path, roots: Roots, name: str) -> None:
    disk = seen(folder, roots, name)
    assert disk["parent"]["status"] == "found"
    assert [row for row in disk["findings"] if row["level"] == "error"] == []


def test_the_moved_base_of_five_is_found_by_its_identity_only(folder: Path, roots: Roots) -> None:
    base = str(folder / "Archive 2025/windows10.vhd")
    for number in range(1, 6):
        parent = seen(folder, roots, f"Lab/lab-{number:02}.vhd")["parent"]
        assert parent["status"] == "missing"
        assert parent["identity"] == identities(folder)[base]


def test_the_replaced_parent_is_another_disk(folder: Path, roots: Roots) -> None:
    assert seen(folder, roots, "Accounting/ledger.vhd")["parent"]["status"] == "identity-mismatch"


def test_a_moved_base_of_a_vhdx_chain_is_found_by_its_identity_only(
    folder: Path, roots: Roots
) -> None:
    base = str(folder / "Archive 2026/windows11.vhdx")
    for number in (1, 2):
        disk = seen(folder, roots, f"Desktops/desktop-{number:02}.vhdx")
        assert (disk["format"], disk["parent"]["status"]) == ("vhdx", "missing")
        assert disk["parent"]["identity"] == identities(folder)[base]
        assert {row["code"]: row["path"] for row in disk["parent"]["locators"]} == {
            "parent_linkage": f"{{{identities(folder)[base]}}}",
            "relative_path": "..\\Bases\\windows11.vhdx",
            "absolute_win32_path": "C:\\VMs\\Bases\\windows11.vhdx",
        }
        chain_id = seen(folder, roots, "Archive 2026/windows11.vhdx")["virtual_disk_id"]
        assert disk["virtual_disk_id"] == chain_id
    above = seen(folder, roots, "Desktops/desktop-02-test.vhdx")
    assert above["parent"]["status"] == "found"


def test_the_written_parent_is_the_same_disk_with_other_content(folder: Path, roots: Roots) -> None:
    parent = seen(folder, roots, "Payroll/payroll.vhdx")["parent"]
    assert parent["status"] == "identity-mismatch"
    assert {step.get("same_chain") for step in parent["trace"] if step["candidate"]} == {True}


def test_the_twin_in_the_backup_does_not_disturb_the_link(folder: Path, roots: Roots) -> None:
    parent = seen(folder, roots, "Mail/mail.vhd")["parent"]
    assert parent["status"] == "found"
    assert parent["path"] == str(folder / "Mail/mail-base.vhd")
    own = identities(folder)
    assert (
        own[str(folder / "Mail/mail-base.vhd")] == own[str(folder / "Backup/Monday/mail-base.vhd")]
    )


def test_the_checkpoints_are_one_pile_in_an_order_that_their_names_do_not_tell(
    folder: Path,
) -> None:
    place = str(folder / "SRV01")
    plan = planning.plan(place, Roots([Root(place, windows_views=("C:\\VMs\\SRV01",))]))
    assert plan.refused is None
    (found,) = plan.piles
    order = [disk.path for disk in found.disks]
    assert len(order) == demo.CHECKPOINTS + 1
    assert order != sorted(order)
    assert order != sorted(order, reverse=True)
    assert [disk.mtime_ns for disk in found.disks] == sorted(
        (disk.mtime_ns for disk in found.disks), reverse=True
    )


def test_two_thirds_of_one_disk_are_zero_blocks(folder: Path) -> None:
    with Roots([Root(str(folder))]).open(str(folder / "Files/share.vhd")) as file:
        image = open_image(file)
        held = [extent for extent in image.extents(0, 15 * 4096) if extent.source == "data"]
        blocks = [
            file.read_at(extent.file_offset or 0, 2 * 1024 * 1024)
            for extent in held
            if extent.count_sectors == 4096
        ]
    assert image.blocks_allocated() == 15
    assert sum(not any(block) for block in blocks) == 10


def test_one_footer_is_damaged_and_the_disk_still_reads(folder: Path, roots: Roots) -> None:
    disk = seen(folder, roots, "Files/old-scans.vhd")
    assert disk["format"] == "vhd"
    assert disk["virtual_size_bytes"] == 64 * 1024 * 1024
    assert disk["findings"]


def test_the_text_file_is_no_disk(folder: Path, roots: Roots) -> None:
    with pytest.raises(NotAnImage) as refusal:
        seen(folder, roots, "Files/readme.vhd")
    assert refusal.value.code == "E_NO_FOOTER"
