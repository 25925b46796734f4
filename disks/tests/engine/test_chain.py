"""Rings, depth, and storage that fails while a chain is read."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import pytest

from disks.engine import chain
from disks.engine.check import check_link
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.tests.builders import (
    FAMILIES,
    MIB,
    VHD,
    Built,
    Family,
    build_differencing,
    build_fixed,
)
from disks.tests.engine.world import World, open_file


def ring_of(family: Family, folder: Path, count: int) -> list[Built]:
    """count differencing disks, each the parent of the one before, the last of the first."""
    disks = []
    first_id = os.urandom(16)
    above = family.built(folder / family.file("disk0"), first_id, bytearray(8192))
    for index in range(count - 1, -1, -1):
        unique_id = first_id if index == 0 else os.urandom(16)
        name = family.file(f"disk{index}")
        above = family.differencing(folder, name, above, unique_id=unique_id, **family.cheapest)
        disks.append(above)
    return disks[::-1]


def test_d51_a_disk_that_is_its_own_parent(tmp_path: Path, family: Family) -> None:
    """bad-input D51: seen in the header, without opening anything else."""
    (disk,) = ring_of(family, tmp_path, 1)
    world = World(tmp_path)
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(disk.path), world)
    assert caught.value.code == "E_CYCLE"
    assert world.opened == [str(disk.path)]
    links = list(chain.walk(str(disk.path), World(tmp_path)))
    assert [str(link.resolution.status) for link in links if link.resolution] == ["cycle"]


def test_d51_a_link_that_leads_back_to_the_file_itself(tmp_path: Path, family: Family) -> None:
    """bad-input D51: another identity, but the path of the child."""
    base = family.fixed(tmp_path, family.file("base"), size=MIB)
    own = f".\\{family.file('child')}"
    child = family.differencing(
        tmp_path, family.file("child"), base, **family.naming(base, relative=own)
    )
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), World(tmp_path))
    assert caught.value.code == "E_CYCLE"


@pytest.mark.parametrize("count", [2, 100])
def test_d52_rings_are_listed(tmp_path: Path, family: Family, count: int) -> None:
    """bad-input D52."""
    disks = ring_of(family, tmp_path, count)
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(disks[0].path), World(tmp_path))
    assert caught.value.code == "E_CYCLE"
    ring = [str(disk.path) for disk in disks] + [str(disks[0].path)]
    assert caught.value.value == " → ".join(ring)
    links = list(chain.walk(str(disks[0].path), World(tmp_path)))
    assert len(links) == count + 1
    assert links[-1].error is not None
    assert links[-1].error.code == "E_CYCLE"


def test_d52_a_ring_that_does_not_contain_the_leaf(tmp_path: Path, family: Family) -> None:
    """bad-input D52."""
    disks = ring_of(family, tmp_path, 3)
    leaf = family.differencing(tmp_path, family.file("leaf"), disks[0], **family.cheapest)
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(leaf.path), World(tmp_path))
    assert caught.value.code == "E_CYCLE"
    ring = [str(disk.path) for disk in disks] + [str(disks[0].path)]
    assert caught.value.value == " → ".join(ring)


def level(family: Family, folder: Path, number: int) -> Built:
    """One disk of a long chain; its parent is number - 1, whether that is there or not."""
    options = {
        "content": [(number % 8, bytes([number % 256]) * 512)],
        "unique_id": (number + 1).to_bytes(16),
    }
    name = family.file(str(number))
    if number == 0:
        block_size = family.cheapest["block_size"]
        return family.dynamic(folder, name, size=4096, block_size=block_size, **options)
    above = folder / family.file(str(number - 1))
    parent = family.built(above, number.to_bytes(16), bytearray(4096))
    return family.differencing(folder, name, parent, **options, **family.cheapest)


class Growing(World):
    """A folder whose chain comes into being, disk by disk, as it is looked at."""

    def __init__(self, root: Path, family: Family) -> None:
        super().__init__(root)
        self.family = family

    def open(self, path: str) -> ImageFile:
        if not os.path.exists(path):
            level(self.family, self.root, int(Path(path).stem))
        return super().open(path)


@pytest.mark.parametrize("depth", [31, 256])
def test_d53_long_chains_read_right(tmp_path: Path, family: Family, depth: int) -> None:
    """bad-input D53."""
    model = bytearray(4096)
    for number in range(depth):
        at = number % 8 * 512
        model[at : at + 512] = bytes([number % 256]) * 512
    leaf = str(tmp_path / family.file(str(depth - 1)))
    with chain.open_chain(leaf, Growing(tmp_path, family)) as opened:
        assert len(opened.images) == depth
        assert opened.read(0, 8) == bytes(model)
        assert [finding.code for finding in opened.findings] == ["W_CHAIN_DEPTH"]


def test_d53_five_thousand_levels_end_at_the_limit(tmp_path: Path, family: Family) -> None:
    """bad-input D53: no recursion, no end of file descriptors."""
    leaf = str(tmp_path / family.file("5000"))
    world = Growing(tmp_path, family)
    with pytest.raises(ImageError) as caught:
        chain.open_chain(leaf, world)
    assert (caught.value.code, caught.value.value) == ("E_CHAIN_DEPTH", 256)
    links = list(chain.walk(leaf, world))
    assert len(links) == 257
    assert links[-1].error is not None
    assert links[-1].error.code == "E_CHAIN_DEPTH"
    with pytest.raises(ImageError, match="E_CHAIN_DEPTH"):
        chain.open_chain(leaf, world, limit=300)


def test_d54_a_missing_parent_is_never_zeros(tmp_path: Path, family: Family) -> None:
    """bad-input D54: qemu reads zeros."""
    base = family.fixed(tmp_path, family.file("base"), size=MIB, content=[(0, b"\1" * MIB)])
    middle = family.differencing(tmp_path, family.file("middle"), base)
    leaf = family.differencing(tmp_path, family.file("leaf"), middle, content=[(0, b"\2" * MIB)])
    base.path.unlink()
    # Even though the leaf holds every sector: what the chain is cannot be told without it.
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(leaf.path), World(tmp_path))
    assert caught.value.code == "E_PARENT_MISSING"
    assert caught.value.file == str(middle.path)
    links = list(chain.walk(str(leaf.path), World(tmp_path)))
    assert [link.path for link in links] == [str(leaf.path), str(middle.path)]
    assert links[1].resolution is not None
    assert str(links[1].resolution.status) == "missing"


@pytest.mark.parametrize(
    ("size", "codes"), [(MIB // 2, {"E_PARENT_SIZE"}), (2 * MIB, {"W_PARENT_SIZE"}), (MIB, set())]
)
def test_d57_sizes_of_child_and_parent(
    tmp_path: Path, family: Family, size: int, codes: set[str]
) -> None:
    """bad-input D57: reading works with any size; block sizes may differ."""
    base = family.dynamic(tmp_path, family.file("base"), size=MIB, content=[(1, b"\1" * 1024)])
    child = family.differencing(
        tmp_path, family.file("child"), base, size=size, block_size=family.small
    )
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        assert opened.sha256() == child.sha256
        assert {f.code for f in check_link(opened.images[0], opened.images[1])} == codes


def test_d58_a_recorded_time_that_differs_is_a_note(tmp_path: Path) -> None:
    """bad-input D58, the engine's part: a timestamp never blocks."""
    base = build_fixed(tmp_path, "base.vhd", size=MIB)
    child = build_differencing(tmp_path, "child.vhd", base, parent_timestamp=12345)
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        (finding,) = check_link(opened.images[0], opened.images[1])
        assert (str(finding.level), finding.code) == ("note", "N_PARENT_TIMESTAMP")


