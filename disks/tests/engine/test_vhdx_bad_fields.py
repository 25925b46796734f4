"""Fields of a VHDX that lie (bad-input C38 to C47, C49): typed errors, findings, flat memory."""

from __future__ import annotations

import os
import resource
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disks.engine import chain, formats
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.images import DiskType
from disks.tests.builders import (
    MIB,
    SECTOR,
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
)
from disks.tests.builders.vhdx_parts import (
    BAT,
    HEADER_AT,
    METADATA,
    REGION_AT,
    WINDOWS_LOCATOR,
    guid,
)
from disks.tests.engine.world import Examination, World, examine, open_file

DATA = [(0, b"\1" * 1024), (4095, b"\2" * 1024)]
KIB = 1024
GIB = 1024 * MIB
TIB = 1024 * GIB
UNKNOWN = guid("6f0a1b2c-3d4e-4f50-8a6b-7c8d9e0f1a2b")
SPARE = 64 * MIB  # behind all blocks of a small disk


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def flatly(built: BuiltVhdx | Path) -> Examination:
    """Examine a file within a bound of memory."""
    tracemalloc.start()
    try:
        result = examine(Path(built))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB
    return result


def opened_error(built: BuiltVhdx | Path) -> ImageError:
    """The error of opening, which check tells, too."""
    result = flatly(built)
    assert result.error is not None
    assert result.image is None
    assert result.error.file == str(Path(built))
    assert result.error.code in result.errors
    return result.error


def at(error: ImageError) -> tuple[str, str | None, int | None, Any]:
    return error.code, error.field, error.offset, error.value


def refused(result: Examination) -> str | None:
    assert result.image is not None
    refusal = result.image.write_refusal
    return None if refusal is None else refusal.code


def reads(built: BuiltVhdx) -> bool:
    with chain.open_chain(str(built.path), World(built.path.parent)) as opened:
        return opened.read(0, opened.sectors) == built.model


# C38: headers


def test_c38_two_damaged_headers_are_refused(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, damaged=["header1", "header2"])
    error = opened_error(built)
    assert (error.code, error.field) == ("E_VHDX_HEADER", "checksum")
    assert error.offset in HEADER_AT.values()
    assert formats.by_name("vhdx").raw_regions(open_file(built.path))


@pytest.mark.parametrize("signature", [b"HEAD", bytes(4)])
def test_c38_headers_without_their_signature_are_refused(tmp_path: Path, signature: bytes) -> None:
    wrong = {"signature": signature}
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, headers={1: wrong, 2: wrong})
    assert opened_error(built).code == "E_VHDX_HEADER"


def test_c38_equal_numbers_with_different_content_are_refused(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, sequences=(7, 7),
                               headers={2: {"data_write_guid": UNKNOWN}})  # fmt: skip
    error = opened_error(built)
    assert (error.code, error.field, error.value) == ("E_VHDX_HEADER", "sequence_number", 7)
    assert error.offset in [place + 8 for place in HEADER_AT.values()]


def test_c38_two_identical_headers_are_read(tmp_path: Path) -> None:
    """disk2vhd writes them."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, sequences=(7, 7))
    result = examine(built.path)
    assert result.errors == set()
    assert len(result.findings) == 1
    assert result.findings[0].field == "sequence_number"
    assert refused(result) is None
    assert reads(built)


@pytest.mark.parametrize("sequence", [2**64 - 1, 2**64 - 2])
def test_c38_the_highest_number_is_never_counted_on(tmp_path: Path, sequence: int) -> None:
    """cloud-hypervisor 8799: one more is zero, and the older header wins."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, sequences=(sequence, sequence - 1))
    result = examine(built.path)
    assert result.errors == {"E_VHDX_HEADER"}
    finding = result.finding("E_VHDX_HEADER")
    assert (finding.field, finding.offset, finding.value) == (
        "sequence_number",
        HEADER_AT[1] + 8,
        sequence,
    )
    assert refused(result) == "E_VHDX_HEADER"
    assert reads(built)


