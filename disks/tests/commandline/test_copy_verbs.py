"""`disk merge`, `compact`, `convert` and `create`: the contract's keys, exit codes and usage."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from disks.operations.storage_roots import TRASH_FOLDER
from disks.tests.builders import build_differencing, build_dynamic
from disks.tests.commandline.running import Disk
from disks.tests.operations import worlds
from disks.tests.operations.worlds import BLOCK, chain, content_of, noise, zeros

KEYS = {
    "output",
    "virtual_size_bytes",
    "file_size_before_bytes",
    "file_size_after_bytes",
    "bytes_written",
    "seconds",
    "copy_seconds",
    "proof_seconds",
    "content_sha256",
}
DRY_KEYS = {"free_space_needed_bytes", "affected_children", "refused"}


# The peak of this process alone: after a fork, rusage counts the parent's memory as well.
MEASURED = """
import contextlib, io, sys
from disks.commandline import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["merge", sys.argv[1], "--to", sys.argv[2], "--json"]) == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture
def world(tmp_path: Path) -> worlds.World:
    return chain(tmp_path)


def test_merge_to_new_gives_the_keys_of_the_contract(disk: Disk, world: worlds.World) -> None:
    new = world.path("new.vhd")
    dry = disk.json("merge", world.path("leaf.vhd"), "--to", new, "--dry-run")
    assert dry.code == 0
    assert dry.document.keys() >= KEYS | DRY_KEYS
    assert not os.path.exists(new)
    done = disk.json("merge", world.path("leaf.vhd"), "--to", new)
    assert done.code == 0
    assert done.document.keys() >= KEYS
    assert done.document["output"] == new
    assert done.document["file_size_after_bytes"] == os.path.getsize(new)
    assert content_of(new) == world.leaf.sha256


@pytest.mark.parametrize("options", [["--into-parent", "--copy"]])
def test_merge_into_the_parent(disk: Disk, world: worlds.World, options: list[str]) -> None:
    done = disk("merge", world.path("leaf.vhd"), *options, "--offline")
    assert done.code == 0
    assert "Test-VHD -Path" in done.out
    assert content_of(world.path("middle.vhd")) == world.leaf.sha256
    assert not world.leaf.path.exists()


def test_merge_down_to_a_base_under_the_childs_name(disk: Disk, world: worlds.World) -> None:
    base = world.path("base.vhd")
    leaf = world.path("leaf.vhd")
    done = disk.json(
        "merge", leaf, "--into-parent", "--copy", "--base", base, "--keep-name", "child"
    )
    assert done.document["output"] == leaf
    assert content_of(leaf) == world.leaf.sha256
    assert not world.base.path.exists()


def test_a_refused_dry_run_shows_its_document_and_exits_with_1(
    disk: Disk, world: worlds.World
) -> None:
    build_differencing(world.folder, "other.vhd", world.middle)
    before = worlds.snapshot(world.folder)
    dry = disk.json("merge", world.path("leaf.vhd"), "--into-parent", "--copy", "--dry-run")
    assert dry.code == 1
    assert dry.document["refused"]["code"] == "E_SIBLINGS"
    assert dry.document["refused"]["advice"].startswith("Merge to a new disk")
    assert dry.document["affected_children"] == [world.path("other.vhd")]
    assert dry.err.startswith("error: E_SIBLINGS: ")
    real = disk.json("merge", world.path("leaf.vhd"), "--into-parent", "--copy")
    assert real.code == 1
    assert real.document["error"]["code"] == "E_SIBLINGS"
    assert worlds.snapshot(world.folder) == before


def test_an_unreadable_disk_has_to_be_declared_by_name(disk: Disk, world: worlds.World) -> None:
    torn = world.folder / "torn.vhd"
    torn.write_bytes(b"conectix" + bytes(4096))
    merge = ("merge", world.path("leaf.vhd"), "--into-parent", "--copy", "--offline")
    dry = disk(*merge, "--dry-run")
    assert dry.code == 0
    assert f"cannot be read    {torn}: " in dry.out
    before = worlds.snapshot(world.folder)
    assert disk.json(*merge).document["error"]["code"] == "E_UNREAD_DISKS"
    assert worlds.snapshot(world.folder) == before
    assert disk(*merge, "--unrelated", torn).code == 0
    assert content_of(world.path("middle.vhd")) == world.leaf.sha256


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--to", "x.vhd", "--unrelated", "torn.vhd"],
        ["--into-parent", "--to", "x.vhd"],
        ["--to", "x.vhd", "--keep-name", "child"],
        ["--into-parent", "--type", "fixed"],
        ["--into-parent", "--copy", "--in-place"],
    ],
)
def test_merge_usage(disk: Disk, world: worlds.World, options: list[str]) -> None:
    assert disk("merge", world.path("leaf.vhd"), *options).code == 2


