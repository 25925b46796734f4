"""Replaying a log into the file, and mending damaged copies: whole or not at all, repeatable."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from disks.engine import chain, faults, formats
from disks.engine.changes import HeaderRewrite
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.tests.builders import (
    MIB,
    SECTOR,
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
    seven_zip_sha256,
)
from disks.tests.builders.vhdx_log import Entry, Page, Zeros
from disks.tests.builders.vhdx_parts import HEADER_AT, REGION_AT
from disks.tests.engine.cutting import PAGE, Recorder, cut_states
from disks.tests.engine.test_corpus import LOG_REPLAY
from disks.tests.engine.test_vhdx_bad_fields import reads
from disks.tests.engine.world import World, examine, open_file

CONTENT = [(0, b"\1" * MIB), (4090, b"\2" * SECTOR * 40)]


def replay(path: Path) -> None:
    with open_file(path, writable=True) as file:
        image = formats.open_image(file)
        assert image.log_waits
        image.replay_log()
    with open_file(path) as file:
        assert not formats.open_image(file).log_waits


def dirty(folder: Path) -> BuiltVhdx:
    """A child whose table, metadata, bitmap and data wait in four entries."""
    base = build_fixed_vhdx(folder, "base.vhdx", content=[(0, b"\7" * 4 * MIB)])
    child = build_differencing_vhdx(folder, "child.vhdx", base, content=CONTENT)
    size = child.path.stat().st_size
    pages = [child.table_offset, child.metadata_offset + 64 * 1024, child.bitmaps[0]]
    entries = [Entry([Page(offset, child.read(offset, PAGE))]) for offset in pages]
    block = child.blocks[0]
    entries.append(Entry([Zeros(block + PAGE, 3 * PAGE), Page(block, b"\5" * PAGE)]))
    entries.append(Entry([Page(block + 2 * PAGE, b"\6" * PAGE)], last=size + MIB))
    for offset in pages:
        child.patch(offset, b"\xdd" * PAGE)
    child.model[: 4 * PAGE] = b"\5" * PAGE + bytes(PAGE) + b"\6" * PAGE + bytes(PAGE)
    child.write_log(entries)
    return child


def differing_pages(one: bytes, other: bytes) -> set[int]:
    """Numbers of the pages that differ; what one of them does not have counts as zeros."""
    size = max(len(one), len(other))
    one, other = one.ljust(size, b"\0"), other.ljust(size, b"\0")
    return {
        at // PAGE for at in range(0, size, PAGE) if one[at : at + PAGE] != other[at : at + PAGE]
    }


def test_a_replay_brings_everything_to_its_place(tmp_path: Path) -> None:
    child = dirty(tmp_path)
    guids = [child.header(which) for which in (1, 2)]
    size = child.path.stat().st_size
    assert reads(child)
    replay(child.path)
    assert examine(child.path).codes <= {"N_UNUSED_SPACE"}
    assert reads(child)
    assert seven_zip_sha256(child) == child.sha256
    assert child.path.stat().st_size == size + MIB  # as the log says
    now = [child.header(which) for which in (1, 2)]
    assert {header["data_write_guid"] for header in now} == {child.unique_id}
    assert {header["log_guid"] for header in now} == {bytes(16)}
    assert {header["file_write_guid"] for header in now}.isdisjoint(
        header["file_write_guid"] for header in guids
    )
    assert min(header["sequence_number"] for header in now) > max(
        header["sequence_number"] for header in guids
    )


def test_the_real_log_of_windows(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "log-replay.vhdx"
    shutil.copy(corpus / "log-replay" / "vhdx-log-replay.vhdx", path)
    path.chmod(0o644)
    with open_file(path) as file:
        identity = formats.open_image(file).identity
    replay(path)
    with open_file(path) as file:
        image = formats.open_image(file)
        assert image.identity == identity
        assert check_image(file, deep=True) == []
    with chain.open_chain(str(path), World(tmp_path)) as opened:
        assert opened.sha256() == LOG_REPLAY
    assert seven_zip_sha256(path) == LOG_REPLAY
    done = subprocess.run(["qemu-img", "check", str(path)], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_that_is_cut_off_is_simply_done_again(tmp_path: Path, seed: int) -> None:
    """bad-input F86, F87: whatever state a cut leaves, and a cut of the second attempt, too."""
    child = dirty(tmp_path)
    original = child.path.read_bytes()
    with Recorder(child.path) as recorder:
        replay(child.path)
    finished = child.path.read_bytes()
    headers = {offset // PAGE for offset in HEADER_AT.values()}
    child.path.write_bytes(original)
    states = 0
    for step, how in cut_states(child.path, recorder.steps, seed):
        assert reads(child), (step, how)
        with open_file(child.path, writable=True) as file:
            image = formats.open_image(file)
            assert image.identity == child.identity
            if image.log_waits:
                image.replay_log()
        assert reads(child), (step, how)
        assert examine(child.path).errors == set()
        # All but the headers is as a replay without a cut leaves it.
        assert differing_pages(finished, child.path.read_bytes()) <= headers, (step, how)
        states += 1
    assert states > 20


@pytest.mark.parametrize("kind", ["eio", "enospc"])
def test_a_replay_that_fails_leaves_the_log_waiting(tmp_path: Path, kind: str) -> None:
    """bad-input F81, F84."""
    child = dirty(tmp_path)
    original = child.path.read_bytes()
    for number in range(1, 40):
        child.path.write_bytes(original)
        faults.install(faults.Fault("*", number, kind))
        failed = ""
        try:
            replay(child.path)
        except ImageError as error:
            failed = error.code
        finally:
            faults.install(None)
        assert failed in ("", "E_IO", "E_NOSPC")
        assert reads(child)
        if not failed:
            break
        with open_file(child.path, writable=True) as file:
            image = formats.open_image(file)
            if image.log_waits:
                image.replay_log()
        assert reads(child)
    else:
        pytest.fail("the replay never came to its end")
    assert number > 8


def test_an_empty_log_has_nothing_to_replay(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT)
    before = built.path.read_bytes()
    with open_file(built.path, writable=True) as file:
        image = formats.open_image(file)
        assert not image.log_waits
        with pytest.raises(ImageError) as caught:
            image.replay_log()
    assert caught.value.code == "E_NOTHING_TO_REPLAY"
    assert built.path.read_bytes() == before


def test_a_torn_last_entry_is_left_behind_for_good(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT)
    block = built.blocks[0]
    built.write_log(
        [
            Entry([Page(block, b"\5" * PAGE)]),
            Entry([Page(block + PAGE, b"\6" * PAGE)] * 3, damage="torn"),
        ]
    )
    built.model[:PAGE] = b"\5" * PAGE
    replay(built.path)
    assert reads(built)
    assert seven_zip_sha256(built) == built.sha256


def test_a_replay_mends_a_damaged_header_on_the_way(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT)
    built.move_into_log(built.blocks[0])
    built.patch_header(3 - built.current, wrong=True)
    replay(built.path)
    assert examine(built.path).findings == []
    assert reads(built)


def test_a_sparse_file_stays_sparse(tmp_path: Path) -> None:
    """Only what the log adds is reserved: the holes of the rest may be terabytes."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", size=1024 * MIB, block_size=256 * MIB, content=[(0, b"\1" * 4096)]
    )
    size = built.path.stat().st_size
    entry = Entry([Page(built.blocks[0], b"\5" * PAGE)], last=size + 2 * MIB)
    built.write_log([entry])
    before = built.path.stat().st_blocks * 512
    replay(built.path)
    assert built.path.stat().st_size == size + 2 * MIB
    assert built.path.stat().st_blocks * 512 < before + 3 * MIB


