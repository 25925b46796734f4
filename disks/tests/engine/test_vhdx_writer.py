"""New VHDX files: zeros that take no room, large sectors, chunks, and a cut before the end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disks.engine import chain, formats
from disks.engine.check import check_image
from disks.engine.errors import ImageError, NotAnImage
from disks.engine.images import DiskType, Extent, Source
from disks.engine.new_image import NewImage
from disks.engine.parent_link import NewParent
from disks.tests.builders import (
    MIB,
    SECTOR,
    BuiltVhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
    seven_zip_sha256,
)
from disks.tests.builders.vhdx_parts import text_of
from disks.tests.engine.cutting import Recorder, cut_states
from disks.tests.engine.test_properties import DETERMINISTIC
from disks.tests.engine.world import World, create_file, examine, open_file

VHDX = formats.by_name("vhdx")
KINDS = [DiskType.FIXED, DiskType.DYNAMIC, DiskType.DIFFERENCING]
PER_BLOCK = 2 * MIB // SECTOR


@pytest.fixture
def base(tmp_path: Path) -> BuiltVhdx:
    return build_fixed_vhdx(tmp_path, "base.vhdx", size=6 * MIB, content=[(0, b"\7" * 6 * MIB)])


def child_of(base: BuiltVhdx, **options: Any) -> NewImage:
    parent = NewParent(
        base.identity, base.path.name, f".\\{base.path.name}", f"C:\\VMs\\{base.path.name}"
    )
    return NewImage(DiskType.DIFFERENCING, len(base.model), parent=parent, **options)


def extents(path: Path) -> list[Extent]:
    with open_file(path) as file:
        image = formats.open_image(file)
        return list(image.extents(0, image.virtual_size_bytes // SECTOR))


def test_stated_zeros_hide_the_parent_and_take_no_room(tmp_path: Path, base: BuiltVhdx) -> None:
    path = tmp_path / "child.vhdx"
    with create_file(path) as file:
        writer = VHDX.writer(file, child_of(base), blocks=1)
        writer.write(3, b"\1" * SECTOR)
        writer.hold_zeros(PER_BLOCK - 2, PER_BLOCK + 4)
        writer.finish()
        assert formats.open_image(file).blocks_allocated() == 2
    assert [(one.first_sector, one.count_sectors, one.source) for one in extents(path)] == [
        (0, 3, Source.PARENT),
        (3, 1, Source.DATA),
        (4, PER_BLOCK - 6, Source.PARENT),
        (PER_BLOCK - 2, 2, Source.DATA),
        (PER_BLOCK, PER_BLOCK, Source.ZERO),
        (2 * PER_BLOCK, 2, Source.DATA),
        (2 * PER_BLOCK + 2, PER_BLOCK - 2, Source.PARENT),
    ]
    model = bytearray(base.model)
    model[3 * SECTOR : 4 * SECTOR] = b"\1" * SECTOR
    model[(PER_BLOCK - 2) * SECTOR : (2 * PER_BLOCK + 2) * SECTOR] = bytes((PER_BLOCK + 4) * SECTOR)
    with chain.open_chain(str(path), World(tmp_path)) as opened:
        assert opened.read(0, opened.sectors) == bytes(model)
        assert seven_zip_sha256(path) == opened.sha256()
    assert examine(path).findings == []


@pytest.mark.parametrize("kind", [DiskType.FIXED, DiskType.DYNAMIC])
def test_stated_zeros_without_a_parent(tmp_path: Path, kind: DiskType) -> None:
    """A fixed disk keeps all of its blocks: they are zeros from the beginning."""
    path = tmp_path / "a.vhdx"
    with create_file(path) as file:
        writer = VHDX.writer(file, NewImage(kind, 6 * MIB), blocks=3)
        writer.write(0, b"\1" * SECTOR)
        writer.hold_zeros(1, 2 * PER_BLOCK + 7)
        writer.write(2 * PER_BLOCK + 8, b"\2" * SECTOR)
        writer.finish()
        image = formats.open_image(file)
        assert image.blocks_allocated() == (3 if kind is DiskType.FIXED else 2)
    model = bytearray(6 * MIB)
    model[:SECTOR] = b"\1" * SECTOR
    at = (2 * PER_BLOCK + 8) * SECTOR
    model[at : at + SECTOR] = b"\2" * SECTOR
    with chain.open_chain(str(path), World(tmp_path)) as opened:
        assert opened.read(0, opened.sectors) == bytes(model)
    assert examine(path).findings == []


def test_full_blocks_need_no_bitmap(tmp_path: Path, base: BuiltVhdx) -> None:
    path = tmp_path / "child.vhdx"
    with create_file(path) as file:
        writer = VHDX.writer(file, child_of(base), blocks=3)
        writer.write(0, b"\1" * 2 * 2 * MIB)
        writer.finish()
        assert file.size_bytes == 4 * MIB + 2 * 2 * MIB
    assert [one.source for one in extents(path)] == [Source.DATA, Source.PARENT]
    assert examine(path).findings == []
    assert seven_zip_sha256(path)


def test_large_sectors_are_held_whole(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", logical_sector=4096, size=4 * MIB, content=[(0, b"\7" * 4 * MIB)]
    )
    path = tmp_path / "child.vhdx"
    with create_file(path) as file:
        new = child_of(base, logical_sector_bytes=4096, virtual_disk_id=text_of(base.disk_id))
        writer = VHDX.writer(file, new, blocks=1)
        writer.write(8, b"\1" * 4096)
        for first, count in ((17, 8), (24, 7)):
            with pytest.raises(ValueError, match="4,096"):
                writer.write(first, b"\1" * count * SECTOR)
        writer.write(24, b"\2" * 2 * 4096)
        writer.finish()
        image = formats.open_image(file)
        assert image.logical_sector_bytes == 4096
        assert image.child_traits() == formats.open_image(open_file(base.path)).child_traits()
    with chain.open_chain(str(path), World(tmp_path)) as opened:
        assert opened.read(7, 34) == (
            b"\7" * SECTOR + b"\1" * 4096 + b"\7" * 4096 + b"\2" * 8192 + b"\7" * SECTOR
        )
        assert opened.sha256() == seven_zip_sha256(path)
    assert examine(path).findings == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_a_cut_in_finish_leaves_no_disk_or_all_of_it(
    tmp_path: Path, base: BuiltVhdx, kind: DiskType, seed: int
) -> None:
    """bad-input F86: nothing is recognised before all of it is durable."""
    path = tmp_path / "a.vhdx"
    new = child_of(base) if kind is DiskType.DIFFERENCING else NewImage(kind, 6 * MIB)
    with create_file(path) as file:
        writer = VHDX.writer(file, new, blocks=2)
        writer.write(0, b"\1" * 2 * MIB)
        writer.write(PER_BLOCK + 5, b"\2" * SECTOR)
        before = path.read_bytes()
        with Recorder(path) as recorder:
            writer.finish()
    finished = path.read_bytes()
    with chain.open_chain(str(path), World(tmp_path)) as opened:
        content = opened.sha256()
    path.write_bytes(before[: len(finished)])
    found = {"none": 0, "all": 0}
    for _ in cut_states(path, recorder.steps, seed):
        with open_file(path) as file:
            try:
                formats.open_image(file)
                sound = True
            except NotAnImage:
                sound = False
        if sound:
            with chain.open_chain(str(path), World(tmp_path)) as opened:
                assert opened.sha256() == content
        found["all" if sound else "none"] += 1
    assert found["none"] > 8
    assert path.read_bytes() == finished


def test_what_a_chain_has_in_common_is_copied(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx", physical_sector=512)
    with open_file(base.path) as file:
        traits = formats.open_image(file).child_traits()
    assert traits["virtual_disk_id"] == text_of(base.disk_id)
    with create_file(tmp_path / "child.vhdx") as file:
        writer = VHDX.writer(file, child_of(base, **traits), blocks=0)
        writer.finish()
        image = formats.open_image(file)
        assert image.virtual_disk_id == text_of(base.disk_id)
        assert image.identity == writer.identity != base.identity
        shown = dict(image.properties())
        assert shown["Physical sector size"] == "512 bytes"


def test_the_locator_names_the_paths_as_windows_does(tmp_path: Path, base: BuiltVhdx) -> None:
    with create_file(tmp_path / "child.vhdx") as file:
        VHDX.writer(file, child_of(base), blocks=0).finish()
        parent = formats.open_image(file).parent
    assert parent is not None
    assert parent.identity == base.identity
    assert {one.code: one.path for one in parent.locators} == {
        "parent_linkage": f"{{{base.identity}}}",
        "absolute_win32_path": "C:\\VMs\\base.vhdx",
        "relative_path": ".\\base.vhdx",
    }


def test_blocks_far_apart_have_bitmaps_of_their_chunks(tmp_path: Path) -> None:
    """A disk of three chunks (12 GiB); the middle one has nothing partial."""
    size = 12 * 1024 * MIB
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", size=size)
    chunk = 2**23
    path = tmp_path / "child.vhdx"
    with create_file(path) as file:
        writer = VHDX.writer(file, child_of(base), blocks=4)
        writer.write(chunk - 1, b"\1" * SECTOR)
        writer.write(chunk, b"\2" * 2 * MIB)
        writer.hold_zeros(chunk + PER_BLOCK, PER_BLOCK)
        writer.write(3 * chunk - 2, b"\3" * 2 * SECTOR)
        writer.finish()
        assert file.size_bytes == VHDX.predicted_size_bytes(child_of(base), 3) - MIB
        assert check_image(file, deep=True) == []
    sources = [(one.first_sector, one.count_sectors, one.source) for one in extents(path)]
    assert [one for one in sources if one[2] is not Source.PARENT] == [
        (chunk - 1, 1, Source.DATA),
        (chunk, PER_BLOCK, Source.DATA),
        (chunk + PER_BLOCK, PER_BLOCK, Source.ZERO),
        (3 * chunk - 2, 2, Source.DATA),
    ]


@DETERMINISTIC
@given(data=st.data())
def test_writing_agrees_with_a_model(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Writes and stated zeros in any order of lengths, both sector sizes, over a full parent."""
    folder = tmp_path_factory.mktemp("writer")
    logical = data.draw(st.sampled_from([512, 4096]))
    step = logical // SECTOR
    sectors = data.draw(st.integers(1, 6000 // step)) * 2 * step
    numbers = random.Random(data.draw(st.integers(0, 2**32)))
    base = build_fixed_vhdx(
        folder, "base.vhdx", size=sectors * SECTOR, logical_sector=logical, block_size=MIB,
        content=[(0, b"\7" * sectors * SECTOR)],
    )  # fmt: skip
    model = bytearray(base.model)
    new = child_of(
        base, logical_sector_bytes=logical, virtual_disk_id=text_of(base.disk_id),
        block_size_bytes=data.draw(st.sampled_from([1, 2, 4])) * MIB,
    )  # fmt: skip
    path = folder / "child.vhdx"
    with create_file(path) as file:
        writer = VHDX.writer(file, new, blocks=data.draw(st.sampled_from([0, 1, 20])))
        position = 0
        while position < sectors:
            gap = data.draw(st.sampled_from([0, 0, 1, 5, 2048 // step, 3000 // step])) * step
            count = data.draw(st.sampled_from([1, 3, 100, 2048 // step, 5000 // step])) * step
            first = position + gap
            count = min(count, sectors - first)
            if count <= 0:
                break
            place = slice(first * SECTOR, (first + count) * SECTOR)
            if data.draw(st.booleans()):
                writer.hold_zeros(first, count)
                model[place] = bytes(count * SECTOR)
            else:
                piece = numbers.randbytes(count * SECTOR)
                writer.write(first, piece)
                model[place] = piece
            position = first + count
        writer.finish()
        assert check_image(file, deep=True) == []
    with chain.open_chain(str(path), World(folder)) as opened:
        assert opened.read(0, sectors) == bytes(model)
        assert seven_zip_sha256(path) == opened.sha256()
    for one in folder.iterdir():
        one.unlink()


def test_a_name_that_no_locator_can_hold_is_refused(tmp_path: Path, base: BuiltVhdx) -> None:
    parent = NewParent(base.identity, "b", ".\\bytes\udcff.vhdx", None)
    new = NewImage(DiskType.DIFFERENCING, 6 * MIB, parent=parent)
    with create_file(tmp_path / "a.vhdx") as file:
        with pytest.raises(ImageError) as caught:
            VHDX.writer(file, new, blocks=0)
        assert caught.value.code == "E_NAME"
        assert file.size_bytes == 0
