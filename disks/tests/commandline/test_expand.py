"""`disk expand`: dry run, expansion, refusals, as a script sees them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from disks.tests.builders import Built, build_differencing, build_dynamic, build_fixed
from disks.tests.commandline.running import Disk
from disks.tests.commandline.test_copy_verbs import DRY_KEYS, KEYS
from disks.tests.operations import worlds
from disks.tests.operations.worlds import BLOCK, KIB, content_of, noise

SIZE = 100 * KIB


@pytest.fixture
def base(tmp_path: Path) -> Built:
    return build_dynamic(
        tmp_path, "base.vhd", size=SIZE, block_size=BLOCK, content=[(3, noise(1, 90))]
    )


def test_the_dry_run_gives_the_keys_of_the_contract_and_writes_nothing(
    disk: Disk, base: Built
) -> None:
    before = base.path.read_bytes()
    dry = disk.json("expand", base.path, "--size", "64M", "--dry-run")
    assert (dry.code, "error" in dry.err) == (0, False)
    assert dry.document.keys() >= KEYS | DRY_KEYS
    assert dry.document["virtual_size_before_bytes"] == SIZE
    assert dry.document["virtual_size_bytes"] == 64 << 20
    assert dry.document["refused"] is None
    assert "current_size" in {row["field"] for row in dry.document["changes"]}
    text = disk("expand", base.path, "--size", "64M", "--dry-run").out
    assert "virtual size      102,400 → 67,108,864" in text
    assert "blocks in the table's way" in text
    assert base.path.read_bytes() == before


@pytest.mark.parametrize(
    ("size", "expected"), [("1M", 1 << 20), ("131072", 131072), ("2g", 2 << 30)]
)
def test_the_disk_is_larger_and_reads_as_before(
    disk: Disk, base: Built, size: str, expected: int
) -> None:
    dry = disk.json("expand", base.path, "--size", size, "--dry-run").document
    done = disk.json("expand", base.path, "--size", size)
    assert done.code == 0
    assert done.document.keys() >= KEYS
    assert done.document["file_size_after_bytes"] == dry["file_size_after_bytes"]
    assert os.path.getsize(base.path) == done.document["file_size_after_bytes"]
    found = disk.json("inspect", base.path).document
    assert (found["virtual_size_bytes"], found["identity"]) == (expected, base.identity)
    if expected < 1 << 24:
        model = bytes(base.model).ljust(expected, b"\0")
        assert disk.json("hash", base.path).document["sha256"] == hashlib.sha256(model).hexdigest()
    assert disk("check", base.path, "--deep").code == 0


def test_a_fixed_disk_says_what_to_do_next(disk: Disk, tmp_path: Path) -> None:
    built = build_fixed(tmp_path, "fixed.vhd", size=SIZE, content=[(0, noise(1, 5))])
    done = disk("expand", built.path, "--size", "1M")
    assert (done.code, "enlarge the partition" in done.out) == (0, True)
    assert os.path.getsize(built.path) == (1 << 20) + 512


def test_children_are_listed_and_must_be_named(disk: Disk, base: Built, tmp_path: Path) -> None:
    child = build_differencing(tmp_path, "child.vhd", base, content=[(9, noise(2, 1))])
    before = worlds.snapshot(tmp_path)
    dry = disk.json("expand", base.path, "--size", "1M", "--dry-run")
    assert (dry.code, dry.document["refused"]["code"]) == (1, "E_CHILDREN")
    assert dry.document["affected_children"] == [str(child.path)]
    assert "error: E_CHILDREN: " in dry.err
    real = disk.json("expand", base.path, "--size", "1M")
    assert (real.code, real.document["error"]["code"]) == (1, "E_CHILDREN")
    assert worlds.snapshot(tmp_path) == before
    assert disk("expand", base.path, "--size", "1M", "--breaks", child.path).code == 0
    assert content_of(child.path) == child.sha256


@pytest.mark.parametrize(
    ("size", "code"),
    [("1K", "E_SHRINK"), ("100K", "E_SHRINK"), ("200001", "E_SECTORS"), ("3T", "E_TOO_LARGE")],
)
def test_sizes_that_make_no_sense_are_refused(
    disk: Disk, base: Built, size: str, code: str
) -> None:
    outcome = disk.json("expand", base.path, "--size", size)
    assert (outcome.code, outcome.document["error"]["code"]) == (1, code)


def test_a_managed_disk_needs_offline(disk: Disk, base: Built) -> None:
    (base.path.parent / "base.vhd.mrt").write_bytes(b"")
    assert disk.json("expand", base.path, "--size", "1M").document["error"]["code"] == "E_MANAGED"
    assert disk("expand", base.path, "--size", "1M", "--offline").code == 0


@pytest.mark.parametrize(
    "arguments", [[], ["base.vhd"], ["base.vhd", "--size", "much"], ["--size", "1M"]]
)
def test_usage(disk: Disk, base: Built, arguments: list[str]) -> None:
    outcome = disk("expand", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