def test_merge_into_the_parent_is_in_place_by_default(disk: Disk, tmp_path: Path) -> None:
    world = worlds.chain(tmp_path)
    inode = world.middle.path.stat().st_ino
    dry = disk.json("merge", world.path("leaf.vhd"), "--into-parent", "--dry-run")
    assert dry.document["in_place"] is True
    assert dry.document["can_be_undone_until"] == "never"
    done = disk.json("merge", world.path("leaf.vhd"), "--into-parent")
    assert done.document["in_place"] is True
    assert done.document["bytes_written"] == dry.document["bytes_to_copy"]
    assert world.middle.path.stat().st_ino == inode
    assert worlds.content_of(world.middle.path) == world.leaf.sha256


@pytest.mark.parametrize("way", [[], ["--in-place"], ["--rewrite"]])
def test_compact_and_its_dry_run(disk: Disk, tmp_path: Path, way: list[str]) -> None:
    built = build_dynamic(
        tmp_path, "d.vhd", size=4 * BLOCK, block_size=BLOCK, content=[(0, noise(1, 3)),
        (32, zeros(96))],
    )  # fmt: skip
    size, inode = built.path.stat().st_size, built.path.stat().st_ino
    dry = disk.json("compact", built.path, *way, "--dry-run")
    assert dry.document.keys() >= KEYS | DRY_KEYS
    assert dry.document["refused"] is None
    assert built.path.stat().st_size == size
    done = disk.json("compact", built.path, *way)
    assert done.document.keys() >= KEYS
    assert done.document["file_size_before_bytes"] == size
    assert done.document["file_size_after_bytes"] == dry.document["file_size_after_bytes"] < size
    assert done.document["file_size_after_bytes"] == built.path.stat().st_size
    assert (built.path.stat().st_ino == inode) is (way != ["--rewrite"])
    assert content_of(built.path) == built.sha256
    again = disk("compact", built.path, *way)
    assert (again.code, "nothing to gain" in again.out) == (0, True)


def test_the_dry_run_says_why_the_rest_stays(disk: Disk, tmp_path: Path) -> None:
    base = build_dynamic(
        tmp_path, "base.vhd", size=8 * BLOCK, block_size=BLOCK, content=[(0, noise(1, 128))]
    )
    content = [(0, noise(2, 32)), (32, zeros(32)), (64, zeros(16) + noise(3, 16)), (160, zeros(32))]
    child = build_differencing(tmp_path, "child.vhd", base, content=content, allocate=[7])
    reasons = disk.json("compact", child.path, "--dry-run").document["reasons"]
    assert {row["verdict"]: (row["blocks"], row["goes"]) for row in reasons} == {
        "same": (1, True),
        "unwritten": (1, True),
        "data": (1, False),
        "partly-zero": (1, False),
        "hiding": (1, False),
    }
    text = disk("compact", child.path, "--dry-run").out
    assert (
        "2 of 5 blocks can go: 1 without a sector and 1 equal to what the parent gives; "
        "3 stay: 1 of data, 1 partly of zeros and 1 of zeros that hide the parent's data." in text
    )
    assert "space needed      none" in text


@pytest.mark.parametrize(
    ("output", "options", "described"),
    [
        ("new.vhd", [], ("vhd", "dynamic")),
        ("new.vhd", ["--type", "fixed"], ("vhd", "fixed")),
        ("new.avhd", ["--format", "vhd"], ("vhd", "dynamic")),
        ("new.img", [], ("raw", "fixed")),
    ],
)
def test_convert_gives_the_keys_of_the_contract(
    disk: Disk, world: worlds.World, output: str, options: list[str], described: tuple[str, str]
) -> None:
    leaf, new = world.path("leaf.vhd"), world.path(output)
    dry = disk.json("convert", leaf, new, *options, "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert dry.document.keys() >= KEYS | DRY_KEYS
    assert (dry.document["format"], dry.document["type"]) == described
    assert dry.document["refused"] is None
    assert not os.path.exists(new)
    done = disk.json("convert", leaf, new, *options)
    assert done.code == 0
    assert done.document.keys() >= KEYS
    assert done.document["output"] == new
    assert done.document["file_size_after_bytes"] == os.path.getsize(new)
    assert done.document["virtual_size_bytes"] == len(world.leaf.model)
    if described[0] == "raw":
        assert Path(new).read_bytes() == bytes(world.leaf.model)
    else:
        assert disk.json("inspect", new).document["type"] == described[1]
        assert disk.json("hash", new).document["sha256"] == world.leaf.sha256
    assert "Test-VHD" in disk("convert", leaf, world.path("again.vhd")).out


def test_convert_reads_a_plain_image_only_when_told(disk: Disk, tmp_path: Path) -> None:
    """bad-input A2: never guessed."""
    plain = tmp_path / "plain.raw"
    plain.write_bytes(noise(1, 100))
    new = tmp_path / "new.vhd"
    refused = disk.json("convert", plain, new)
    assert (refused.code, refused.document["error"]["code"]) == (1, "E_NO_FOOTER")
    done = disk.json("convert", plain, new, "--source-format", "raw")
    assert done.code == 0
    assert done.document["levels"] == [str(plain)]
    assert disk.json("hash", new).document["sha256"] == hashlib.sha256(noise(1, 100)).hexdigest()


def test_a_refused_convert_says_why_and_writes_nothing(disk: Disk, world: worlds.World) -> None:
    before = worlds.snapshot(world.folder)
    leaf = world.path("leaf.vhd")
    dry = disk.json("convert", leaf, world.path("base.vhd"), "--dry-run")
    assert (dry.code, dry.document["refused"]["code"]) == (1, "E_EXISTS")
    assert dry.err.startswith("error: E_EXISTS: ")
    real = disk.json("convert", leaf, world.path("base.vhd"))
    assert (real.code, real.document["error"]["code"]) == (1, "E_EXISTS")
    assert worlds.snapshot(world.folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["leaf.vhd"],
        ["leaf.vhd", "new.vhd", "--type", "differencing"],
        ["leaf.vhd", "new.vhd", "--format", "qcow2"],
        ["leaf.vhd", "new.vhd", "--source-format", "vhd"],
        ["leaf.vhd", "new.raw", "--type", "fixed"],
        ["leaf.vhd", "new", "--source-format", "raw"],
    ],
)
def test_convert_usage(disk: Disk, world: worlds.World, arguments: list[str]) -> None:
    paths = [each if each.startswith("-") or "." not in each else world.path(each)
             for each in arguments]  # fmt: skip
    outcome = disk("convert", *paths)
    assert (outcome.code, outcome.out) == (2, "")
    assert "usage:" in outcome.err


