"""Parent locators that lie: shown, judged, and never in the way of the good ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from disks.engine import chain, formats
from disks.engine.images import Image
from disks.engine.parent_link import NewParent
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Status
from disks.tests.builders import MIB, Built, build_differencing, build_fixed
from disks.tests.engine.world import World, examine, open_file


@pytest.fixture
def base(tmp_path: Path) -> Built:
    return build_fixed(tmp_path, "base.vhd", size=4 * MIB, content=[(0, b"\1" * 4096)])


def status_of(built: Built, folder: Path) -> tuple[str, list[tuple[str, str]]]:
    with open_file(built.path) as file:
        found = resolve(formats.open_image(file), str(built.path), World(folder))
    return str(found.status), [(step.source, str(step.verdict)) for step in found.trace]


def opened(built: Built) -> Image:
    result = examine(built.path)
    assert result.image is not None
    return result.image


def test_b30_unknown_codes_are_shown_and_kept(tmp_path: Path, base: Built) -> None:
    """bad-input B30."""
    child = build_differencing(
        tmp_path,
        "child.vhd",
        base,
        locators={"XYZ!": b"whatever", "W2ku": "C:\\VMs\\base.vhd"},
        parent_name="base.vhd",
    )
    result = examine(child.path)
    assert result.codes == {"W_LOCATOR_CODE"}
    assert status_of(child, tmp_path) == (
        "found",
        [("name", "match"), ("XYZ!", "invalid"), ("W2ku", "unmapped")],
    )


def test_b30_eight_times_the_same_locator(tmp_path: Path, base: Built) -> None:
    """bad-input B30."""
    child = build_differencing(
        tmp_path, "child.vhd", base, layout="packed", locators=[("W2ru", ".\\base.vhd")] * 8
    )
    result = examine(child.path)
    assert result.codes == {"W_LOCATOR_TWICE"}
    assert status_of(child, tmp_path)[0] == "found"


def test_b30_no_locator_falls_back_to_the_name(tmp_path: Path, base: Built) -> None:
    """bad-input B30."""
    child = build_differencing(tmp_path, "a.vhd", base, locators={}, parent_name="base.vhd")
    assert examine(child.path).errors == set()
    assert status_of(child, tmp_path) == ("found", [("name", "match")])
    nothing = build_differencing(tmp_path, "b.vhd", base, locators={}, parent_name="")
    assert examine(nothing.path).errors == {"E_NO_PARENT_NAME"}
    with open_file(nothing.path) as file:
        found = resolve(formats.open_image(file), str(nothing.path), World(tmp_path))
    assert (found.status, found.code) == (Status.MISSING, "E_NO_PARENT_NAME")
    with pytest.raises(Exception, match="E_NO_PARENT_NAME"):
        chain.open_chain(str(nothing.path), World(tmp_path))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"length": 0xFFFFFFFF}, "more than any path"),
        ({"length": 64 * 1024 + 2}, "more than any path"),
        ({"length": 0}, "length is 0"),
        ({"length": 21}, "odd number"),
        ({"space": 4, "length": 4096}, "more than its space"),
    ],
)
def test_b31_bad_lengths_spoil_only_their_locator(
    tmp_path: Path, base: Built, fields: dict[str, int], part: str
) -> None:
    """bad-input B31."""
    child = build_differencing(tmp_path, "child.vhd", base, locator_fields={"W2ku": fields})
    result = examine(child.path)
    assert result.errors <= {"E_LOCATOR", "E_LOCATOR_ENCODING"}
    assert len(result.errors) == 1
    assert result.image is not None
    reference = result.image.parent
    assert reference is not None
    assert part in (reference.locators[0].problem or "")
    assert reference.locators[1].problem is None
    assert status_of(child, tmp_path)[0] == "found"


@pytest.mark.parametrize("space", [512, 4096, 65536, 1, 8, 128, 0, 700])
def test_b32_both_units_of_the_data_space_are_read(tmp_path: Path, base: Built, space: int) -> None:
    """bad-input B32: bytes and sectors both exist; the length is what counts."""
    child = build_differencing(
        tmp_path, "child.vhd", base, locator_fields={"W2ru": {"space": space}}
    )
    result = examine(child.path)
    assert result.errors == set()
    assert status_of(child, tmp_path)[0] == "found"
    assert result.image is not None
    rewrite = result.image.plan_parent_link(NewParent(base.identity, "b.vhd", ".\\b.vhd", None))
    header = rewrite.steps[-1][0].data
    assert header[576:580] == b"W2ru"
    assert int.from_bytes(header[580:584]) == 512  # bytes, whatever unit was there before


@pytest.mark.parametrize("place", ["footer", "header", "bat", "data", "eof", "huge"])
def test_b33_data_in_impossible_places(tmp_path: Path, base: Built, place: str) -> None:
    """bad-input B33: invalid, and a rewrite never writes there."""
    options: dict[str, Any] = {"content": [(0, b"\1" * 1024)]}
    child = build_differencing(tmp_path, "child.vhd", base, **options)
    offset = {
        "footer": 0,
        "header": 700,
        "bat": child.table_offset,
        "data": child.blocks[0] + 1024,
        "eof": child.path.stat().st_size,
        "huge": 2**63,
    }[place]
    child = build_differencing(
        tmp_path, "child.vhd", base, locator_fields={"W2ku": {"offset": offset}}, **options
    )
    result = examine(child.path)
    assert "E_LOCATOR" in result.errors
    assert result.image is not None
    reference = result.image.parent
    assert reference is not None
    assert reference.locators[0].problem is not None
    assert reference.locators[0].path is None
    assert status_of(child, tmp_path)[0] == "found"
    rewrite = result.image.plan_parent_link(
        NewParent(base.identity, "b.vhd", ".\\b.vhd", "D:\\b.vhd")
    )
    blocks = [(at, at + 512 + child.block_size) for at in child.blocks.values()]
    for step in rewrite.steps[:-1]:
        for write in step:
            end = write.offset + len(write.data)
            assert write.offset >= 1536
            assert not (write.offset < child.table_offset + 512 and child.table_offset < end)
            assert not any(write.offset < stop and start < end for start, stop in blocks)


@pytest.mark.parametrize(
    ("raw", "shown", "part"),
    [
        (b".\0\\\0\0\xd8x\0", ".\\\\ud800x", "unpaired surrogates"),
        ("\ufeff.\\base.vhd".encode("utf-16-le"), "\ufeff.\\base.vhd", "byte order mark"),
        (".\\base.vhd".encode("utf-16-be"), ".\\base.vhd", "big-endian"),
        (".\\base.vhd".encode("utf-16-le")[:-1], ".\\base.vh", "odd number"),
        (".\\ba\0se.vhd".encode("utf-16-le"), ".\\ba\\x00se.vhd", "NUL"),
    ],
)
def test_b34_bad_utf16_is_shown_escaped(
    tmp_path: Path, base: Built, raw: bytes, shown: str, part: str
) -> None:
    """bad-input B34."""
    child = build_differencing(
        tmp_path, "child.vhd", base, locators={"W2ru": raw}, parent_name="base.vhd"
    )
    result = examine(child.path)
    assert result.errors == {"E_LOCATOR_ENCODING"}
    assert result.image is not None
    reference = result.image.parent
    assert reference is not None
    assert reference.locators[0].path == shown
    assert part in (reference.locators[0].problem or "")
    assert status_of(child, tmp_path) == ("found", [("W2ru", "invalid"), ("name", "match")])


def test_b35_names_are_cut_at_their_bounds(tmp_path: Path, base: Built) -> None:
    """bad-input B35."""
    long = build_differencing(tmp_path, "a.vhd", base, parent_name="n" * 256)
    reference = opened(long).parent
    assert reference is not None
    assert (reference.name, reference.name_problem) == ("n" * 256, None)
    torn = build_differencing(tmp_path, "b.vhd", base, parent_name="base.vhd\0tail")
    result = examine(torn.path)
    assert "W_PARENT_NAME" in result.codes
    reference = opened(torn).parent
    assert reference is not None
    assert reference.name == "base.vhd"
    assert "NUL" in (reference.name_problem or "")
    lone = build_differencing(tmp_path, "c.vhd", base, parent_name="\udc00.vhd")
    reference = opened(lone).parent
    assert reference is not None
    assert reference.name == "\\udc00.vhd"
    assert "surrogates" in (reference.name_problem or "")


def test_b36_disagreeing_locators_are_all_shown(tmp_path: Path, base: Built) -> None:
    """bad-input B36: identity decides."""
    other = build_fixed(tmp_path, "other.vhd", size=4 * MIB)
    windows = tmp_path / "views"
    windows.mkdir()
    twin = build_fixed(windows, "third.vhd", size=4 * MIB, unique_id=base.unique_id)
    child = build_differencing(
        tmp_path,
        "child.vhd",
        base,
        locators={"W2ku": "C:\\VMs\\third.vhd", "W2ru": ".\\other.vhd"},
        parent_name="base.vhd",
    )
    assert "W_PARENT_NAMES_DIFFER" in examine(child.path).codes
    with open_file(child.path) as file:
        world = World(tmp_path, windows={"C:\\VMs": str(windows)})
        found = resolve(formats.open_image(file), str(child.path), world)
    assert [(s.source, str(s.verdict)) for s in found.trace] == [
        ("W2ru", "identity-mismatch"),
        ("name", "match"),
        ("W2ku", "match"),
        ("beside", "not-found"),
    ]
    assert found.status is Status.FOUND
    assert found.path == str(base.path)
    assert found.twins == [str(twin.path)]
    assert other.identity in found.trace[0].detail


@pytest.mark.parametrize(
    ("url", "path", "problem"),
    [
        ("file://localhost/VMs/base%20one.vhd", "/VMs/base one.vhd", None),
        ("file:///C:/VMs/base.vhd", "C:/VMs/base.vhd", None),
        ("file://./base.vhd", "./base.vhd", None),
        ("file://host/..%2f..%00", "//host/../..\\x00", "NUL"),
        ("file://./%252e%252e%252fbase.vhd", "./%2e%2e%2fbase.vhd", None),
        ("http://host/base.vhd", "http://host/base.vhd", "no file URL"),
    ],
)
def test_b37_urls_are_decoded_once(
    tmp_path: Path, base: Built, url: str, path: str, problem: str | None
) -> None:
    """bad-input B37."""
    child = build_differencing(
        tmp_path, "child.vhd", base, locators={"MacX": url}, parent_name="base.vhd"
    )
    reference = opened(child).parent
    assert reference is not None
    assert reference.locators[0].path == path
    if problem is None:
        assert reference.locators[0].problem is None
    else:
        assert problem in (reference.locators[0].problem or "")


def test_b37_a_decoded_url_obeys_the_same_rules(tmp_path: Path, base: Built) -> None:
    """bad-input B37."""
    child = build_differencing(
        tmp_path,
        "child.vhd",
        base,
        locators={"MacX": "file://./..%2f..%2fetc/shadow"},
        parent_name="base.vhd",
    )
    world = World(tmp_path)
    with open_file(child.path) as file:
        found = resolve(formats.open_image(file), str(child.path), world)
    assert ("MacX", "outside-roots") in [(s.source, str(s.verdict)) for s in found.trace]
    assert all(path.startswith(str(tmp_path)) for path in world.opened)
