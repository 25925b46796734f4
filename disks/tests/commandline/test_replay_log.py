"""`disk replay-log`: what waits is told, written into its place, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from disks.tests.builders import (
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic,
    build_fixed_vhdx,
    seven_zip,
    seven_zip_sha256,
)
from disks.tests.commandline.running import Disk

WINDOWS_LOG = "3ba3b309425b7ff5e8e0199edceed95226250f880c53b24e8eae93865f3fad5e"


@pytest.fixture
def dirty(tmp_path: Path) -> BuiltVhdx:
    """A child whose block table is in its log only."""
    base = build_fixed_vhdx(tmp_path, "base.vhdx", content=[(8, b"\x11" * 512)])
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, content=[(3, b"\xa5" * 512)])
    child.move_into_log(child.table_offset)
    return child


def test_the_dry_run_says_what_waits_and_writes_nothing(disk: Disk, dirty: BuiltVhdx) -> None:
    before = dirty.path.read_bytes()
    outcome = disk.json("replay-log", dirty.path, "--dry-run")
    assert outcome.code == 0
    document = outcome.document
    assert (document["dry_run"], document["refused"]) == (True, None)
    assert (document["log_entries"], document["log_updates"]) == (1, 1)
    assert document["bytes_written"] == 4096
    assert [row["field"] for row in document["changes"]] == ["log", "block allocation table"]
    assert (
        "log (byte 1,048,576): 1 entry with 1 update"
        in disk("replay-log", dirty.path, "--dry-run").out
    )
    assert dirty.path.read_bytes() == before


def test_the_log_is_replayed_once_and_the_disk_stays_the_same(disk: Disk, dirty: BuiltVhdx) -> None:
    """bad-input C41: content and identity stay, the log is empty, the link leads on."""
    content = disk.json("hash", dirty.path).document
    was = disk.json("inspect", dirty.path).document
    assert was["write_refusal"]["code"] == "E_LOG"
    assert disk("replay-log", dirty.path).code == 0
    now = disk.json("inspect", dirty.path).document
    assert now["write_refusal"] is None
    for key in ("identity", "virtual_disk_id", "parent"):
        assert now[key] == was[key]
    assert disk.json("hash", dirty.path).document == content
    assert disk("check", dirty.path, "--deep", "--chain").code == 0
    again = disk.json("replay-log", dirty.path)
    assert (again.code, again.document["error"]["code"]) == (1, "E_NOTHING_TO_REPLAY")


def test_other_verbs_wait_for_it(disk: Disk, dirty: BuiltVhdx) -> None:
    for verb in (
        ("update-parent", dirty.path, "--parent", dirty.path.parent / "base.vhdx"),
        ("repair", dirty.path),
        ("create", dirty.path.parent / "grandchild.vhdx", "--parent", dirty.path),
    ):
        outcome = disk.json(*verb)
        assert (outcome.code, outcome.document["error"]["code"]) == (1, "E_LOG")


def test_a_vhd_has_no_log(disk: Disk, tmp_path: Path) -> None:
    built = build_dynamic(tmp_path, "a.vhd")
    outcome = disk.json("replay-log", built.path)
    assert outcome.document["error"]["code"] == "E_NOTHING_TO_REPLAY"


def test_a_log_that_windows_left_is_replayed(disk: Disk, corpus: Path, tmp_path: Path) -> None:
    """Where others read 1 GiB of zeros or refuse; the content hash is the known one throughout."""
    path = tmp_path / "left.vhdx"
    shutil.copyfile(next(corpus.rglob("vhdx-log-replay.vhdx")), path)
    assert disk.json("hash", path).document["sha256"] == WINDOWS_LOG
    identity = disk.json("inspect", path).document["identity"]
    done = disk.json("replay-log", path)
    assert (done.code, done.document["log_entries"]) == (0, 2)
    assert disk.json("hash", path).document["sha256"] == WINDOWS_LOG
    assert disk.json("inspect", path).document["identity"] == identity
    assert disk.json("check", path, "--deep").document["warnings"] == 0
    if seven_zip():
        assert seven_zip_sha256(path) == WINDOWS_LOG