@pytest.mark.parametrize("sequences", [(0, 1), (1, 0), (2**32, 2**32 - 1), (2**63, 5)])
def test_the_header_with_the_higher_number_is_current(
    tmp_path: Path, sequences: tuple[int, int]
) -> None:
    """QEMU gives each of the two another DataWriteGuid: only the current one's counts."""
    stale = 1 if sequences[0] < sequences[1] else 2
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, sequences=sequences,
                               headers={stale: {"data_write_guid": UNKNOWN}})  # fmt: skip
    result = examine(built.path)
    assert result.image is not None
    assert result.image.identity == built.identity
    assert result.errors == set()
    assert refused(result) is None


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", headers={2: {"version": 2}})
    assert at(opened_error(built)) == ("E_VERSION", "version", HEADER_AT[2] + 66, 2)


# C39: one copy damaged


@pytest.mark.parametrize("which", [1, 2])
def test_c39_one_damaged_header_is_a_warning(tmp_path: Path, which: int) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, damaged=[f"header{which}"])
    result = examine(built.path)
    assert result.errors == set()
    finding = result.finding("W_HEADER_COPY")
    assert (str(finding.level), finding.offset) == ("warning", HEADER_AT[which])
    assert result.image is not None
    assert result.image.identity == built.identity
    assert reads(built)


@pytest.mark.parametrize("which", [1, 2])
def test_c39_one_damaged_region_table_is_a_warning(tmp_path: Path, which: int) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, damaged=[f"region{which}"])
    result = examine(built.path)
    assert result.errors == set()
    finding = result.finding("W_REGION_COPY")
    assert (str(finding.level), finding.offset) == ("warning", REGION_AT[which])
    assert reads(built)


