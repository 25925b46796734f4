"""The VHDX builders, judged by foreign readers: what they make reads as their model says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from disks.tests.builders import (
    MIB,
    SECTOR,
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
    seven_zip_sha256,
)
from disks.tests.builders.vhdx_log import PAGE, Entry, Page, Zeros
from disks.tests.builders.vhdx_parts import crc32c

SIZE = 5 * MIB + 8 * 4096  # 7-Zip 26 refuses an odd number of sectors: it tests the wrong bit
CONTENT = [(1, b"\1" * 512), (2041, b"\2" * SECTOR * 40), (SIZE // SECTOR - 8, b"\3" * 4096)]


def run(program: str, *arguments: str) -> str:
    """What a tool says; skipped without the tool, failed where it fails."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def qemu_content(built: BuiltVhdx) -> bytes:
    raw = built.path.with_suffix(".raw")
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", str(built.path), str(raw))
    return raw.read_bytes()


def test_the_check_value_of_the_checksum() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("logical", [512, 4096])
@pytest.mark.parametrize("block", [1, 2, 32])
def test_seven_zip_reads_every_kind(tmp_path: Path, logical: int, block: int) -> None:
    options = {"logical_sector": logical, "block_size": block * MIB, "size": SIZE}
    fixed = build_fixed_vhdx(tmp_path, "fixed.vhdx", content=CONTENT, **options)
    assert seven_zip_sha256(fixed) == fixed.sha256
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", content=CONTENT, **options)
    assert seven_zip_sha256(base) == base.sha256
    for bitmaps in ("exact", "full", "none"):
        for order in ("ascending", "descending"):
            child = build_differencing_vhdx(
                tmp_path, "child.vhdx", base, bitmaps=bitmaps, order=order,
                content=[(7, b"\4" * 512), (2047, b"\5" * SECTOR * 9)],
            )  # fmt: skip
            leaf = build_differencing_vhdx(
                tmp_path, "leaf.vhdx", child, bitmaps=bitmaps, content=[(8, bytes(4096))]
            )
            assert seven_zip_sha256(leaf) == leaf.sha256


@pytest.mark.parametrize("state", [0, 1, 2, 3])
def test_seven_zip_agrees_what_absent_blocks_read_as(tmp_path: Path, state: int) -> None:
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", content=[(0, b"\1" * 4 * MIB)])
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, states={1: state})
    assert child.model[2 * MIB : 2 * MIB + 1] == (b"\1" if state == 0 else b"\0")
    assert seven_zip_sha256(child) == child.sha256


@pytest.mark.parametrize("build", [build_fixed_vhdx, build_dynamic_vhdx])
def test_qemu_reads_disks_without_a_parent(tmp_path: Path, build: type) -> None:
    built = build(tmp_path, "a.vhdx", size=SIZE, content=CONTENT)
    assert "No errors" in run("qemu-img", "check", str(built.path))
    assert qemu_content(built) == bytes(built.model)


def test_vhdiinfo_names_identities_and_sectors(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx", logical_sector=4096)
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base)
    lines = [line.strip().split("\t") for line in run("vhdiinfo", str(child.path)).splitlines()]
    shown = {line[0]: line[-1].removeprefix(": ") for line in lines if len(line) > 1}
    assert shown["Disk type"] == "Differential"
    assert shown["Identifier"] == child.identity
    assert shown["Parent identifier"] == base.identity
    assert shown["Bytes per sector"] == "4096 bytes"
    assert shown["Parent filename"] == "C:\\VMs\\base.vhdx"


@pytest.mark.parametrize("sequence", [1, 2**40 + 3])
@pytest.mark.parametrize("at", [0, MIB - 8192])
def test_qemu_replays_what_was_moved_into_the_log(tmp_path: Path, at: int, sequence: int) -> None:
    """One entry of several pages and zeros, once wrapped around the log's end."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * 4096), (8000, b"\2" * 512)])
    pages = [built.table_offset, built.metadata_offset + 64 * 1024, built.blocks[0]]
    changes = [Page(offset, built.read(offset, PAGE)) for offset in pages]
    zeros = Zeros(built.blocks[0] + PAGE, 2 * PAGE)
    for offset in pages:
        built.patch(offset, bytes(PAGE))
    built.patch(zeros.offset, b"\7" * zeros.length)
    built.write_log([Entry([*changes, zeros])], at=at, first_sequence=sequence)
    run("qemu-img", "check", "-r", "all", str(built.path))
    assert qemu_content(built) == bytes(built.model)
    assert seven_zip_sha256(built) == built.sha256


def test_qemu_replays_a_sequence_of_entries(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * 4096), (8000, b"\2" * 512)])
    built.move_into_log(
        built.table_offset, built.metadata_offset, built.blocks[0], built.blocks[0] + PAGE
    )
    assert qemu_refuses(built)
    run("qemu-img", "check", "-r", "all", str(built.path))
    assert qemu_content(built) == bytes(built.model)


def qemu_refuses(built: BuiltVhdx) -> bool:
    done = subprocess.run(
        ["qemu-img", "info", str(built.path)], capture_output=True, text=True, check=False
    )
    return done.returncode != 0 and "log that needs to be replayed" in done.stderr


def test_qemu_notices_a_wrong_checksum(tmp_path: Path) -> None:
    """The damage that the builders make is damage for others, too."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", damaged=["header1", "header2"])
    done = subprocess.run(["qemu-img", "info", str(built.path)], capture_output=True, check=False)
    assert done.returncode != 0
