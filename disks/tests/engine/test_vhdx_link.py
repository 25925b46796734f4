"""Rewriting the parent link of a VHDX: through the log, whole or not at all, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks.engine import chain, formats
from disks.engine.changes import HeaderRewrite
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.images import Image
from disks.engine.parent_link import NewParent
from disks.tests.builders import (
    MIB,
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
    seven_zip_sha256,
)
from disks.tests.builders.vhdx import windows_locator
from disks.tests.builders.vhdx_parts import HEADER_AT, ITEMS, guid
from disks.tests.engine.cutting import PAGE, cut_states
from disks.tests.engine.world import World, examine, open_file

CONTENT = [(0, b"\1" * 1024), (4090, b"\2" * 5120)]
UNKNOWN = guid("6f0a1b2c-3d4e-4f50-8a6b-7c8d9e0f1a2b")


@pytest.fixture
def base(tmp_path: Path) -> BuiltVhdx:
    return build_fixed_vhdx(tmp_path, "base.vhdx", content=[(7, b"\7" * 4096)])


@pytest.fixture
def child(tmp_path: Path, base: BuiltVhdx) -> BuiltVhdx:
    return build_differencing_vhdx(tmp_path, "child.vhdx", base, content=CONTENT)


@pytest.fixture
def file(child: BuiltVhdx) -> Iterator[ImageFile]:
    with open_file(child.path, writable=True) as opened:
        yield opened


def apply(file: ImageFile, rewrite: HeaderRewrite) -> Image:
    for step in rewrite.steps:
        for write in step:
            file.write_at(write.offset, write.data)
    assert file.size_bytes == rewrite.size_after_bytes
    return formats.open_image(file)


def new_parent(base: BuiltVhdx, *, deep: int = 0, windows: str | None = "D:\\b.vhdx") -> NewParent:
    return NewParent(base.identity, "b.vhdx", ".\\" + "d\\" * deep + "b.vhdx", windows)


def texts(image: Image) -> dict[str, str | None]:
    parent = image.parent
    assert parent is not None
    return {one.code: one.path for one in parent.locators}


def expected(base: BuiltVhdx, parent: NewParent) -> dict[str, str | None]:
    found = {"parent_linkage": f"{{{base.identity}}}", "relative_path": parent.relative_path}
    return found | ({"absolute_win32_path": parent.windows_path} if parent.windows_path else {})


@pytest.mark.parametrize("deep", [0, 300, 3000])
def test_only_the_locator_changes(
    child: BuiltVhdx, base: BuiltVhdx, file: ImageFile, tmp_path: Path, deep: int
) -> None:
    before = child.path.read_bytes()
    headers = [child.header(which) for which in (1, 2)]
    parent = new_parent(base, deep=deep)
    image = apply(file, formats.open_image(file).plan_parent_link(parent))
    assert texts(image) == expected(base, parent)
    assert image.write_refusal is None
    after = child.path.read_bytes()
    changed = {
        number
        for number in range(len(before) // PAGE)
        if before[number * PAGE : (number + 1) * PAGE] != after[number * PAGE :][:PAGE]
    }
    log = range(child.log_offset // PAGE, (child.log_offset + child.log_bytes) // PAGE)
    region = range(child.metadata_offset // PAGE, (child.metadata_offset + MIB) // PAGE)
    headers_at = {offset // PAGE for offset in HEADER_AT.values()}
    assert headers_at <= changed
    assert changed <= headers_at | set(log) | set(region)
    # Of the metadata: the page of the table, and pages that nothing used.
    used = {(child.metadata_offset + offset) // PAGE for offset in (64 * 1024,)}
    assert region[0] in changed
    assert not used & changed
    # The identity stays; each update counts one on and both headers are current in the end.
    now = [child.header(which) for which in (1, 2)]
    assert {header["data_write_guid"] for header in now} == {child.unique_id}
    assert {header["log_guid"] for header in now} == {bytes(16)}
    assert len({header["file_write_guid"] for header in now}) == 1
    assert now[0]["file_write_guid"] != headers[0]["file_write_guid"]
    numbers = sorted(header["sequence_number"] for header in now)
    assert numbers[1] - numbers[0] == 1
    assert numbers[0] > max(header["sequence_number"] for header in headers)
    assert examine(child.path).findings == []
    if deep == 0:
        (tmp_path / "b.vhdx").write_bytes(base.path.read_bytes())
        with chain.open_chain(str(child.path), World(tmp_path)) as opened:
            assert opened.paths[1] == str(tmp_path / "b.vhdx")
            assert opened.sha256() == child.sha256
        base.path.unlink()
        assert seven_zip_sha256(child) == child.sha256


def test_headers_are_never_written_over_the_current_one(child: BuiltVhdx, base: BuiltVhdx) -> None:
    with open_file(child.path) as file:
        rewrite = formats.open_image(file).plan_parent_link(new_parent(base))
    current = child.current
    for step in rewrite.steps:
        written = [write.offset for write in step if write.offset in HEADER_AT.values()]
        assert len(written) <= 1
        for offset in written:
            assert len(step) == 1
            assert offset != HEADER_AT[current]
            current = 3 - current


@pytest.mark.parametrize("deep", [0, 3000])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_power_cut_leaves_is_the_old_link_or_the_new_one(
    child: BuiltVhdx, base: BuiltVhdx, tmp_path: Path, deep: int, seed: int
) -> None:
    parent = new_parent(base, deep=deep)
    with open_file(child.path) as file:
        image = formats.open_image(file)
        old = texts(image)
        rewrite = image.plan_parent_link(parent)
    logged = rewrite.logged_step
    assert logged is not None
    (tmp_path / "b.vhdx").write_bytes(base.path.read_bytes())
    for step, how in cut_states(child.path, rewrite.steps, seed):
        with open_file(child.path) as file:
            image = formats.open_image(file)
            found = texts(image)
            allowed = [old] if step < logged else [expected(base, parent)]
            if step == logged - 1:  # the header that names the log is being written
                allowed.append(expected(base, parent))
            assert found in allowed, (step, how)
            assert image.identity == child.identity
            assert [f for f in check_image(file, deep=True) if f.level == "error"] == [], how
        if deep == 0:
            with chain.open_chain(str(child.path), World(tmp_path)) as opened:
                assert opened.sha256() == child.sha256, (step, how)


def test_the_new_link_is_there_as_soon_as_a_header_names_the_log(
    child: BuiltVhdx, base: BuiltVhdx
) -> None:
    """Before that it has not begun; `logged_step` says what the log holds."""
    with open_file(child.path) as file:
        rewrite = formats.open_image(file).plan_parent_link(new_parent(base))
    logged = rewrite.logged_step
    assert logged is not None
    for number in range(len(rewrite.steps) + 1):
        with open_file(child.path, writable=True) as file:
            image = formats.open_image(file)
            assert (texts(image)["relative_path"] == ".\\b.vhdx") == (number >= logged)
            assert image.log_waits == (logged <= number <= logged + 1)
            if number < len(rewrite.steps):
                for write in rewrite.steps[number]:
                    file.write_at(write.offset, write.data)


@pytest.mark.parametrize("deep", [0, 300, 3000])
def test_undo_brings_the_link_back_exactly(
    child: BuiltVhdx, base: BuiltVhdx, file: ImageFile, deep: int
) -> None:
    image = formats.open_image(file)
    old = texts(image)
    recorded = json.loads(json.dumps(image.recorded_link()))
    image = apply(file, image.plan_parent_link(new_parent(base, deep=deep)))
    assert image.recorded_link() != recorded
    rewrite = image.plan_recorded_link(recorded)
    image = apply(file, rewrite)
    assert texts(image) == old
    assert image.recorded_link() == recorded
    assert child.read(*child.items["parent_locator"]) == bytes.fromhex(recorded["parent_locator"])
    assert examine(child.path).findings == []


def test_undo_writes_the_item_anew_where_the_old_one_is_gone(
    child: BuiltVhdx, base: BuiltVhdx, file: ImageFile
) -> None:
    image = formats.open_image(file)
    old, recorded = texts(image), image.recorded_link()
    image = apply(file, image.plan_parent_link(new_parent(base)))
    offset, length = child.items["parent_locator"]
    file.write_at(offset + 40, b"x" * (length - 40))
    image = apply(file, image.plan_recorded_link(recorded))
    assert texts(image) == old
    assert examine(child.path).findings == []


def test_the_item_goes_where_nothing_else_lies(base: BuiltVhdx, tmp_path: Path) -> None:
    """Also between items, and never into a page that one of them uses."""
    child = build_differencing_vhdx(
        tmp_path, "a.vhdx", base, content=CONTENT, extra_items=[(UNKNOWN, 1, b"u" * 5000)]
    )
    # The user's item moves to the region's end: a gap lies between it and the others.
    far = MIB - 8192
    data = child.read(*child.items["extra0"])
    child.patch(child.metadata_offset + far, data)
    child.patch_row("extra0", offset=far)
    with open_file(child.path, writable=True) as file:
        image = formats.open_image(file)
        for deep in (0, 3000, 100, 5, 2000):
            rewrite = image.plan_parent_link(new_parent(base, deep=deep))
            live = [(child.metadata_offset, 64 * 1024), (child.metadata_offset + far, 8192)]
            locator = image.locator  # type: ignore[attr-defined]
            live.append((locator.offset, len(locator.raw)))
            live += [child.items[name] for name in ITEMS if name != "parent_locator"]
            for step in rewrite.steps[: rewrite.logged_step]:
                for write in step:
                    first, last = write.offset // PAGE, (write.offset + len(write.data) - 1) // PAGE
                    for start, length in live:
                        assert last < start // PAGE or first > (start + length - 1) // PAGE
            image = apply(file, rewrite)
        assert child.read(child.metadata_offset + far, len(data)) == data
    assert examine(child.path).codes == {"N_METADATA_ITEM"}


def test_a_full_region_refuses_and_nothing_is_written(base: BuiltVhdx, tmp_path: Path) -> None:
    room = MIB - 64 * 1024 - 8192
    child = build_differencing_vhdx(
        tmp_path, "a.vhdx", base, extra_items=[(UNKNOWN, 1, b"u" * room)]
    )
    before = child.path.read_bytes()
    with open_file(child.path) as file, pytest.raises(ImageError) as caught:
        formats.open_image(file).plan_parent_link(new_parent(base, deep=3000))
    assert (caught.value.code, caught.value.file) == ("E_VHDX_METADATA", str(child.path))
    assert child.path.read_bytes() == before


def test_a_disk_without_a_log_cannot_be_relinked(base: BuiltVhdx, tmp_path: Path) -> None:
    none = {"log_length": 0, "log_offset": 0}
    child = build_differencing_vhdx(tmp_path, "a.vhdx", base, headers={1: none, 2: none})
    with open_file(child.path) as file, pytest.raises(ImageError) as caught:
        formats.open_image(file).plan_parent_link(new_parent(base))
    assert caught.value.code == "E_VHDX_LOG"


def test_keys_that_would_be_stale_go_and_unknown_ones_stay(base: BuiltVhdx, tmp_path: Path) -> None:
    strange = "somebody's own ß 💽".encode("utf-16-le")
    child = build_differencing_vhdx(
        tmp_path, "a.vhdx", base, locator=[*windows_locator(base), ("x_key", strange)]
    )
    with open_file(child.path, writable=True) as file:
        rewrite = formats.open_image(file).plan_parent_link(new_parent(base, windows=None))
        changes = {change.field: (change.now, change.after) for change in rewrite.changes}
        image = apply(file, rewrite)
    assert texts(image) == {
        "parent_linkage": f"{{{base.identity}}}",
        "relative_path": ".\\b.vhdx",
        "x_key": "somebody's own ß 💽",
    }
    old = dict(windows_locator(base))
    assert changes == {
        "relative_path": (".\\base.vhdx", ".\\b.vhdx"),
        "absolute_win32_path": (old["absolute_win32_path"], None),
        "volume_path": (old["volume_path"], None),
        "parent_linkage2": (old["parent_linkage2"], None),
    }


def test_a_users_item_of_the_locators_name_stays(base: BuiltVhdx, tmp_path: Path) -> None:
    own = b"not a locator at all"
    child = build_differencing_vhdx(
        tmp_path, "a.vhdx", base, content=CONTENT, extra_items=[(ITEMS["parent_locator"], 1, own)]
    )
    # It comes first in the table: the two entries change places.
    first, second = child.rows["parent_locator"], child.rows["extra0"]
    rows = child.read(first, 32), child.read(second, 32)
    child.patch(second, rows[0])
    child.patch(first, rows[1])
    with open_file(child.path, writable=True) as file:
        image = formats.open_image(file)
        recorded = image.recorded_link()
        image = apply(file, image.plan_parent_link(new_parent(base)))
        assert texts(image)["relative_path"] == ".\\b.vhdx"
        assert child.read(first, 32) == rows[1]
        image = apply(file, image.plan_recorded_link(recorded))
        assert image.recorded_link() == recorded
        assert child.read(first, 32) == rows[1]
    assert child.read(*child.items["extra0"]) == own
    assert examine(child.path).errors == set()


def test_another_identity_is_written_in_small_letters(
    child: BuiltVhdx, base: BuiltVhdx, file: ImageFile
) -> None:
    identity = "01234567-89ab-cdef-0123-456789abcdef"
    parent = NewParent(identity, "neu ß 💽.vhdx", ".\\neu ß 💽.vhdx", None)
    image = apply(file, formats.open_image(file).plan_parent_link(parent))
    reference = image.parent
    assert reference is not None
    assert reference.identity == identity
    assert texts(image)["parent_linkage"] == f"{{{identity}}}"
    assert texts(image)["relative_path"] == ".\\neu ß 💽.vhdx"


def test_a_broken_locator_is_mended_by_a_new_link(base: BuiltVhdx, tmp_path: Path) -> None:
    """bad-input C48: writing is the way out."""
    child = build_differencing_vhdx(
        tmp_path, "a.vhdx", base, content=CONTENT, locator_options={"count": 65535}
    )
    (tmp_path / "b.vhdx").write_bytes(base.path.read_bytes())
    with open_file(child.path, writable=True) as file:
        image = apply(file, formats.open_image(file).plan_parent_link(new_parent(base)))
        assert texts(image) == expected(base, new_parent(base))
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        assert opened.sha256() == child.sha256
    assert examine(child.path).errors == set()


def test_what_is_written_already(child: BuiltVhdx, base: BuiltVhdx, file: ImageFile) -> None:
    parent = new_parent(base)
    image = formats.open_image(file)
    assert not image.is_linked_to(parent)
    image = apply(file, image.plan_parent_link(parent))
    assert image.is_linked_to(parent)
    assert not image.is_linked_to(new_parent(base, deep=1))


@pytest.mark.parametrize("path", ["", "a\0b", "bytes\udcff.vhdx", "n" * 40_000])
def test_paths_that_do_not_fit_are_refused(child: BuiltVhdx, base: BuiltVhdx, path: str) -> None:
    with open_file(child.path) as file:
        image = formats.open_image(file)
        with pytest.raises(ImageError) as caught:
            image.plan_parent_link(NewParent(base.identity, "b", path or "\0", None))
    assert caught.value.code == "E_NAME"


def test_refusals(tmp_path: Path) -> None:
    dynamic = build_dynamic_vhdx(tmp_path, "dynamic.vhdx")
    for call in ("plan_parent_link", "plan_recorded_link", "is_linked_to"):
        with open_file(dynamic.path) as file, pytest.raises(ImageError) as caught:
            getattr(formats.open_image(file), call)({})
        assert caught.value.code == "E_NOT_DIFFERENCING"
    with open_file(dynamic.path) as file, pytest.raises(ImageError, match="E_NOT_DIFFERENCING"):
        formats.open_image(file).recorded_link()


def test_a_link_of_windows_comes_back(corpus: Path, tmp_path: Path) -> None:
    folder = corpus / "windows-ntfs"
    for name in ("ntfs-differential.vhdx", "ntfs-parent.vhdx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "ntfs-differential.vhdx"
    with open_file(path, writable=True) as file:
        image = formats.open_image(file)
        reference = image.parent
        assert reference is not None
        recorded = image.recorded_link()
        parent = NewParent(reference.identity, "p.vhdx", "..\\x\\p.vhdx", "\\\\nas\\vms\\x\\p.vhdx")
        image = apply(file, image.plan_parent_link(parent))
        assert texts(image)["absolute_win32_path"] == "\\\\nas\\vms\\x\\p.vhdx"
        image = apply(file, image.plan_recorded_link(recorded))
        assert image.recorded_link() == recorded
        assert [f for f in check_image(file, deep=True) if f.level == "error"] == []
    with chain.open_chain(str(path), World(tmp_path)) as opened:
        assert opened.sha256().startswith("1ef1fb53")
    assert seven_zip_sha256(path).startswith("1ef1fb53")