def test_c39_a_flipped_bit_anywhere_in_a_copy_is_noticed(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    for start, length, code in [
        (HEADER_AT[2], 4096, "W_HEADER_COPY"),
        (REGION_AT[1], 64 * KIB, "W_REGION_COPY"),
    ]:
        for offset in (0, 5, 8, 80, length // 2, length - 1):
            (byte,) = built.read(start + offset, 1)
            built.patch(start + offset, bytes([byte ^ 0x10]))
            assert code in examine(built.path).codes
            built.patch(start + offset, bytes([byte]))
    assert examine(built.path).codes == set()


def test_c39_two_damaged_region_tables_are_refused(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, damaged=["region1", "region2"])
    error = opened_error(built)
    assert (error.code, error.field) == ("E_VHDX_REGION", "checksum")
    assert error.offset in REGION_AT.values()


def test_c39_two_sound_region_tables_that_differ_are_a_warning(tmp_path: Path) -> None:
    """The first one counts."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=DATA,
        second_regions=[(BAT, SPARE, MIB, 1), (METADATA, 2 * SPARE, MIB, 1)],
    )  # fmt: skip
    result = examine(built.path)
    assert result.errors == set()
    assert "W_REGIONS_DIFFER" in result.codes
    assert reads(built)


# C42: regions


def wrong_regions(**fields: Any) -> dict[str, Any]:
    return {"region_fields": fields}


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"region_count": 2048}, 2048),
        ({"region_count": 2**32 - 1}, 2**32 - 1),
        ({"regions": [(BAT, SPARE, MIB, 1)]}, None),
        ({"regions": [(METADATA, SPARE, MIB, 1)]}, None),
        ({"regions": [(UNKNOWN, SPARE, MIB, 0), (UNKNOWN, 2 * SPARE, MIB, 0)]}, None),
        ({"regions": [(UNKNOWN, SPARE, MIB, 1)]}, "6f0a1b2c-3d4e-4f50-8a6b-7c8d9e0f1a2b"),
        (wrong_regions(bat={"id": UNKNOWN, "required": 0}), None),
        (wrong_regions(metadata={"id": UNKNOWN, "required": 0}), None),
        (wrong_regions(bat={"offset": 0}), 0),
        (wrong_regions(bat={"offset": 64 * KIB}), 64 * KIB),
        (wrong_regions(bat={"offset": 3 * MIB + 512}), 3 * MIB + 512),
        (wrong_regions(bat={"offset": 2**63}), 2**63),
        (wrong_regions(bat={"offset": 2**64 - MIB}), 2**64 - MIB),
        (wrong_regions(bat={"length": 0}), 0),
        (wrong_regions(bat={"length": MIB + 4096}), MIB + 4096),
        (wrong_regions(bat={"length": 0xFFF00000}), None),
        (wrong_regions(metadata={"offset": MIB - 4096}), MIB - 4096),
        (wrong_regions(metadata={"offset": SPARE}), SPARE),
        (wrong_regions(metadata={"offset": 3 * MIB}), None),
        (wrong_regions(metadata={"offset": 1 * MIB}), None),
        (wrong_regions(bat={"offset": 2 * MIB, "length": 2 * MIB}), None),
    ],
)
def test_c42_impossible_region_tables(
    tmp_path: Path, options: dict[str, Any], value: int | str | None
) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, **options)
    error = opened_error(built)
    assert error.code == "E_VHDX_REGION"
    assert error.field
    assert error.offset is not None
    assert REGION_AT[1] <= error.offset < REGION_AT[1] + 64 * KIB
    assert error.value is not None
    if value is not None:
        assert error.value == value


def test_c42_an_unknown_region_that_is_not_required_is_a_warning(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=DATA, append=60 * MIB, regions=[(UNKNOWN, SPARE - MIB, MIB, 0)]
    )
    result = examine(built.path)
    assert result.errors == set()
    assert [str(one.level) for one in result.findings if "REGION" in one.code] == ["warning"]
    assert reads(built)


def test_c42_an_unknown_region_may_not_lie_over_blocks_either(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    place = built.blocks[1] + MIB
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, regions=[(UNKNOWN, place, MIB, 0)])
    assert examine(built.path).errors == {"E_VHDX_BAT"}


def test_regions_that_qemu_does_not_mark_as_required(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(
        tmp_path,
        "a.vhdx",
        content=DATA,
        **wrong_regions(bat={"required": 0}, metadata={"required": 0}),
    )
    result = examine(built.path)
    assert result.errors == set()
    assert {one.field for one in result.findings} == {"required"}
    assert reads(built)


# C43: metadata


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 0},
        {"offset": 4096},
        {"offset": 64 * KIB - 4},
        {"offset": MIB - 4},
        {"offset": MIB},
        {"offset": 2**32 - 1},
        {"length": 0},
        {"length": 4},
        {"length": 16},
        {"length": MIB + 1},
        {"length": 2**32 - 1},
        {"offset": 2**32 - 4, "length": 8},
        {"item_id": UNKNOWN},
    ],
)
@pytest.mark.parametrize("item", ["file_parameters", "virtual_disk_size"])
def test_c43_impossible_items(tmp_path: Path, item: str, fields: dict[str, Any]) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    built.patch_row(item, **fields)
    error = opened_error(built)
    assert error.code == "E_VHDX_METADATA"
    assert error.field
    assert error.offset is not None
    assert built.metadata_offset <= error.offset < built.metadata_offset + MIB
    assert error.value is not None


@pytest.mark.parametrize(
    "item",
    [
        "file_parameters",
        "virtual_disk_size",
        "virtual_disk_id",
        "logical_sector_size",
        "physical_sector_size",
    ],
)
def test_c43_every_item_but_the_locator_must_be_there(tmp_path: Path, item: str) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, items={item: None})
    error = opened_error(built)
    assert error.code == "E_VHDX_METADATA"
    assert item.replace("_", " ") in error.message


def test_c43_the_tables_own_numbers(tmp_path: Path) -> None:
    for count in (2048, 65535):
        built = build_dynamic_vhdx(tmp_path, "a.vhdx", metadata_count=count)
        error = opened_error(built)
        assert (error.code, error.value) == ("E_VHDX_METADATA", count)
        assert error.offset == built.metadata_offset + 10
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    built.patch(built.metadata_offset, b"METADATA")
    error = opened_error(built)
    assert at(error)[:3] == ("E_VHDX_METADATA", "signature", built.metadata_offset)


def test_c43_two_items_of_one_kind(tmp_path: Path) -> None:
    size = guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", extra_items=[(size, 6, u64(4 * MIB))])
    assert opened_error(built).code == "E_VHDX_METADATA"
    # A user's item of the same name is another item.
    built = build_dynamic_vhdx(tmp_path, "b.vhdx", content=DATA, extra_items=[(size, 1, u64(999))])
    result = examine(built.path)
    assert result.errors == set()
    assert result.image is not None
    assert result.image.virtual_size_bytes == 4 * MIB


def test_c43_items_may_not_overlap(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx")
    built.patch_row("virtual_disk_id", offset=64 * KIB + 4)
    assert opened_error(built).code == "E_VHDX_METADATA"


def test_c43_unknown_items(tmp_path: Path) -> None:
    """Required by the system: refused. Not required, or a user's: kept and told."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", extra_items=[(UNKNOWN, 4, b"x" * 12)])
    error = opened_error(built)
    assert (error.code, error.value) == ("E_VHDX_METADATA", "6f0a1b2c-3d4e-4f50-8a6b-7c8d9e0f1a2b")
    assert error.offset == built.rows["extra0"]
    for flags in (0, 1, 2):
        built = build_dynamic_vhdx(
            tmp_path, "b.vhdx", content=DATA, extra_items=[(UNKNOWN, flags, b"x" * 12)]
        )
        result = examine(built.path)
        assert result.errors == set()
        assert [one.offset for one in result.findings] == [built.rows["extra0"]]
        assert reads(built)


def test_c43_an_empty_item_is_present(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", extra_items=[(UNKNOWN, 1, b"")])
    assert examine(built.path).errors == set()


def test_c43_a_disk_that_was_never_finished(tmp_path: Path) -> None:
    """OpenVMM marks a disk under creation with an item."""
    incomplete = guid("71CC85F0-1B69-4E28-9558-C3BF83AE75D3")
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", extra_items=[(incomplete, 0, b"")])
    error = opened_error(built)
    assert error.code == "E_VHDX_METADATA"
    assert "never finished" in error.message


def test_c43_too_many_users_items(tmp_path: Path) -> None:
    """At most 1,024 of them have room by the text."""
    items = [(struct.pack("<QQ", number, number), 1, b"") for number in range(1, 1026)]
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", extra_items=items[:1024])
    assert examine(built.path).errors == set()
    built = build_dynamic_vhdx(tmp_path, "b.vhdx", extra_items=items)
    assert opened_error(built).code == "E_VHDX_METADATA"


# C44, C45: sizes


@pytest.mark.parametrize(
    "size",
    [0, 1, 511, 4 * MIB + 100, 64 * TIB + 512, (2**32 + 25) * MIB, 2**63, 2**64 - 1, 2**64 - 512],
)
def test_c44_impossible_virtual_sizes(tmp_path: Path, size: int) -> None:
    """QEMU 4033, 4390, 4470, 4487."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=DATA, items={"virtual_disk_size": u64(size)}
    )
    offset = built.items["virtual_disk_size"][0]
    assert at(opened_error(built)) == ("E_SIZE", "virtual_disk_size", offset, size)


def test_c44_a_size_between_two_large_sectors(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", logical_sector=4096, items={"virtual_disk_size": u64(MIB + 512)}
    )
    error = opened_error(built)
    assert (error.code, error.value) == ("E_SIZE", MIB + 512)


@pytest.mark.parametrize(
    "block", [0, 1, 512, 512 * KIB, 3 * MIB, MIB + 1, 512 * MIB, 2**31, 2**32 - 1]
)
def test_c45_impossible_block_sizes(tmp_path: Path, block: int) -> None:
    """CVE-2014-0148 among them."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=DATA, items={"file_parameters": u32(block) + u32(0)}
    )
    offset = built.items["file_parameters"][0]
    assert at(opened_error(built)) == ("E_BLOCK_SIZE", "block_size", offset, block)


@pytest.mark.parametrize("item", ["logical_sector_size", "physical_sector_size"])
@pytest.mark.parametrize("size", [0, 1, 520, 1024, 8192, 2**31, 2**32 - 1])
def test_c45_impossible_sector_sizes(tmp_path: Path, item: str, size: int) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, items={item: u32(size)})
    assert at(opened_error(built)) == ("E_BLOCK_SIZE", item, built.items[item][0], size)


@pytest.mark.parametrize("blocks", [2**17 + 2, 2**20, 2**26])
def test_c44_a_table_too_small_for_the_size(tmp_path: Path, blocks: int) -> None:
    """The size asks for more table than the region has; nothing is allocated for it."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", block_size=MIB, items={"virtual_disk_size": u64(blocks * MIB)}
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = opened_error(built)
    entries = blocks + (blocks - 1) // 4096
    assert at(error) == ("E_VHDX_BAT", "block_allocation_table", built.table_offset, entries)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB


def test_c44_the_table_counts_the_bitmap_entries_in_between(tmp_path: Path) -> None:
    """131,072 entries have room in 1 MiB; with the bitmaps' of each chunk they are more."""
    fits = 131_072 - 31  # 31 chunks of 4,096 blocks are followed by another
    size = u64(fits * MIB)
    for blocks, code in ((fits, None), (fits + 1, "E_VHDX_BAT")):
        size = u64(blocks * MIB)
        built = build_dynamic_vhdx(
            tmp_path, "a.vhdx", block_size=MIB, items={"virtual_disk_size": size}
        )
        assert examine(built.path).code == code
    # A differencing disk has whole chunks: each of 4,097 entries.
    base = build_dynamic_vhdx(tmp_path, "base.vhdx")
    for chunks, code in ((31, None), (32, "E_VHDX_BAT")):
        built = build_differencing_vhdx(
            tmp_path, "b.vhdx", base, block_size=MIB,
            items={"virtual_disk_size": u64((chunks * 4096 - 5) * MIB)},
        )  # fmt: skip
        assert examine(built.path).code == code


def test_c46_a_table_of_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    """The room is there, as a hole: 64 TiB of 1 MiB blocks have a table of 512 MiB."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", block_size=MIB, size=64 * TIB, content=[(5, b"\1" * SECTOR)]
    )
    result = flatly(built)
    assert result.errors == set()
    assert result.image is not None
    assert result.image.blocks_allocated() == 1


# C46: the BAT


def bat_error(built: BuiltVhdx, first: int, index_at: int, value: int) -> ImageError:
    """The one finding of check, and the same error where its sectors are read."""
    result = examine(built.path)
    assert result.errors == {"E_VHDX_BAT"}
    finding = result.finding("E_VHDX_BAT")
    assert (finding.field, finding.offset, finding.value) == (
        "block_allocation_table",
        index_at,
        value,
    )
    with chain.open_chain(str(built.path), World(built.path.parent)) as opened:
        with pytest.raises(ImageError) as caught:
            opened.read(first, 1)
        assert caught.value.file == str(built.path)
        assert (caught.value.code, caught.value.offset) == ("E_VHDX_BAT", index_at)
        other = 0 if first >= 4096 else 4096
        assert opened.read(other, 1) == bytes(built.model[other * SECTOR : (other + 1) * SECTOR])
    return caught.value


@pytest.mark.parametrize("state", [4, 5])
def test_c46_reserved_states(tmp_path: Path, state: int) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    built.patch_entry(1, state, built.blocks[1])
    bat_error(built, 4096, built.entry_at(1), built.blocks[1] | state)


@pytest.mark.parametrize("build", [build_dynamic_vhdx, build_fixed_vhdx])
def test_c46_partly_present_without_a_parent(
    tmp_path: Path, build: Callable[..., BuiltVhdx]
) -> None:
    built = build(tmp_path, "a.vhdx", content=DATA)
    built.patch_entry(1, 7, built.blocks[1])
    bat_error(built, 4096, built.entry_at(1), built.blocks[1] | 7)


@pytest.mark.parametrize("state", [6, 7])
def test_c46_present_at_no_place(tmp_path: Path, state: int) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    built = build_differencing_vhdx(tmp_path, "a.vhdx", base, content=DATA)
    built.patch_entry(1, state, 0)
    bat_error(built, 4096, built.entry_at(1), state)


def test_c46_a_bitmap_that_is_missing(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    built = build_differencing_vhdx(tmp_path, "a.vhdx", base, content=[(4096, b"\2" * SECTOR)])
    built.patch(built.bitmap_entry_at(0), bytes(8))
    error = bat_error(built, 4096, built.bitmap_entry_at(0), 0)
    assert "bitmap is missing" in error.message


@pytest.mark.parametrize("place", [0, 64 * KIB & ~0xFFFFF, 2**40, 2**64 - MIB, -1])
def test_c46_a_bitmap_outside_of_the_file(tmp_path: Path, place: int) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    built = build_differencing_vhdx(tmp_path, "a.vhdx", base, content=[(4096, b"\2" * SECTOR)])
    if place == -1:
        place = built.path.stat().st_size
    built.patch(built.bitmap_entry_at(0), u64(place | 6))
    bat_error(built, 4096, built.bitmap_entry_at(0), place | 6)


@pytest.mark.parametrize("place", ["headers", "log", "metadata", "table"])
def test_c46_blocks_over_the_disks_own_structures(tmp_path: Path, place: str) -> None:
    """They are never served as data."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    offset = {
        "headers": 0,
        "log": built.log_offset,
        "metadata": built.metadata_offset,
        "table": built.table_offset,
    }[place]
    built.patch_entry(1, 6, offset)
    bat_error(built, 4096, built.entry_at(1), offset | 6)


