"""Rewriting a parent link: nothing else changes, every prefix opens, and it comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from disks.engine import chain, formats
from disks.engine.changes import HeaderRewrite
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.images import Image
from disks.engine.parent_link import NewParent
from disks.tests.builders import MIB, Built, build_differencing, build_dynamic, build_fixed
from disks.tests.engine.world import World, examine, open_file

CONTENT = [(0, b"\1" * 1024), (4090, b"\2" * 5120)]


@pytest.fixture
def base(tmp_path: Path) -> Built:
    return build_fixed(tmp_path, "base.vhd", size=4 * MIB, content=[(7, b"\7" * 4096)])


@pytest.fixture(params=["windows", "packed"])
def child(request: pytest.FixtureRequest, tmp_path: Path, base: Built) -> Built:
    return build_differencing(tmp_path, "child.vhd", base, content=CONTENT, layout=request.param)


@pytest.fixture
def file(child: Built) -> Iterator[ImageFile]:
    with open_file(child.path, writable=True) as opened:
        yield opened


def apply(file: ImageFile, rewrite: HeaderRewrite) -> Image:
    for step in rewrite.steps:
        for write in step:
            file.write_at(write.offset, write.data)
    assert file.size_bytes == rewrite.size_after_bytes
    return formats.open_image(file)


def new_parent(base: Built, *, deep: int = 0, windows: str | None = "D:\\b.vhd") -> NewParent:
    return NewParent(base.identity, "b.vhd", ".\\" + "d\\" * deep + "b.vhd", windows)


def texts(image: Image) -> list[tuple[str, str | None]]:
    parent = image.parent
    assert parent is not None
    return [(one.code, one.path) for one in parent.locators]


@pytest.mark.parametrize("deep", [0, 300, 3000])
def test_only_the_parent_fields_change(
    child: Built, base: Built, file: ImageFile, tmp_path: Path, deep: int
) -> None:
    before = child.path.read_bytes()
    parent = new_parent(base, deep=deep)
    image = apply(file, formats.open_image(file).plan_parent_link(parent))
    assert texts(image) == [("W2ru", parent.relative_path), ("W2ku", "D:\\b.vhd")]
    after = child.path.read_bytes()
    assert after[-512:] == before[-512:]
    assert after[:512] == before[:512]
    changed = {at for at in range(512, 1536) if after[at] != before[at]}
    allowed = {*range(512 + 36, 512 + 60), *range(512 + 64, 512 + 768)}
    assert changed <= allowed
    table = slice(child.table_offset, child.table_offset + 512)
    assert after[table] == before[table]
    for offset in child.blocks.values():
        block = slice(offset, offset + 512 + child.block_size)
        assert after[block] == before[block]
    assert [f for f in check_image(file, deep=True) if f.level == "error"] == []
    (tmp_path / "b.vhd").write_bytes(base.path.read_bytes())
    if deep == 0:
        with chain.open_chain(str(child.path), World(tmp_path)) as opened:
            assert opened.paths[1] == str(tmp_path / "b.vhd")
            assert opened.sha256() == child.sha256


@pytest.mark.parametrize("deep", [0, 3000])
def test_every_prefix_of_the_steps_opens(child: Built, base: Built, deep: int) -> None:
    """Whatever step power is lost after: the old link or the new one, never none."""
    with open_file(child.path) as file:
        rewrite = formats.open_image(file).plan_parent_link(new_parent(base, deep=deep))
        old = texts(formats.open_image(file))
    whole = child.path.read_bytes()
    for count in range(len(rewrite.steps)):
        child.path.write_bytes(whole)
        with open_file(child.path, writable=True) as file:
            for step in rewrite.steps[:count]:
                for write in step:
                    file.write_at(write.offset, write.data)
            image = formats.open_image(file)
            assert texts(image) == old
            assert image.write_refusal is None
            assert [f for f in check_image(file) if f.level == "error"] == []


def test_strings_in_use_are_never_overwritten(child: Built, base: Built, file: ImageFile) -> None:
    image = formats.open_image(file)
    live = [child.locators[code] for code in ("W2ku", "W2ru")]
    for deep in (0, 300, 3000):
        rewrite = image.plan_parent_link(new_parent(base, deep=deep))
        for step in rewrite.steps[:-1]:
            for write in step:
                end = write.offset + len(write.data)
                for offset, length in live:
                    assert end <= offset or write.offset >= offset + length


@pytest.mark.parametrize("deep", [0, 300, 3000])
def test_undo_brings_the_header_back_byte_for_byte(
    child: Built, base: Built, file: ImageFile, deep: int
) -> None:
    before = child.path.read_bytes()
    image = formats.open_image(file)
    recorded = json.loads(json.dumps(image.recorded_link()))
    image = apply(file, image.plan_parent_link(new_parent(base, deep=deep)))
    image = apply(file, image.plan_recorded_link(recorded))
    assert child.path.read_bytes()[512:1536] == before[512:1536]
    assert image.recorded_link() == recorded


def test_undo_writes_strings_anew_where_the_old_ones_are_gone(
    child: Built, base: Built, file: ImageFile
) -> None:
    image = formats.open_image(file)
    recorded = image.recorded_link()
    old = texts(image)
    image = apply(file, image.plan_parent_link(new_parent(base)))
    offset, length = child.locators["W2ru"]
    file.write_at(offset, b"x" * length)
    rewrite = image.plan_recorded_link(recorded)
    image = apply(file, rewrite)
    assert texts(image) == old
    assert len(rewrite.steps) >= 2


def test_undo_after_the_guest_wrote_keeps_its_blocks(tmp_path: Path, base: Built) -> None:
    """A new block now lies where the appended string was: it is not taken for the string."""
    child = build_differencing(tmp_path, "child.vhd", base, layout="packed", content=CONTENT)
    with open_file(child.path, writable=True) as file:
        image = formats.open_image(file)
        image = apply(file, image.plan_parent_link(new_parent(base, deep=3000)))
        parent = image.parent
        assert parent is not None
        far = parent.locators[0].offset
        assert far >= child.footer_offset
        recorded = image.recorded_link()
        assert image.plan_recorded_link(recorded).steps[:-1] == ()
        # The header forgets the string; a block is put over its place.
        image = apply(file, image.plan_parent_link(new_parent(base)))
        entry = child.table_offset + 4
        footer = file.read_at(file.size_bytes - 512, 512)
        start = far // 512
        file.write_at(entry, start.to_bytes(4))
        file.write_at(far + 512 + 2 * MIB, footer)
        image = formats.open_image(file)
        rewrite = image.plan_recorded_link(recorded)
        for step in rewrite.steps[:-1]:
            for write in step:
                end = write.offset + len(write.data)
                assert end <= far or write.offset >= far + 512 + 2 * MIB


def test_locators_that_cannot_be_computed_are_removed(tmp_path: Path, base: Built) -> None:
    child = build_differencing(
        tmp_path,
        "child.vhd",
        base,
        locators={"W2ku": "C:\\a.vhd", "MacX": "file://./a.vhd", "W2ru": ".\\a.vhd"},
    )
    with open_file(child.path, writable=True) as file:
        rewrite = formats.open_image(file).plan_parent_link(new_parent(base, windows=None))
        changes = {change.field: (change.now, change.after) for change in rewrite.changes}
        assert changes == {
            "parent_unicode_name": ("C:\\VMs\\base.vhd", "b.vhd"),
            "parent_locator W2ru": (".\\a.vhd", ".\\b.vhd"),
            "parent_locator W2ku": ("C:\\a.vhd", None),
            "parent_locator MacX": ("./a.vhd", None),
        }
        assert texts(apply(file, rewrite)) == [("W2ru", ".\\b.vhd")]


def test_a_disk_without_a_gap_grows_with_its_footer_first(tmp_path: Path, base: Built) -> None:
    child = build_differencing(tmp_path, "child.vhd", base, layout="packed", content=CONTENT)
    with open_file(child.path, writable=True) as file:
        old_size = file.size_bytes
        rewrite = formats.open_image(file).plan_parent_link(new_parent(base))
        (moved,), strings, header = rewrite.steps
        assert moved.offset == old_size
        assert moved.data[-512:] == child.path.read_bytes()[-512:]
        assert strings[0].offset == old_size - 512
        assert [write.offset for write in header] == [512]
        apply(file, rewrite)
        assert file.stat().st_blocks * 512 >= file.size_bytes
        assert [f for f in check_image(file, deep=True) if f.level != "note"] == []


def test_a_511_byte_footer_moves_as_it_is(tmp_path: Path, base: Built) -> None:
    child = build_differencing(
        tmp_path, "child.vhd", base, layout="packed", content=CONTENT, footer_length=511
    )
    with open_file(child.path, writable=True) as file:
        image = apply(file, formats.open_image(file).plan_parent_link(new_parent(base)))
        assert file.size_bytes % 512 == 511
        assert image.write_refusal is None
        assert texts(image)[0] == ("W2ru", ".\\b.vhd")


def test_identity_and_time_of_the_parent_are_written(
    child: Built, base: Built, file: ImageFile
) -> None:
    when = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
    identity = "01234567-89ab-cdef-0123-456789abcdef"
    parent = NewParent(identity, "neu ß 💽.vhd", ".\\neu ß 💽.vhd", None, when)
    image = apply(file, formats.open_image(file).plan_parent_link(parent))
    reference = image.parent
    assert reference is not None
    assert (reference.identity, reference.name, reference.timestamp) == (
        identity,
        "neu ß 💽.vhd",
        when,
    )
    assert texts(image) == [("W2ru", ".\\neu ß 💽.vhd")]


@pytest.mark.parametrize("name", ["n" * 256, "", "a\0b", "bytes\udcff.vhd"])
def test_names_that_do_not_fit_are_refused(child: Built, base: Built, name: str) -> None:
    with open_file(child.path) as file:
        image = formats.open_image(file)
        with pytest.raises(ImageError) as caught:
            image.plan_parent_link(NewParent(base.identity, name, ".\\b.vhd", None))
    assert caught.value.code == "E_NAME"


def test_refusals(tmp_path: Path, base: Built) -> None:
    saved = build_differencing(tmp_path, "saved.vhd", base, footer={"saved_state": 1})
    with open_file(saved.path) as file, pytest.raises(ImageError, match="E_SAVED_STATE"):
        formats.open_image(file).plan_parent_link(new_parent(base))
    dynamic = build_dynamic(tmp_path, "dynamic.vhd")
    for call in ("plan_parent_link", "plan_recorded_link"):
        with open_file(dynamic.path) as file, pytest.raises(ImageError) as caught:
            getattr(formats.open_image(file), call)({})
        assert caught.value.code == "E_NOT_DIFFERENCING"
    with open_file(dynamic.path) as file, pytest.raises(ImageError, match="E_NOT_DIFFERENCING"):
        formats.open_image(file).recorded_link()


def test_a_tdbatmap_is_not_written_over(tmp_path: Path, base: Built) -> None:
    child = build_differencing(
        tmp_path,
        "child.vhd",
        base,
        content=CONTENT,
        footer={"creator": b"tap\0", "creator_version": 0x00010003},
    )
    map_at = child.table_offset + 1024
    header = b"tdbatmap" + map_at.to_bytes(8) + (1).to_bytes(4) + (0x10002).to_bytes(4)
    child.patch(child.table_offset + 512, header + b"\xff" * 4)
    assert examine(child.path).errors == set()
    with open_file(child.path, writable=True) as file:
        rewrite = formats.open_image(file).plan_parent_link(new_parent(base, deep=900))
        for step in rewrite.steps[:-1]:
            for write in step:
                end = write.offset + len(write.data)
                assert end <= child.table_offset or write.offset >= map_at + 512


def test_a_link_of_windows_comes_back(corpus: Path, tmp_path: Path) -> None:
    folder = corpus / "windows-ntfs"
    for name in ("ntfs-differential.vhd", "ntfs-parent.vhd"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "ntfs-differential.vhd"
    before = path.read_bytes()
    with open_file(path, writable=True) as file:
        image = formats.open_image(file)
        reference = image.parent
        assert reference is not None
        recorded = image.recorded_link()
        parent = NewParent(reference.identity, "p.vhd", "..\\x\\p.vhd", "\\\\nas\\vms\\x\\p.vhd")
        image = apply(file, image.plan_parent_link(parent))
        assert file.size_bytes == len(before)  # Windows leaves room for longer paths
        assert [f for f in check_image(file, deep=True) if f.level == "error"] == []
        apply(file, image.plan_recorded_link(recorded))
    with chain.open_chain(str(path), World(tmp_path)) as opened:
        assert opened.sha256().startswith("b7922a46")
    assert path.read_bytes()[512:1536] == before[512:1536]