@pytest.mark.parametrize(
    ("size", "expected"), [("4096", 4096), ("64k", 65536), ("3M", 3 << 20), ("2G", 2 << 30)]
)
def test_create_understands_sizes(disk: Disk, tmp_path: Path, size: str, expected: int) -> None:
    outcome = disk.json("create", tmp_path / "n.vhd", "--size", size, "--type", "dynamic")
    assert outcome.code == 0
    assert outcome.document["virtual_size_bytes"] == expected
    found = disk.json("inspect", tmp_path / "n.vhd").document
    assert (found["type"], found["virtual_size_bytes"]) == ("dynamic", expected)


def test_create_by_extension_with_blocks_and_sectors(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "new.vhdx"
    outcome = disk(
        "create", path, "--size", "64M", "--type", "dynamic",
        "--block-size", "1M", "--sector-size", "4096",
    )  # fmt: skip
    assert (outcome.code, "VHDX, dynamic, 67,108,864 bytes" in outcome.out) == (0, True)
    document = disk.json("inspect", path).document
    assert (document["format"], document["block_size_bytes"]) == ("vhdx", 1024 * 1024)
    assert document["logical_sector_bytes"] == 4096
    assert document["virtual_disk_id"] is not None
    child = disk.json("create", tmp_path / "child.vhdx", "--parent", path)
    assert child.code == 0
    chain = disk.json("chain", tmp_path / "child.vhdx").document
    assert chain["status"] == "complete"
    assert {link["virtual_disk_id"] for link in chain["links"]} == {document["virtual_disk_id"]}


def test_create_makes_a_child_in_another_folder(disk: Disk, tmp_path: Path) -> None:
    base = build_dynamic(tmp_path, "base.vhd", size=BLOCK, block_size=BLOCK,
                         content=[(0, noise(1, 5))])  # fmt: skip
    (tmp_path / "sub").mkdir()
    child = tmp_path / "sub" / "child.vhd"
    assert disk.json("create", child, "--parent", base.path).code == 0
    found = disk.json("inspect", child, "--root", tmp_path).document["parent"]
    assert (found["status"], found["path"]) == ("found", str(base.path))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--size", "1M"],
        ["--size", "much", "--type", "fixed"],
        ["--parent", "p.vhd", "--type", "fixed"],
        ["--parent", "p.vhdx", "--sector-size", "4096"],
        ["--size", "1M", "--type", "dynamic", "--block-size", "big"],
        ["--size", "1M", "--type", "differencing"],
    ],
)
def test_create_usage(disk: Disk, tmp_path: Path, options: list[str]) -> None:
    assert disk("create", tmp_path / "n.vhd", *options).code == 2


def test_create_never_overwrites(disk: Disk, tmp_path: Path) -> None:
    base = build_dynamic(tmp_path, "base.vhd")
    before = base.path.read_bytes()
    outcome = disk.json("create", base.path, "--size", "1M", "--type", "fixed")
    assert (outcome.code, outcome.document["error"]["code"]) == (1, "E_EXISTS")
    assert base.path.read_bytes() == before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    """64 MiB whatever the size: 160 MiB of data go through a process that stays small."""
    size, piece = 160 * 1024 * 1024, noise(1, 4096)
    base = build_dynamic(
        tmp_path, "base.vhd", size=size,
        content=[(sector, piece) for sector in range(0, size // 512, 4096)],
    )  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(base.path), str(tmp_path / "new.vhd")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert int(run.stdout) < 64 * 1024
    assert content_of(tmp_path / "new.vhd") == base.sha256
    assert not (tmp_path / TRASH_FOLDER).exists()