@pytest.mark.parametrize("place", ["log", "metadata", "table"])
def test_c46_bitmaps_over_the_disks_own_structures(tmp_path: Path, place: str) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    built = build_differencing_vhdx(tmp_path, "a.vhdx", base, content=[(4096, b"\2" * SECTOR)])
    offset = {
        "log": built.log_offset,
        "metadata": built.metadata_offset,
        "table": built.table_offset,
    }[place]
    built.patch(built.bitmap_entry_at(0), u64(offset | 6))
    bat_error(built, 4096, built.bitmap_entry_at(0), offset | 6)
    # And where no block needs it.
    built.patch_entry(1, 0)
    assert examine(built.path).errors == {"E_VHDX_BAT"}


@pytest.mark.parametrize("beyond", [0, 1, 1000, 2**20, 2**43])
def test_c46_blocks_outside_of_the_file(tmp_path: Path, beyond: int) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    offset = built.path.stat().st_size + (beyond - 1) * MIB
    built.patch_entry(1, 6, offset)
    bat_error(built, 4096, built.entry_at(1), offset | 6)


@pytest.mark.parametrize("shift", [0, 1, -1])
def test_c46_blocks_that_overlap(tmp_path: Path, shift: int) -> None:
    content = [(0, b"\1" * 512), (4096, b"\2" * 512), (8192, b"\3" * 512)]
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", size=6 * MIB, content=content)
    place = built.blocks[1] + shift * MIB
    built.patch_entry(0, 6, place)
    result = examine(built.path)
    assert result.errors == {"E_VHDX_BAT"}
    finding = result.finding("E_VHDX_BAT")
    assert finding.offset in (built.entry_at(0), built.entry_at(1), built.entry_at(2))
    assert "share" in finding.message