def test_d59_a_fixed_parent_is_fine(tmp_path: Path, family: Family) -> None:
    """bad-input D59; raw parents are refused in test_bad_fields (A8)."""
    base = family.fixed(tmp_path, family.file("base"), size=MIB, content=[(5, b"\1" * 512)])
    child = family.differencing(tmp_path, family.file("child"), base, content=[(6, b"\2" * 512)])
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        assert opened.sha256() == child.sha256


@pytest.mark.parametrize("name", ["qcow2", "raw"])
def test_d59_a_parent_of_a_format_that_is_not_read(
    tmp_path: Path, family: Family, name: str
) -> None:
    """bad-input D59."""
    base = family.fixed(tmp_path, family.file("base"), size=MIB)
    child = family.differencing(tmp_path, family.file("child"), base)
    base.path.write_bytes(b"QFI\xfb" * 200 if name == "qcow2" else bytes(MIB))
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), World(tmp_path))
    assert caught.value.code == "E_PARENT_UNREADABLE"
    assert ("qcow2" in caught.value.message) == (name == "qcow2")


@pytest.mark.parametrize("same", [False, True])
def test_d59_a_parent_of_another_format_is_refused(
    tmp_path: Path, family: Family, same: bool
) -> None:
    """bad-input D59: under the name that the child gives, even with the very same identity."""
    base = family.fixed(tmp_path, family.file("base"), size=MIB)
    child = family.differencing(tmp_path, family.file("child"), base)
    (stranger,) = (one for one in FAMILIES if one is not family)
    identity = uuid.UUID(base.identity)
    stored = identity.bytes if stranger is VHD else identity.bytes_le
    other = stranger.fixed(tmp_path, "other", size=MIB, unique_id=stored if same else None)
    assert (other.identity == base.identity) == same
    other.path.rename(base.path)
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), World(tmp_path))
    assert caught.value.code == ("E_PARENT_FORMAT" if same else "E_PARENT_IDENTITY")


