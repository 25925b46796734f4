"""`disk repair`: dry run, repair, refusals, as a script sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.engine.units import round_up
from disks.operations.pages import PAGE_BYTES
from disks.tests.builders import Built, build_dynamic, build_fixed
from disks.tests.commandline.running import Disk


@pytest.fixture
def damaged(tmp_path: Path) -> Built:
    built = build_dynamic(
        tmp_path, "old.vhd", size=256 * 1024, block_size=64 * 1024, content=[(3, b"\xa5" * 512)]
    )
    built.patch(built.footer_offset, b"\xde\xad\xbe\xef" * 16)
    return built


def test_the_dry_run_says_what_would_be_written_and_writes_nothing(
    disk: Disk, damaged: Built
) -> None:
    """bad-input A4."""
    before = damaged.path.read_bytes()
    outcome = disk.json("repair", damaged.path, "--dry-run")
    assert outcome.code == 0
    assert outcome.document["dry_run"] is True
    assert outcome.document["refused"] is None
    first = outcome.document["changes"][0]
    assert (first["field"], first["offset"]) == ("footer at the end", damaged.footer_offset)
    told = disk("repair", damaged.path, "--dry-run").out
    assert "footer at the end" in told
    assert "None" not in told
    assert damaged.path.read_bytes() == before


def test_repair_makes_the_disk_whole_and_keeps_its_content(disk: Disk, damaged: Built) -> None:
    """bad-input A4: the hash before and after is the same."""
    before = disk.json("hash", damaged.path).document
    assert disk("check", damaged.path).code == 3
    outcome = disk.json("repair", damaged.path)
    assert outcome.code == 0
    assert outcome.document["file_size_after_bytes"] == damaged.path.stat().st_size
    assert disk("check", damaged.path).code == 0
    assert disk.json("hash", damaged.path).document == before
    again = disk("repair", damaged.path)
    assert again.code == 1
    assert again.err.splitlines()[-1].startswith("error: E_NOTHING_TO_REPAIR: ")


def test_a_missing_footer_is_written_behind_the_file(disk: Disk, tmp_path: Path) -> None:
    """bad-input A6."""
    built = build_dynamic(tmp_path, "cut.vhd", size=256 * 1024, allocate=[0], end_footer="missing")
    size = built.path.stat().st_size
    outcome = disk("repair", built.path)
    assert outcome.code == 0
    assert "the headers were repaired" in outcome.out
    assert built.path.stat().st_size == round_up(size, PAGE_BYTES) + 512
    assert disk("check", built.path).code == 0


def test_a_managed_disk_needs_offline(disk: Disk, damaged: Built) -> None:
    (damaged.path.parent / "old.vhd.mrt").write_bytes(b"")
    dry = disk.json("repair", damaged.path, "--dry-run")
    assert (dry.code, dry.document["refused"]["code"]) == (1, "E_MANAGED")
    assert disk("repair", damaged.path).code == 1
    assert disk("repair", damaged.path, "--offline").code == 0


def test_fixed_disks_and_files_that_are_none_are_refused(disk: Disk, tmp_path: Path) -> None:
    fixed = build_fixed(tmp_path, "fixed.vhd", size=64 * 1024)
    assert disk.json("repair", fixed.path).document["error"]["code"] == "E_NOTHING_TO_REPAIR"
    text = tmp_path / "text.vhd"
    text.write_text("no disk " * 200)
    assert disk.json("repair", text).document["error"]["code"] == "E_NO_FOOTER"
    assert disk("repair").code == 2