def test_c46_a_bitmap_that_overlaps_a_block(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    built = build_differencing_vhdx(tmp_path, "a.vhdx", base, content=[(4096, b"\2" * SECTOR)])
    built.patch(built.bitmap_entry_at(0), u64(built.blocks[1] + MIB | 6))
    result = examine(built.path)
    assert "E_VHDX_BAT" in result.errors
    assert any("share" in one.message for one in result.findings)


@pytest.mark.parametrize("bits", [0x8, 0x80000, 0xFFFF8])
def test_c46_reserved_bits_in_use(tmp_path: Path, bits: int) -> None:
    """They are told, and never taken for a part of the place."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    built.patch_entry(1, 6, built.blocks[1] | bits)
    result = examine(built.path)
    assert result.errors == {"E_VHDX_BAT"}
    assert result.finding("E_VHDX_BAT").offset == built.entry_at(1)
    assert reads(built)


def test_c46_many_alike_findings_are_cut_short(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", size=400 * MIB, block_size=MIB, bat=dict.fromkeys(range(400), 6)
    )
    findings = [one for one in examine(built.path).findings if one.code == "E_VHDX_BAT"]
    assert len(findings) == 21
    assert "not listed" in findings[-1].message


def test_c46_a_million_blocks_are_checked_in_time(tmp_path: Path) -> None:
    """A file of 2 TiB apparent size, every block allocated, two of them twice."""
    blocks = 1_000_000
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", size=blocks * 2 * MIB)
    ratio = built.per_chunk
    first = 64 * MIB
    table: list[int] = []
    for start in range(0, blocks, ratio):
        table += range(first + start * 2 * MIB | 6, first + (start + ratio) * 2 * MIB, 2 * MIB)
        table.append(0)
    entries = blocks + (blocks - 1) // ratio
    table = table[:entries]
    table[777_777] = table[5]
    table[900_000] = table[3] + MIB
    with built.path.open("r+b") as file:
        file.truncate(first + (blocks + 4096) * 2 * MIB)
        file.seek(built.table_offset)
        file.write(struct.pack(f"<{entries}Q", *table))
    with open_file(built.path) as file_:
        started = time.process_time()
        findings = check_image(file_)
        assert time.process_time() - started < 2
    overlaps = [one for one in findings if one.code == "E_VHDX_BAT"]
    assert len(overlaps) == 3
    built.path.unlink()


def test_a_bitmap_in_a_disk_without_a_parent_is_a_warning(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", size=4 * GIB + 2 * MIB, content=[(0, b"\1" * 512)], append=2 * MIB
    )
    built.patch(built.bitmap_entry_at(0), u64(built.blocks[0] + 2 * MIB | 6))
    result = examine(built.path)
    assert result.errors == set()
    assert result.finding("W_BITMAP_UNUSED").offset == built.bitmap_entry_at(0)


def test_entries_beyond_the_size_are_a_warning(tmp_path: Path) -> None:
    """bad-input A23, for VHDX: a differencing disk's table has whole chunks; what they hold
    behind the disk's end is never read and not counted."""
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    built = build_differencing_vhdx(
        tmp_path, "a.vhdx", base, content=[(4096, b"\2" * SECTOR)], append=2 * MIB
    )
    end = built.path.stat().st_size
    for value in (end - 2 * MIB | 6, end + 2**40 | 7, 4, 2**63 | 6):
        built.patch(built.entry_at(2), u64(value))
        result = examine(built.path)
        assert result.errors == set()
        finding = result.finding("W_BAT_BEYOND_SIZE")
        assert (finding.offset, finding.value) == (built.entry_at(2), value)
        assert result.image is not None
        assert (result.image.blocks_total, result.image.blocks_allocated()) == (2, 1)
        assert reads(built)


@pytest.mark.parametrize("state", [1, 2, 3, 4, 5, 7])
def test_c46_states_that_no_bitmap_has(tmp_path: Path, state: int) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    built = build_differencing_vhdx(tmp_path, "a.vhdx", base, content=[(4096, b"\2" * SECTOR)])
    value = built.bitmaps[0] | state
    built.patch(built.bitmap_entry_at(0), u64(value))
    result = examine(built.path)
    assert result.errors == {"E_VHDX_BAT"}
    assert result.finding("E_VHDX_BAT").value == value


# C47: types


def test_c47_a_parent_without_a_locator(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    built = build_differencing_vhdx(tmp_path, "a.vhdx", base, items={"parent_locator": None})
    offset = built.items["file_parameters"][0] + 4
    assert at(opened_error(built)) == ("E_TYPE_CONFLICT", "has_parent", offset, 1)


def test_c47_a_locator_without_a_parent(tmp_path: Path) -> None:
    """QEMU refuses even a stray locator."""
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    for flags in (0, 1):
        built = build_differencing_vhdx(
            tmp_path, "a.vhdx", base, items={"file_parameters": u32(2 * MIB) + u32(flags)}
        )
        error = opened_error(built)
        assert (error.code, error.field) == ("E_TYPE_CONFLICT", "has_parent")


# C49: text


@pytest.mark.parametrize(
    ("creator", "shown"),
    [
        ("x" * 256, "x" * 256),
        ("evil\u202etxt.vhd\u2066", "evil\\u202etxt.vhd\\u2066"),
        ("\x1b[2J\x07\r\n", "\\u001b[2J\\u0007\\u000d\\u000a"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("Müller 💽", "Müller 💽"),
        ("", ""),
    ],
)
def test_c49_the_creators_text_is_escaped(tmp_path: Path, creator: str, shown: str) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, creator=creator)
    result = examine(built.path)
    assert result.errors == set()
    assert result.image is not None
    assert result.image.creator == shown


@pytest.mark.parametrize("raw", [b"\xff" * 512, b"\x00\xd8" * 256, b"\0\0x\0" * 128])
def test_c49_a_creator_that_is_no_text(tmp_path: Path, raw: bytes) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, creator=raw)
    result = examine(built.path)
    assert result.errors == set()
    assert result.image is not None
    assert result.image.creator.isprintable()


# Others


def test_an_empty_identity_is_no_parent(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", content=DATA, unique_id=bytes(16))
    result = examine(base.path)
    assert result.errors == {"E_IDENTITY"}
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base)
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), World(tmp_path))
    assert caught.value.code == "E_LOCATOR"