def test_a_disk_with_a_lost_log_is_never_written(tmp_path: Path) -> None:
    """bad-input C41."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT)
    built.write_log([Entry([Page(built.blocks[0], b"\5" * PAGE)], damage="crc")])
    from disks.engine.vhdx.replay import replay as replay_into

    before = built.path.read_bytes()
    with open_file(built.path, writable=True) as file, pytest.raises(ImageError) as caught:
        replay_into(file)
    assert caught.value.code == "E_VHDX_LOG"
    assert built.path.read_bytes() == before


# Repair


def carry_out(path: Path) -> HeaderRewrite:
    with open_file(path, writable=True) as file:
        rewrite = formats.open_image(file).plan_repair()
        for step in rewrite.steps:
            for write in step:
                file.write_at(write.offset, write.data)
        assert file.size_bytes == rewrite.size_after_bytes
    return rewrite


@pytest.mark.parametrize(
    "damaged",
    [["header1"], ["header2"], ["region1"], ["region2"], ["header1", "region2"],
     ["header2", "region1"]],
    ids="+".join,
)  # fmt: skip
def test_damaged_copies_are_mended(tmp_path: Path, damaged: list[str]) -> None:
    """bad-input C39."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT, damaged=damaged)
    places = {f"header{n}": HEADER_AT[n] for n in (1, 2)} | {
        f"region{n}": REGION_AT[n] for n in (1, 2)
    }
    rewrite = carry_out(built.path)
    assert {row.offset for row in rewrite.changes} == {places[one] for one in damaged}
    assert examine(built.path).findings == []
    assert reads(built)
    assert seven_zip_sha256(built) == built.sha256
    tables = [built.read(offset, 64 * 1024) for offset in REGION_AT.values()]
    assert tables[0] == tables[1]
    assert {built.header(which)["data_write_guid"] for which in (1, 2)} == {built.unique_id}
    done = subprocess.run(["qemu-img", "check", str(built.path)], capture_output=True, check=False)
    assert done.returncode == 0


