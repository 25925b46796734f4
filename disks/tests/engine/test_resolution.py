"""Where the parent is: order, verdicts, and one sentence for a person."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from disks.engine import chain, formats
from disks.engine.errors import ImageError, ParentMissing
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Resolution, Status
from disks.engine.resolution.path_text import Shape, shape_of
from disks.tests.builders import MIB, VHD, VHDX, Built, Family
from disks.tests.builders.vhdx import windows_locator
from disks.tests.engine.world import World, open_file


@pytest.fixture
def base(tmp_path: Path, family: Family) -> Built:
    return family.fixed(tmp_path, family.file("base"), size=MIB, content=[(0, b"\1" * 512)])


def child_of(base: Built, family: Family, name: str = "child", **paths: str) -> Built:
    """A child in its parent's folder; with paths: it names its parent by these alone."""
    options = family.naming(base, **paths) if paths else {}
    return family.differencing(base.path.parent, family.file(name), base, **options)


def found_by(child: Built, world: World) -> Resolution:
    with open_file(child.path) as file:
        return resolve(formats.open_image(file), str(child.path), world)


def steps(resolution: Resolution) -> list[tuple[str, str]]:
    return [(step.source, str(step.verdict)) for step in resolution.trace]


def move(built: Built, folder: Path) -> Built:
    folder.mkdir(parents=True, exist_ok=True)
    built.path = built.path.rename(folder / built.path.name)
    return built


@pytest.mark.parametrize("family", [VHD], ids=["vhd"])
def test_the_order_of_looking(tmp_path: Path, family: Family, base: Built) -> None:
    child = family.differencing(
        tmp_path,
        "child.vhd",
        base,
        locators={"W2ku": "C:\\VMs\\ku.vhd", "MacX": "file://./mac.vhd", "W2ru": ".\\ru.vhd"},
        parent_name="name.vhd",
    )
    world = World(tmp_path, {"C:\\VMs": str(tmp_path)}, {base.identity: [str(base.path)]})
    result = found_by(child, world)
    assert steps(result) == [
        ("W2ru", "not-found"),
        ("name", "not-found"),
        ("W2ku", "not-found"),
        ("MacX", "not-found"),
        ("identity", "match"),
    ]
    assert result.status is Status.MISSING
    assert result.suggested == str(base.path)
    assert result.reason == (
        "This disk names C:\\VMs\\ku.vhd, which is not there. "
        f"A disk with the right identity lies at {base.path}."
    )


@pytest.mark.parametrize("family", [VHDX], ids=["vhdx"])
def test_the_order_of_looking_of_a_vhdx(tmp_path: Path, family: Family, base: Built) -> None:
    """As Windows does it: relative, volume, absolute; in whatever order the keys are stored."""
    volume = "\\\\?\\Volume{9cdf8dfa-0000-0000-0000-501f00000000}\\VMs\\abs.vhdx"
    child = family.differencing(
        tmp_path,
        "child.vhdx",
        base,
        locator=[
            ("absolute_win32_path", "\\\\?\\C:\\VMs\\abs.vhdx"),
            ("volume_path", volume),
            windows_locator(base)[0],
            ("relative_path", ".\\rel.vhdx"),
        ],
    )
    world = World(tmp_path, {"C:\\VMs": str(tmp_path)}, {base.identity: [str(base.path)]})
    result = found_by(child, world)
    assert steps(result) == [
        ("relative_path", "not-found"),
        ("volume_path", "unmapped"),
        ("absolute_win32_path", "not-found"),
        ("identity", "match"),
    ]
    assert result.status is Status.MISSING
    assert result.suggested == str(base.path)


@pytest.mark.parametrize("family", [VHDX], ids=["vhdx"])
def test_a_volume_path_of_a_vhdx_is_mapped(tmp_path: Path, family: Family, base: Built) -> None:
    view = "\\\\?\\Volume{9cdf8dfa-0000-0000-0000-501f00000000}"
    child = family.differencing(
        tmp_path,
        "child.vhdx",
        base,
        locator=[windows_locator(base)[0], ("volume_path", f"{view}\\x\\base.vhdx")],
    )
    move(base, tmp_path / "volume" / "x")
    assert found_by(child, World(tmp_path)).status is Status.MISSING
    result = found_by(child, World(tmp_path, {view: str(tmp_path / "volume")}))
    assert steps(result)[0] == ("volume_path", "match")
    assert (result.status, result.path) == (Status.FOUND, str(base.path))