@pytest.mark.parametrize(
    "cut", [8, 512, 64 * KIB, 64 * KIB + 80, 128 * KIB, 192 * KIB + 16, 320 * KIB, MIB, 2 * MIB]
)
def test_a_file_that_was_cut_off_early(tmp_path: Path, cut: int) -> None:
    """bad-input A27, for VHDX: whatever is missing is told, with a code of what it was."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, cut_to=cut)
    result = examine(built.path)
    assert result.code in {
        "E_TOO_SMALL",
        "E_VHDX_HEADER",
        "E_VHDX_REGION",
        "E_VHDX_METADATA",
        "E_TRUNCATED",
    }


def test_a_file_that_was_cut_off_in_a_block(tmp_path: Path) -> None:
    """bad-input A27, for VHDX."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    with built.path.open("r+b") as file:
        file.truncate(built.blocks[1] + MIB)
    bat_error(built, 4096, built.entry_at(1), built.blocks[1] | 6)


def test_room_behind_the_last_block_is_a_note(tmp_path: Path) -> None:
    """bad-input A28, for VHDX."""
    for room in (1, 512, 3 * MIB, 3 * GIB):
        built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, append=room)
        result = examine(built.path)
        assert result.codes == {"N_UNUSED_SPACE"}
        assert result.finding("N_UNUSED_SPACE").value == room
        assert reads(built)
        built.path.unlink()


