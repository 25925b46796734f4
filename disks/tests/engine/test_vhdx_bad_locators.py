"""Parent locators of a VHDX that lie (bad-input C48): shown, judged, never followed blindly."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from disks.engine import chain, formats
from disks.engine.errors import ImageError
from disks.engine.parent_link import ParentReference
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Status
from disks.tests.builders import MIB, Built, BuiltVhdx, build_differencing_vhdx, build_fixed_vhdx
from disks.tests.builders.vhdx import windows_locator
from disks.tests.builders.vhdx_parts import guid
from disks.tests.engine.world import Examination, World, examine, open_file

NIL = str(uuid.UUID(int=0))


@pytest.fixture
def base(tmp_path: Path) -> Built:
    return build_fixed_vhdx(tmp_path, "base.vhdx", content=[(0, b"\1" * 4096)])


def child_of(base: Built, locator: Any = None, **options: Any) -> BuiltVhdx:
    """A child with these pairs; `locator_options` as pack_locator() takes them."""
    return build_differencing_vhdx(base.path.parent, "child.vhdx", base, locator=locator, **options)


def pairs(base: Built, **changes: str | bytes | None) -> list[tuple[str, str | bytes]]:
    """The locator of Windows with other values; None leaves a key out."""
    found = dict(windows_locator(base)) | changes
    return [(key, value) for key, value in found.items() if value is not None]


def reference_of(result: Examination) -> ParentReference:
    assert result.image is not None
    reference = result.image.parent
    assert reference is not None
    return reference


def refused_by_the_chain(child: BuiltVhdx) -> str:
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), World(child.path.parent))
    assert caught.value.file == str(child.path)
    return caught.value.code


def status_of(child: BuiltVhdx) -> str:
    with open_file(child.path) as file:
        found = resolve(formats.open_image(file), str(child.path), World(child.path.parent))
    return str(found.status)


def test_the_locator_of_windows_is_without_findings(base: Built) -> None:
    """The five keys, parent_linkage2 among them, all zero."""
    child = child_of(base)
    result = examine(child.path)
    assert result.codes == set()
    reference = reference_of(result)
    assert reference.identity == base.identity
    assert (reference.name, reference.timestamp) == (None, None)
    shown = {one.code: (one.path, one.offset, len(one.raw)) for one in reference.locators}
    for key, value in windows_locator(base):
        assert shown[key] == (value, *child.strings[key])
    assert status_of(child) == "found"


@pytest.mark.parametrize(
    "options",
    [
        {"kind": bytes(16)},
        {"kind": guid("B04AEFB7-D19E-4A81-B789-25B8E9445914")},
        {"count": 0},
        {"count": 257},
        {"count": 65535},
        {"rows": {0: {"key_offset": 2**32 - 1}}},
        {"rows": {0: {"key_offset": 2**31}}},
        {"rows": {0: {"key_length": 65535}}},
        {"rows": {0: {"key_length": 65534}}},
        {"rows": {0: {"key_length": 0}}},
        {"rows": {0: {"key_length": 27}}},
        {"rows": {0: {"value_offset": 2**32 - 1}}},
        {"rows": {0: {"value_length": 65534}}},
        {"rows": {0: {"value_offset": 2**32 - 60, "value_length": 76}}},
        {"rows": {1: {"value_offset": 2**32 - 4}}},
    ],
    ids=str,
)
def test_c48_an_item_that_cannot_be_taken_apart(base: Built, options: dict[str, Any]) -> None:
    child = child_of(base, locator_options=options)
    result = examine(child.path)
    assert "E_LOCATOR" in result.errors
    finding = result.finding("E_LOCATOR")
    start, length = child.items["parent_locator"]
    assert finding.field
    assert finding.offset is not None
    assert start <= finding.offset < start + length
    assert reference_of(result).identity == NIL
    assert refused_by_the_chain(child) == "E_LOCATOR"
    assert result.image is not None
    assert result.image.write_refusal is None  # writing a new link is the way out


@pytest.mark.parametrize("item", [b"", b"x", bytes(19), bytes(64 * 1024 + 2)])
def test_c48_an_item_of_the_wrong_length(base: Built, item: bytes) -> None:
    child = child_of(base, items={"parent_locator": item})
    assert examine(child.path).errors == {"E_LOCATOR"}
    assert refused_by_the_chain(child) == "E_LOCATOR"


@pytest.mark.parametrize(
    "linkage",
    [
        None,
        "",
        "{}",
        "7584f8fb-36d3-4091-afb5-b1afe587bfa8",
        "{7584f8fb-36d3-4091-afb5-b1afe587bfa8",
        "{7584f8fb36d34091afb5b1afe587bfa8}",
        "{7584f8fb-36d3-4091-afb5-b1afe587bfaX}",
        "{7584f8fb-36d3-4091-afb5-b1afe587bfa8}\0",
        " {7584f8fb-36d3-4091-afb5-b1afe587bfa8}",
        "{7584f8fb-36d3-4091-afb5-b1afe587bfa8}\n",
        "{٧584f8fb-36d3-4091-afb5-b1afe587bfa8}",
        "{7584f8fb-36d3-4091-afb5-b1afe587bfa8}".encode("utf-16-be"),
        b"{7584f8fb-36d3-4091-afb5-b1afe587bfa8}",
        "{7584f8fb-36d3-4091-afb5-b1afe587bfa8}".encode("utf-16-le")[:-1],
    ],
)
def test_c48_a_linkage_that_is_no_identity(base: Built, linkage: str | bytes | None) -> None:
    child = child_of(base, pairs(base, parent_linkage=linkage))
    result = examine(child.path)
    assert result.errors == {"E_LOCATOR"}
    assert result.finding("E_LOCATOR").field == "parent_linkage"
    assert reference_of(result).identity == NIL
    assert refused_by_the_chain(child) == "E_LOCATOR"


def test_c48_an_empty_linkage_names_no_parent(base: Built) -> None:
    child = child_of(base, pairs(base, parent_linkage=f"{{{NIL}}}"))
    assert examine(child.path).errors == {"E_LOCATOR"}
    assert refused_by_the_chain(child) == "E_LOCATOR"


def test_the_linkage_may_be_in_capitals(base: Built) -> None:
    """7-Zip accepts both; vhdiinfo makes zeros of capitals."""
    child = child_of(base, pairs(base, parent_linkage=f"{{{base.identity.upper()}}}"))
    result = examine(child.path)
    assert result.errors == set()
    assert reference_of(result).identity == base.identity
    assert status_of(child) == "found"


def test_c48_the_second_linkage_alone_is_not_enough(base: Built) -> None:
    child = child_of(base, pairs(base, parent_linkage=None, parent_linkage2=f"{{{base.identity}}}"))
    result = examine(child.path)
    assert result.errors == {"E_LOCATOR"}
    assert refused_by_the_chain(child) == "E_LOCATOR"


def test_a_second_linkage_is_a_warning(base: Built) -> None:
    """It is accepted and never used."""
    other = f"{{{uuid.uuid4()}}}"
    child = child_of(base, pairs(base, parent_linkage2=other))
    result = examine(child.path)
    assert [(str(one.level), one.value) for one in result.findings] == [("warning", other)]
    assert status_of(child) == "found"


def test_c48_a_key_that_is_there_twice(base: Built) -> None:
    twice = [*windows_locator(base), ("relative_path", ".\\other.vhdx")]
    child = child_of(base, twice)
    result = examine(child.path)
    assert "E_LOCATOR" in result.errors
    assert [one.problem is None for one in reference_of(result).locators].count(False) == 1
    assert status_of(child) == "found"  # by the first of the two


@pytest.mark.parametrize("same", [False, True])
def test_c48_two_linkages(base: Built, same: bool) -> None:
    """Two that differ name no parent; the same one twice still does."""
    other = base.identity if same else str(uuid.uuid4())
    child = child_of(base, [*windows_locator(base), ("parent_linkage", f"{{{other}}}")])
    result = examine(child.path)
    assert result.errors == {"E_LOCATOR"}
    if same:
        assert status_of(child) == "found"
    else:
        assert refused_by_the_chain(child) == "E_LOCATOR"


def test_keys_are_compared_exactly(base: Built) -> None:
    child = child_of(base, [("Parent_Linkage", f"{{{base.identity}}}"), ("relative_path", "x")])
    assert refused_by_the_chain(child) == "E_LOCATOR"


def test_c48_no_path_at_all(base: Built) -> None:
    child = child_of(base, windows_locator(base)[:1])
    result = examine(child.path)
    assert result.errors == {"E_NO_PARENT_NAME"}
    with open_file(child.path) as file:
        found = resolve(formats.open_image(file), str(child.path), World(base.path.parent))
    assert (found.status, found.code) == (Status.MISSING, "E_NO_PARENT_NAME")
    assert refused_by_the_chain(child) == "E_NO_PARENT_NAME"


@pytest.mark.parametrize(
    ("raw", "shown", "code"),
    [
        (b".\0\\\0\0\xd8x\0", ".\\\\ud800x", "E_LOCATOR_ENCODING"),
        (".\\ba\0se.vhdx".encode("utf-16-le"), ".\\ba\\x00se.vhdx", "E_LOCATOR_ENCODING"),
        (".\\base.vhdx".encode("utf-16-le")[:-1], ".\\base.vhd", "E_LOCATOR_ENCODING"),
        (b"", "", "E_LOCATOR"),
    ],
)
def test_c48_paths_that_are_no_text(base: Built, raw: bytes, shown: str, code: str) -> None:
    """bad-input B34, for VHDX: they spoil only themselves."""
    child = child_of(base, pairs(base, absolute_win32_path=raw))
    result = examine(child.path)
    assert result.errors == {code}
    (spoilt,) = (one for one in reference_of(result).locators if one.problem is not None)
    assert (spoilt.code, spoilt.path or "") == ("absolute_win32_path", shown)
    assert status_of(child) == "found"


def test_unknown_keys_are_shown_and_not_used(base: Built) -> None:
    child = child_of(base, [*windows_locator(base), ("zfs_path", "/etc/shadow")])
    world = World(base.path.parent)
    result = examine(child.path)
    assert result.errors == set()
    assert ("zfs_path", "/etc/shadow") in [
        (one.code, one.path) for one in reference_of(result).locators
    ]
    with open_file(child.path) as file:
        found = resolve(formats.open_image(file), str(child.path), world)
    assert found.status is Status.FOUND
    assert "/etc/shadow" not in [step.candidate for step in found.trace]
    assert all(path.startswith(str(base.path.parent)) for path in world.opened)


@pytest.mark.parametrize(
    "text", ["..\\..\\..\\etc\\shadow", "a/../../../x", "\\\\?\\C:\\x", "//host/x", "/etc/shadow"]
)
def test_paths_never_lead_out_of_the_roots(base: Built, text: str) -> None:
    """bad-input D61, D62: every key obeys the same rules."""
    for key in ("relative_path", "absolute_win32_path", "volume_path"):
        child = child_of(base, [windows_locator(base)[0], (key, text)])
        world = World(base.path.parent)
        with open_file(child.path) as file:
            found = resolve(formats.open_image(file), str(child.path), world)
        assert found.status is not Status.FOUND
        assert all(path.startswith(f"{base.path.parent}/") for path in world.opened)


def test_different_names_are_a_warning(base: Built) -> None:
    child = child_of(base, pairs(base, absolute_win32_path="C:\\VMs\\renamed.vhdx"))
    assert examine(child.path).codes == {"W_PARENT_NAMES_DIFFER"}
    assert status_of(child) == "found"


def test_strings_may_share_their_bytes(base: Built) -> None:
    """Nothing forbids it; a thousand pairs on one string are still only 256."""
    child = child_of(base)
    (first, length) = child.strings["parent_linkage"]
    item = child.items["parent_locator"][0]
    rows = {4: {"value_offset": first - item, "value_length": length}}
    child = child_of(base, locator_options={"rows": rows})
    result = examine(child.path)
    assert result.errors == set()
    assert [one.value for one in result.findings] == [f"{{{base.identity}}}"]


def test_a_disk_that_names_itself(base: Built) -> None:
    """bad-input D51."""
    own = uuid.uuid4()
    child = child_of(base, pairs(base, parent_linkage=f"{{{own}}}"), unique_id=own.bytes_le)
    assert examine(child.path).errors == {"E_CYCLE"}
    assert status_of(child) == "cycle"


def test_the_largest_locator_costs_little(base: Built) -> None:
    long = "x\\" * 16_000
    child = child_of(base, pairs(base, relative_path=f".\\{long}base.vhdx"))
    result = examine(child.path)
    assert result.errors == set()
    assert len(reference_of(result).locators) == 5
    assert base.path.stat().st_size < 16 * MIB