def test_a_wholly_overwritten_region_table_is_mended(tmp_path: Path) -> None:
    """All of its sixteen pages go through the log."""
    for which in (1, 2):
        built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT)
        built.patch(REGION_AT[which], b"\xaa" * 64 * 1024)
        carry_out(built.path)
        assert examine(built.path).findings == []
        assert reads(built)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damaged", [["header1"], ["header2"], ["region1", "header2"], ["region2"]])
def test_a_repair_that_is_cut_off_makes_nothing_worse(
    tmp_path: Path, damaged: list[str], seed: int
) -> None:
    """bad-input F86: the disk reads in every state, and a second repair finishes it."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT, damaged=damaged)
    with open_file(built.path) as file:
        steps = formats.open_image(file).plan_repair().steps
    for step, how in cut_states(built.path, steps, seed, each=4):
        assert reads(built), (step, how)
        with open_file(built.path, writable=True) as file:
            image = formats.open_image(file)
            if image.log_waits:
                image.replay_log()
        if examine(built.path).findings != []:
            carry_out(built.path)
        assert examine(built.path).findings == []
        assert reads(built)


def test_qemu_finishes_a_repair_that_lies_in_the_log(tmp_path: Path) -> None:
    """The entries that we write are entries for others, too."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT, damaged=["region2"])
    with open_file(built.path, writable=True) as file:
        rewrite = formats.open_image(file).plan_repair()
        assert rewrite.logged_step is not None
        for step in rewrite.steps[: rewrite.logged_step]:
            for write in step:
                file.write_at(write.offset, write.data)
    assert examine(built.path).codes == {"W_LOG"}
    run = subprocess.run(
        ["qemu-img", "check", "-r", "all", str(built.path)], capture_output=True, check=False
    )
    assert run.returncode == 0
    assert built.read(REGION_AT[2], 64 * 1024) == built.read(REGION_AT[1], 64 * 1024)
    assert examine(built.path).errors == set()
    assert reads(built)


def test_sound_disks_have_nothing_to_repair(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    for built in (base, build_differencing_vhdx(tmp_path, "a.vhdx", base)):
        with open_file(built.path) as file, pytest.raises(ImageError) as caught:
            formats.open_image(file).plan_repair()
        assert caught.value.code == "E_NOTHING_TO_REPAIR"


def test_what_is_unclear_is_left_to_people(tmp_path: Path) -> None:
    """Two sound region tables that differ: no copy is damaged, so none is overwritten."""
    sound = build_dynamic_vhdx(tmp_path, "a.vhdx", content=CONTENT)
    built = build_dynamic_vhdx(
        tmp_path, "b.vhdx", content=CONTENT,
        second_regions=[(sound.read(REGION_AT[1] + 16, 16), 64 * MIB, MIB, 1)],
    )  # fmt: skip
    before = built.path.read_bytes()
    with open_file(built.path) as file, pytest.raises(ImageError) as caught:
        formats.open_image(file).plan_repair()
    assert caught.value.code == "E_NOTHING_TO_REPAIR"
    assert built.path.read_bytes() == before


def test_a_sequence_at_its_end_is_not_repaired(tmp_path: Path) -> None:
    """bad-input C38: the next header would count as older than the damaged one's predecessor."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=CONTENT, sequences=(2**64 - 2, 2**64 - 1), damaged=["header1"]
    )
    with open_file(built.path) as file, pytest.raises(ImageError) as caught:
        formats.open_image(file).plan_repair()
    assert caught.value.code == "E_VHDX_HEADER"


def test_a_log_at_the_end_of_the_sequence_is_not_replayed(tmp_path: Path) -> None:
    """bad-input C38: its own numbers would start again at zero."""
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=CONTENT, sequences=(2**64 - 2, 2**64 - 1)
    )
    built.move_into_log(built.blocks[0])
    before = built.path.read_bytes()
    with open_file(built.path, writable=True) as file, pytest.raises(ImageError) as caught:
        formats.open_image(file).replay_log()
    assert caught.value.code == "E_VHDX_HEADER"
    assert built.path.read_bytes() == before