def test_a_storage_error_names_the_sector(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F83, the engine's part: the LBA is named, nothing is filled with zeros."""
    base = family.fixed(tmp_path, family.file("base"), size=4 * MIB, content=[(0, b"\1" * 4 * MIB)])
    child = family.differencing(tmp_path, family.file("child"), base, content=[(10, b"\2" * 512)])
    original = ImageFile.read_into
    bad = 1_500_000 // 512
    start = base.blocks.get(0, 0)  # a fixed VHD has no blocks: its content starts the file

    def failing(self: ImageFile, offset: int, buffer: memoryview) -> None:
        at = start + bad * 512
        if self.path == str(base.path) and offset <= at < offset + len(buffer):
            failure = OSError(errno.EIO, "Input/output error")
            raise self._failed(failure, at, "read") from failure
        original(self, offset, buffer)

    monkeypatch.setattr(ImageFile, "read_into", failing)
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        for read in (opened.sha256, lambda: opened.read(11, 5000)):
            with pytest.raises(ImageError) as caught:
                read()
            assert (caught.value.code, caught.value.value) == ("E_IO", bad)
            assert f"Sector (LBA) {bad:,}" in caught.value.message
            assert caught.value.file == str(base.path)


def test_a_bitmap_that_cannot_be_read_names_the_sector(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F83, the engine's part."""
    base = family.dynamic(tmp_path, family.file("base"))
    built = family.differencing(tmp_path, family.file("a"), base, content=[(4096, b"\2" * 512)])
    # VHD: in front of the block; VHDX: the second slice of the chunk's bitmap.
    bitmap = built.blocks[1] if family.name == "vhd" else built.bitmaps[0] + 512
    original = ImageFile.read_at

    def failing(self: ImageFile, offset: int, length: int) -> bytes:
        if self.path == str(built.path) and offset <= bitmap < offset + length:
            failure = OSError(errno.EIO, "Input/output error")
            raise self._failed(failure, bitmap, "read") from failure
        return original(self, offset, length)

    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        monkeypatch.setattr(ImageFile, "read_at", failing)
        with pytest.raises(ImageError) as caught:
            opened.sha256()
    assert (caught.value.code, caught.value.value) == ("E_IO", 4096)


def test_files_are_closed_after_a_failure(tmp_path: Path, family: Family) -> None:
    base = family.fixed(tmp_path, family.file("base"), size=MIB)
    middle = family.differencing(tmp_path, family.file("middle"), base)
    leaf = family.differencing(tmp_path, family.file("leaf"), middle)
    base.path.unlink()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ImageError):
            chain.open_chain(str(leaf.path), World(tmp_path))
        list(chain.walk(str(leaf.path), World(tmp_path)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_stopping_report_stops_the_hash(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    built = build_fixed(tmp_path, "a.vhd", size=32 * MIB)
    calls = []

    def report(done: int, total: int) -> None:
        calls.append((done, total))
        if done >= 8 * MIB:
            raise Stop

    with (
        chain.open_chain(str(built.path), World(tmp_path)) as opened,
        pytest.raises(Stop),
    ):
        opened.sha256(report)
    assert calls == [(4 * MIB, 32 * MIB), (8 * MIB, 32 * MIB)]


def test_open_file_is_used_by_tests_only_for_reading(tmp_path: Path) -> None:
    built = build_fixed(tmp_path, "a.vhd", size=MIB)
    with open_file(built.path) as file, pytest.raises(ImageError) as caught:
        file.write_at(0, b"x")
    assert caught.value.code == "E_IO"