def test_what_only_a_search_finds_is_a_suggestion(
    tmp_path: Path, family: Family, base: Built
) -> None:
    """bad-input D54: Windows would not find it either, so nothing is read through it."""
    child = child_of(base, family)
    move(base, tmp_path / "elsewhere")
    world = World(tmp_path, identities={base.identity: [str(base.path), str(child.path)]})
    with pytest.raises(ParentMissing) as caught:
        chain.open_chain(str(child.path), world)
    assert caught.value.code == "E_PARENT_MISSING"
    assert caught.value.file == str(child.path)
    assert caught.value.value == str(base.path)
    assert str(base.path) in caught.value.message


def test_a_same_named_file_beside_the_child_is_a_suggestion(
    tmp_path: Path, family: Family, base: Built
) -> None:
    """Only absolute paths in the header: Windows would not look beside the child."""
    child = child_of(base, family, absolute=f"D:\\x\\{base.path.name}")
    result = found_by(child, World(tmp_path))
    assert steps(result) == [(family.absolute, "unmapped"), ("beside", "match")]
    assert (result.status, result.suggested) == (Status.MISSING, str(base.path))
    assert "no storage root covers" in result.reason


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("D:\\Away\\base.vhd", "which no storage root maps, so it was not looked at."),
        (
            "/elsewhere/base.vhd",
            "which lies outside of the storage roots, so it was not looked at.",
        ),
        ("C:\\VMs\\gone.vhd", "which is not there."),
    ],
)
def test_a_place_that_was_not_looked_at_is_not_called_empty(
    tmp_path: Path, family: Family, base: Built, named: str, said: str
) -> None:
    """The relative path was looked at and the absolute one, which a person knows, was not."""
    child = child_of(base, family, absolute=named, relative=".\\gone.vhd")
    base.path.unlink()
    result = found_by(child, World(tmp_path, {"C:\\VMs": str(tmp_path)}))
    assert result.reason.startswith(f"This disk names {named}, {said}")


def test_absolute_paths_go_through_the_windows_views(
    tmp_path: Path, family: Family, base: Built
) -> None:
    folder = tmp_path / "bases"
    child = child_of(base, family)
    move(base, folder)
    result = found_by(child, World(tmp_path, {"C:\\VMs": str(folder)}))
    assert (family.relative, "not-found") in steps(result)
    assert (family.absolute, "match") in steps(result)
    assert (result.status, result.path) == (Status.FOUND, str(base.path))
    assert result.twins == []


@pytest.mark.parametrize("text", [".\\base", "./base", "base", "..\\{}\\base"])
def test_relative_texts_under_any_code(
    tmp_path: Path, family: Family, base: Built, text: str
) -> None:
    """blktap writes relative paths into W2ku; VirtualBox leaves the dot out of W2ru."""
    text = family.file(text.format(tmp_path.name))
    world = World(tmp_path)
    for which in ("relative", "absolute"):
        child = child_of(base, family, **{which: text})
        result = found_by(child, world)
        assert (result.status, result.path) == (Status.FOUND, str(base.path))


def test_posix_paths_lead_to_places_in_the_roots_only(
    tmp_path: Path, family: Family, base: Built
) -> None:
    """bad-input D61: VirtualBox on Linux writes them; outside the roots nothing is opened."""
    world = World(tmp_path)
    child = child_of(base, family, absolute=str(base.path))
    assert found_by(child, world).path == str(base.path)
    for text in ("/etc/shadow", "\\\\host\\share\\x.vhd", "//host/x", "\\\\?\\C:\\x.vhd"):
        world.opened.clear()
        child = child_of(base, family, relative=text)
        result = found_by(child, world)
        assert result.status in (Status.OUTSIDE_ROOTS, Status.MISSING)
        assert all(os.path.dirname(path) == str(tmp_path) for path in world.opened)
    for text in ("http://host/x.vhd", "json:{}", "nbd:host"):
        child = child_of(base, family, relative=text)
        assert (family.relative, "invalid") in steps(found_by(child, world))


def test_another_disk_in_the_place_of_the_parent(
    tmp_path: Path, family: Family, base: Built
) -> None:
    """bad-input D55."""
    child = child_of(base, family)
    base.path.unlink()
    other = family.fixed(tmp_path, base.path.name, size=MIB)
    result = found_by(child, World(tmp_path))
    assert result.status is Status.IDENTITY_MISMATCH
    assert other.identity in result.trace[0].detail
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), World(tmp_path))
    assert caught.value.code == "E_PARENT_IDENTITY"