def test_sixteen_exbibytes_cost_nothing(tmp_path: Path) -> None:
    """bad-input A29, for VHDX: as far as this file system goes."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA)
    for power in range(63, 40, -1):
        try:
            os.truncate(built.path, 2**power - MIB)
            break
        except OSError:
            continue
    assert examine(built.path).errors == set()
    built.path.unlink()


def test_check_goes_on_after_the_first(tmp_path: Path) -> None:
    """Where it cannot be opened, too: everything that is wrong is told at once."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", damaged=["header1", "region1"],
        items={"file_parameters": u32(3 * MIB) + u32(0), "virtual_disk_size": u64(0)},
    )  # fmt: skip
    result = examine(built.path)
    assert result.code is not None
    assert result.errors == {"E_BLOCK_SIZE", "E_SIZE"}
    assert result.codes - result.errors == {"W_HEADER_COPY", "W_REGION_COPY"}


def test_everything_at_once(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx", size=8 * MIB)
    built = build_differencing_vhdx(
        tmp_path, "a.vhdx", base, size=8 * MIB, content=[*DATA, (8192, b"\3" * 512)],
        damaged=["header1"], extra_items=[(UNKNOWN, 0, b"x")],
        locator=[("parent_linkage", "nonsense"), ("relative_path", ".\\base.vhdx")],
    )  # fmt: skip
    built.patch_entry(0, 4)
    built.patch_entry(3, 2, MIB)
    result = examine(built.path)
    assert result.errors == {"E_VHDX_BAT", "E_LOCATOR"}
    assert result.codes - result.errors == {"W_HEADER_COPY", "N_METADATA_ITEM", "W_BAT_OFFSET"}
    assert result.image is not None
    assert result.image.disk_type is DiskType.DIFFERENCING
    assert WINDOWS_LOCATOR in built.read(*built.items["parent_locator"])