def test_twins_are_a_note_when_the_header_leads_to_a_match(
    tmp_path: Path, family: Family, base: Built
) -> None:
    """bad-input D56."""
    child = child_of(base, family)
    backup = family.fixed(tmp_path, family.file("copy"), size=MIB, unique_id=base.unique_id)
    second = tmp_path / family.file("second-name")
    os.link(base.path, second)
    known = [str(base.path), str(backup.path), str(second)]
    result = found_by(child, World(tmp_path, identities={base.identity: known}))
    assert (result.status, result.path) == (Status.FOUND, str(base.path))
    assert result.twins == [str(backup.path)]
    assert "same identity" in result.reason
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        assert opened.sha256() == child.sha256


def test_two_copies_and_no_header_path_are_ambiguous(
    tmp_path: Path, family: Family, base: Built
) -> None:
    """bad-input D56."""
    child = child_of(base, family)
    move(base, tmp_path / "one")
    (tmp_path / "two").mkdir()
    copy = family.fixed(tmp_path / "two", base.path.name, size=MIB, unique_id=base.unique_id)
    world = World(tmp_path, identities={base.identity: [str(base.path), str(copy.path)]})
    result = found_by(child, world)
    assert result.status is Status.AMBIGUOUS
    assert result.candidates == [str(base.path), str(copy.path)]
    assert result.suggested is None
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), world)
    assert caught.value.code == "E_PARENT_AMBIGUOUS"


def test_a_stale_catalog_is_not_believed(tmp_path: Path, family: Family, base: Built) -> None:
    child = child_of(base, family)
    base.path.unlink()
    other = family.fixed(tmp_path, family.file("other"), size=MIB)
    gone = str(tmp_path / family.file("gone"))
    result = found_by(child, World(tmp_path, identities={base.identity: [str(other.path), gone]}))
    assert (result.status, result.suggested) == (Status.MISSING, None)
    assert steps(result)[-2:] == [("identity", "identity-mismatch"), ("identity", "not-found")]


def test_an_unreadable_parent(tmp_path: Path, family: Family, base: Built) -> None:
    child = child_of(base, family)
    base.path.write_text("no disk")
    result = found_by(child, World(tmp_path))
    assert (result.status, result.code) == (Status.UNREADABLE, "E_PARENT_UNREADABLE")


def test_a_parent_in_use(tmp_path: Path, family: Family, base: Built) -> None:
    class Busy(World):
        def open(self, path: str) -> formats.ImageFile:
            if path == str(base.path):
                raise ImageError("E_IN_USE", "A machine has it open.", file=path)
            return super().open(path)

    child = child_of(base, family)
    result = found_by(child, Busy(tmp_path))
    assert (result.status, result.code) == (Status.IN_USE, "E_IN_USE")


def test_a_folder_where_the_parent_should_be(tmp_path: Path, family: Family, base: Built) -> None:
    child = child_of(base, family)
    base.path.unlink()
    base.path.mkdir()
    result = found_by(child, World(tmp_path))
    assert (family.relative, "invalid") in steps(result)
    assert result.status is Status.MISSING


@pytest.mark.parametrize(
    ("text", "shape", "plain"),
    [
        ("C:\\VMs\\a.vhd", Shape.WINDOWS, "C:\\VMs\\a.vhd"),
        ("c:/VMs/a.vhd", Shape.WINDOWS, "c:/VMs/a.vhd"),
        ("\\\\nas\\vhd\\a.vhd", Shape.WINDOWS, "\\\\nas\\vhd\\a.vhd"),
        ("\\\\?\\C:\\a.vhd", Shape.WINDOWS, "C:\\a.vhd"),
        ("\\\\?\\UNC\\nas\\vhd\\a.vhd", Shape.WINDOWS, "\\\\nas\\vhd\\a.vhd"),
        ("\\\\?\\Volume{1-2}\\a.vhd", Shape.WINDOWS, "\\\\?\\Volume{1-2}\\a.vhd"),
        ("\\\\?\\GLOBALROOT\\a.vhd", Shape.WINDOWS, "\\\\?\\GLOBALROOT\\a.vhd"),
        ("//host/x", Shape.WINDOWS, "//host/x"),
        ("/srv/a.vhd", Shape.POSIX, "/srv/a.vhd"),
        ("\\VMs\\a.vhd", Shape.ROOTED, "\\VMs\\a.vhd"),
        ("C:a.vhd", Shape.RELATIVE, "a.vhd"),
        ("C:sub\\a.vhd", Shape.RELATIVE, "a.vhd"),
        (".\\a.vhd", Shape.RELATIVE, ".\\a.vhd"),
        ("", Shape.RELATIVE, ""),
    ],
)
def test_shapes(text: str, shape: Shape, plain: str) -> None:
    assert shape_of(text) == (shape, plain)
