"""Converting: what comes out in every direction, what is refused, what stays as it was."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import uuid
from pathlib import Path
from typing import Any

import pytest

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.units import GIB
from disks.operations import convert, create
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress
from disks.operations.storage_roots import Root
from disks.tests.builders import (
    MIB,
    SECTOR,
    build_differencing,
    build_differencing_vhdx,
    build_dynamic,
    build_dynamic_vhdx,
    build_fixed,
)
from disks.tests.operations import worlds
from disks.tests.operations.kinds import IDS, KINDS, Kind, every_kind, needs_7z, needs_qemu, readers
from disks.tests.operations.worlds import BLOCK, KIB, chain, content_of, errors_in, noise, roots_of

SIZE = 200 * KIB  # ends inside of a block
CONTENT = [(0, noise(1, 70)), (96, bytes(32 * SECTOR)), (130, noise(2, 7)), (390, noise(3, 10))]


def converted(source: Path | str, output: Path | str, **options: Any) -> dict[str, Any]:
    roots = roots_of(Path(source).parent)
    plan = convert.plan(str(source), str(output), roots, **options)
    assert plan.refused is None, plan.refused
    done = convert.apply(plan, roots, job="7", token=3)
    assert done["file_size_after_bytes"] == os.path.getsize(output)
    assert done["file_size_after_bytes"] <= plan.predicted_size_bytes
    return done


def refusal(source: Path | str, output: Path | str, **options: Any) -> ImageError:
    """The plan's refusal; applying it all the same raises the same and leaves no trace."""
    folder = Path(source).parent
    before = worlds.snapshot(folder)
    roots = options.pop("roots", roots_of(folder))
    plan = convert.plan(str(source), str(output), roots, **options)
    assert plan.refused is not None
    with pytest.raises(ImageError) as caught:
        convert.apply(plan, roots)
    assert caught.value.code == plan.refused.code
    assert worlds.snapshot(folder) == before
    return plan.refused


def described(path: Path | str) -> tuple[str, str, int, str]:
    with roots_of(Path(path).parent).open(str(path)) as file:
        image = open_image(file)
        return (
            image.format_name,
            str(image.disk_type),
            image.virtual_size_bytes,
            image.identity,
        )


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@needs_7z
@needs_qemu
@every_kind
@pytest.mark.parametrize("shape", ["fixed", "dynamic", "chain"])
@pytest.mark.parametrize("disk_type", ["fixed", "dynamic"])
@pytest.mark.parametrize("target", KINDS, ids=IDS)
def test_any_disk_becomes_fixed_or_dynamic_in_any_format_with_the_same_content(
    tmp_path: Path, kind: Kind, shape: str, disk_type: str, target: Kind
) -> None:
    source = kind.make(tmp_path, shape)
    before = worlds.snapshot(tmp_path)
    new = tmp_path / f"new{target.extension}"
    done = converted(source.path, new, disk_type=disk_type)
    assert described(new)[:3] == (target.name, disk_type, kind.size)
    assert described(new)[3] != source.identity
    assert content_of(new) == source.sha256
    assert readers(target, new, bytes(source.model)) == {"7-Zip", "qemu"}
    assert errors_in(new) == []
    assert done["proof"].startswith("xxh3-128:")
    after = worlds.snapshot(tmp_path)
    assert after.pop(new.name)
    assert after == before


@every_kind
@pytest.mark.parametrize("shape", ["fixed", "dynamic", "chain"])
def test_a_plain_image_is_exactly_the_bytes_of_the_disk_without_holes(
    tmp_path: Path, kind: Kind, shape: str
) -> None:
    """bad-input R9: what others may open never gets holes."""
    source = kind.make(tmp_path, shape)
    new = tmp_path / "new.img"
    done = converted(source.path, new)
    assert done["format"] == "raw"
    assert sha256(new) == source.sha256
    assert new.stat().st_blocks * 512 >= kind.size
    assert done["commands"] == []


@pytest.mark.parametrize("disk_type", [None, "fixed", "dynamic"])
@every_kind
def test_a_plain_image_becomes_a_disk(tmp_path: Path, kind: Kind, disk_type: str | None) -> None:
    """Its holes are zeros of the disk."""
    plain = tmp_path / "stick.raw"
    content = bytearray(8192 * KIB)
    content[:8192] = noise(1, 16)
    content[-512:] = noise(2, 1)
    with plain.open("wb") as file:
        file.truncate(len(content))
        file.write(content[:8192])
        file.seek(-512, os.SEEK_END)
        file.write(content[-512:])
    new = tmp_path / f"new{kind.extension}"
    done = converted(plain, new, source_is_raw=True, disk_type=disk_type)
    assert described(new)[:3] == (kind.name, disk_type or "dynamic", len(content))
    assert content_of(new) == hashlib.sha256(content).hexdigest()
    assert errors_in(new) == []
    assert done["bytes_written"] < len(content)
    again = tmp_path / "again.raw"
    converted(new, again)
    assert sha256(again) == hashlib.sha256(content).hexdigest()


def test_plain_images_of_all_layouts_read_as_their_bytes(tmp_path: Path) -> None:
    """Data and holes that begin and end anywhere, compared with the file read whole."""
    chance = random.Random(5)
    for number in range(12):
        plain = tmp_path / f"{number}.raw"
        sectors = chance.randrange(1, 5000)
        with plain.open("wb") as file:
            for _ in range(chance.randrange(4)):
                file.seek(chance.randrange(sectors) * SECTOR + chance.randrange(SECTOR))
                file.write(noise(number, chance.randrange(1, 40)))
            file.truncate(sectors * SECTOR)
        new = tmp_path / f"{number}.vhd"
        converted(plain, new, source_is_raw=True)
        assert content_of(new) == sha256(plain)


def test_what_is_not_said_follows_from_the_name_and_the_source(tmp_path: Path) -> None:
    fixed = build_fixed(tmp_path, "fixed.vhd", size=SIZE, content=CONTENT)
    leaf = chain(tmp_path / "chain").leaf
    plain = tmp_path / "plain.raw"
    plain.write_bytes(bytes(fixed.model))

    def foreseen(source: Path, output: str, **options: Any) -> tuple[str, str]:
        roots = roots_of(tmp_path)
        plan = convert.plan(str(source), str(tmp_path / output), roots, **options)
        assert plan.new is not None
        return plan.format_name, str(plan.new.disk_type)

    assert foreseen(fixed.path, "new.vhd") == ("vhd", "fixed")
    assert foreseen(leaf.path, "new.vhd") == ("vhd", "dynamic")
    assert foreseen(leaf.path, "new.avhd", disk_type="fixed") == ("vhd", "fixed")
    assert foreseen(leaf.path, "new.RAW") == ("raw", "fixed")
    assert foreseen(plain, "new.vhd", source_is_raw=True) == ("vhd", "dynamic")
    # An extension that says nothing leaves the source's format, whose names end otherwise.
    named = convert.plan(str(fixed.path), str(tmp_path / "new.disk"), roots_of(tmp_path))
    assert (named.format_name, named.refused and named.refused.code) == ("vhd", "E_NAME")


def test_requests_without_sense_are_not_planned(tmp_path: Path) -> None:
    fixed = build_fixed(tmp_path, "fixed.vhd", size=SIZE)
    for output, options in (
        ("new.vhd", {"disk_type": "differencing"}),
        ("new.raw", {"disk_type": "fixed"}),
        ("new", {"source_is_raw": True}),
    ):
        with pytest.raises(ValueError, match=r"flattened|no type|which format"):
            convert.plan(str(fixed.path), str(tmp_path / output), roots_of(tmp_path), **options)


def test_block_size_and_geometry_stay_within_a_format(tmp_path: Path) -> None:
    source = build_dynamic(
        tmp_path, "source.vhd", size=SIZE, block_size=BLOCK,
        footer={"cylinders": 3, "heads": 4, "sectors_per_track": 17},
    )  # fmt: skip
    converted(source.path, tmp_path / "new.vhd")
    with roots_of(tmp_path).open(str(tmp_path / "new.vhd")) as file:
        image = open_image(file)
        assert image.block_size_bytes == BLOCK
        assert image.copy_traits()["geometry"] == (3, 4, 17)


@pytest.mark.parametrize("disk_type", ["fixed", "dynamic"])
def test_what_the_source_may_be_read_by_may_read_the_copy(tmp_path: Path, disk_type: str) -> None:
    source = build_dynamic(tmp_path, "source.vhd", size=SIZE, block_size=BLOCK)
    source.path.chmod(0o640)
    converted(source.path, tmp_path / "new.vhd", disk_type=disk_type)
    assert stat.S_IMODE((tmp_path / "new.vhd").stat().st_mode) == 0o640


def test_sectors_of_4096_bytes_stay_within_vhdx_and_have_no_place_in_a_vhd(
    tmp_path: Path,
) -> None:
    """Partitions are counted in them."""
    source = build_dynamic_vhdx(
        tmp_path, "source.vhdx", size=3 * MIB, block_size=MIB, logical_sector=4096,
        content=[(8, noise(1, 64))],
    )  # fmt: skip
    converted(source.path, tmp_path / "new.vhdx", disk_type="fixed")
    with roots_of(tmp_path).open(str(tmp_path / "new.vhdx")) as file:
        image = open_image(file)
        assert image.logical_sector_bytes == 4096
        assert image.virtual_disk_id not in (None, str(uuid.UUID(bytes_le=source.disk_id)))
    assert content_of(tmp_path / "new.vhdx") == source.sha256
    converted(source.path, tmp_path / "new.raw")
    assert sha256(tmp_path / "new.raw") == source.sha256
    refused = refusal(source.path, tmp_path / "new.vhd")
    assert refused.code == "E_SECTOR_SIZE"
    assert "4,096" in refused.message


def test_a_vhdx_larger_than_any_vhd_is_refused_by_its_size(tmp_path: Path) -> None:
    source = build_dynamic_vhdx(tmp_path, "source.vhdx", size=3000 * GIB, block_size=32 * MIB)
    refused = refusal(source.path, tmp_path / "new.vhd")
    assert refused.code == "E_TOO_LARGE"
    assert "at most 2,040 GiB" in refused.message


def test_zeros_of_a_vhdx_child_hide_its_parent_in_the_copy(tmp_path: Path) -> None:
    """Block states that give zeros are content, also of a VHD that knows no such states."""
    parent = build_dynamic_vhdx(
        tmp_path, "parent.vhdx", size=4 * MIB, block_size=MIB, content=[(0, noise(1, 8192))]
    )
    for state in (1, 2, 3):
        leaf = build_differencing_vhdx(tmp_path, f"{state}.vhdx", parent, states={1: state})
        for output in (f"{state}.vhd", f"{state}.raw", f"{state}-flat.vhdx"):
            converted(leaf.path, tmp_path / output)
        assert content_of(tmp_path / f"{state}.vhd") == leaf.sha256
        assert content_of(tmp_path / f"{state}-flat.vhdx") == leaf.sha256
        assert sha256(tmp_path / f"{state}.raw") == leaf.sha256


# ---------------------------------------------------------------------- refusals


def test_a_small_file_that_claims_much_is_refused_by_the_room_it_would_take(
    tmp_path: Path,
) -> None:
    """bad-input F96: the size is shown, and nothing is begun."""
    bomb = tmp_path / "bomb.vhd"
    made = create.plan(str(bomb), roots_of(tmp_path), size_bytes=2040 * GIB)
    create.apply(made, roots_of(tmp_path))
    assert bomb.stat().st_size < 5 * KIB * KIB
    for output, options in (("new.vhd", {"disk_type": "fixed"}), ("new.raw", {})):
        plan = convert.plan(str(bomb), str(tmp_path / output), roots_of(tmp_path), **options)
        assert plan.predicted_size_bytes >= 2040 * GIB
        assert plan.as_dict()["free_space_needed_bytes"] == plan.predicted_size_bytes
        refused = refusal(bomb, tmp_path / output, **options)
        assert refused.code == "E_NOSPC"
        assert f"{plan.predicted_size_bytes:,} bytes are needed" in refused.message
    converted(bomb, tmp_path / "small.vhd")
    assert (tmp_path / "small.vhd").stat().st_size < 5 * KIB * KIB


def test_more_than_a_vhd_holds_is_refused_with_the_limit(tmp_path: Path) -> None:
    plain = tmp_path / "large.raw"
    with plain.open("wb") as file:
        file.truncate(2041 * GIB)
    plan = convert.plan(
        str(plain), str(tmp_path / "new.vhd"), roots_of(tmp_path), source_is_raw=True
    )
    assert plan.refused is not None
    assert plan.refused.code == "E_TOO_LARGE"
    assert "at most 2,040 GiB" in plan.refused.message
    assert not (tmp_path / "new.vhd").exists()


def test_a_plain_image_of_odd_length_is_refused(tmp_path: Path) -> None:
    for length in (0, 511, 1000):
        plain = tmp_path / "odd.raw"
        plain.write_bytes(b"x" * length)
        assert refusal(plain, tmp_path / "new.vhd", source_is_raw=True).code == "E_FILE_SIZE"


@pytest.mark.parametrize("shape", ["fixed", "dynamic", "qcow2"])
def test_a_disk_is_not_read_as_a_plain_image(tmp_path: Path, shape: str) -> None:
    """Its headers would become content; a fixed VHD would come out 512 bytes too long."""
    source = tmp_path / "source.vhd"
    if shape == "qcow2":
        source.write_bytes(b"QFI\xfb" + bytes(8188))
    else:
        KINDS[0].make(tmp_path, shape)
    refused = refusal(source, tmp_path / "new.vhd", source_is_raw=True)
    assert refused.code == "E_AMBIGUOUS_FORMAT"
    assert ("qcow2" if shape == "qcow2" else "VHD") in refused.message


def test_a_plain_image_is_never_guessed(tmp_path: Path) -> None:
    """bad-input A2."""
    plain = tmp_path / "plain.raw"
    plain.write_bytes(noise(1, 100))
    assert refusal(plain, tmp_path / "new.vhd").code == "E_NO_FOOTER"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ({"footer": {"saved_state": 1}}, "E_SAVED_STATE"),
        ({"end_footer": "zeroed"}, "E_FOOTER_END"),
        ({"front": {"unique_id": bytes(15) + b"x"}}, "E_FOOTERS_DIFFER"),
    ],
)
def test_disks_that_are_not_settled_are_refused(
    tmp_path: Path, damage: dict[str, Any], code: str
) -> None:
    """bad-input A4, A5, A15."""
    source = build_dynamic(
        tmp_path, "source.vhd", size=SIZE, block_size=BLOCK, content=CONTENT, **damage
    )
    assert refusal(source.path, tmp_path / "new.vhd").code == code


def test_blocks_that_share_a_place_are_not_copied_apart(tmp_path: Path) -> None:
    """bad-input A22."""
    source = build_dynamic(tmp_path, "source.vhd", size=SIZE, block_size=BLOCK, content=CONTENT)
    worlds.let_two_blocks_share_a_place(source.path)
    assert refusal(source.path, tmp_path / "new.vhd").code == "E_BAT_OVERLAP"


def test_a_chain_without_its_parent_is_refused(tmp_path: Path) -> None:
    """bad-input D54."""
    world = chain(tmp_path)
    world.base.path.unlink()
    assert refusal(world.leaf.path, tmp_path / "new.vhd").code == "E_PARENT_MISSING"


def test_names_that_are_taken_or_impossible_are_refused(tmp_path: Path) -> None:
    source = build_fixed(tmp_path, "source.vhd", size=SIZE)
    (tmp_path / "taken.raw").write_bytes(b"mine")
    assert refusal(source.path, source.path).code == "E_EXISTS"
    assert refusal(source.path, tmp_path / "taken.raw").code == "E_EXISTS"
    assert refusal(source.path, tmp_path / "new.raw", format_name="vhd").code == "E_NAME"
    assert refusal(source.path, tmp_path / "new.vhd", format_name="raw").code == "E_NAME"
    assert refusal(source.path, tmp_path / "con.vhd").code == "E_NAME"
    assert refusal(source.path, tmp_path / "no" / "new.vhd").code == "E_NOT_FOUND"
    assert refusal(source.path, tmp_path.parent / "new.vhd").code == "E_OUTSIDE_ROOTS"
    read_only = Roots([Root(str(tmp_path), read_only=True)])
    assert refusal(source.path, tmp_path / "new.vhd", roots=read_only).code == "E_READ_ONLY"


# ---------------------------------------------------------------------- while it runs


def test_a_source_that_changes_meanwhile_ends_it(tmp_path: Path) -> None:
    """bad-input E73, E74."""
    source = build_dynamic(tmp_path, "source.vhd", size=SIZE, block_size=BLOCK, content=CONTENT)
    roots = roots_of(tmp_path)

    class Writes(Progress):
        def step(self, step: str, sentence: str) -> None:
            if step == "proof":
                source.patch(source.blocks[0] + 512, b"changed")

    plan = convert.plan(str(source.path), str(tmp_path / "new.vhd"), roots)
    with pytest.raises(ImageError) as caught:
        convert.apply(plan, roots, progress=Writes())
    assert caught.value.code == "E_CHANGED"
    stale = convert.plan(str(source.path), str(tmp_path / "new.vhd"), roots)
    os.utime(source.path)
    with pytest.raises(ImageError) as caught:
        convert.apply(stale, roots)
    assert caught.value.code == "E_CHANGED"
    assert not (tmp_path / "new.vhd").exists()
    assert worlds.strays(tmp_path) == []


@pytest.mark.parametrize("output", ["new.vhd", "new.raw"])
def test_a_cancelled_copy_leaves_nothing(tmp_path: Path, output: str) -> None:
    """bad-input E79."""
    source = build_dynamic(tmp_path, "source.vhd", size=SIZE, block_size=BLOCK, content=CONTENT)
    roots = roots_of(tmp_path)
    before = worlds.snapshot(tmp_path)

    class Stops(Progress):
        def __init__(self, at: str) -> None:
            self.at, self.now = at, ""

        def step(self, step: str, sentence: str) -> None:
            self.now = step

        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            if self.now == self.at:
                raise Cancelled

        def commit_starts(self) -> None:
            if self.at == "commit":
                raise Cancelled

    for at in ("copy", "proof", "commit"):
        plan = convert.plan(str(source.path), str(tmp_path / output), roots)
        with pytest.raises(Cancelled):
            convert.apply(plan, roots, progress=Stops(at))
        assert worlds.snapshot(tmp_path) == before


def test_a_flattened_chain_keeps_its_disks_locked_against_writers(tmp_path: Path) -> None:
    """bad-input E68: the sources are shared, the new name is ours."""
    world = chain(tmp_path)
    plan = convert.plan(world.path("leaf.vhd"), world.path("new.vhd"), world.roots)
    assert plan.exclusive == [world.path("new.vhd")]
    assert plan.shared == [world.path(name) for name in ("leaf.vhd", "middle.vhd", "base.vhd")]
    assert plan.as_dict()["flattened"] is True


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    source = build_fixed(tmp_path, "source.vhd", size=SIZE, content=CONTENT)
    new = tmp_path / "new.raw"
    roots = roots_of(tmp_path)

    class Takes(Progress):
        def commit_starts(self) -> None:
            new.write_bytes(b"mine")

    plan = convert.plan(str(source.path), str(new), roots)
    with pytest.raises(ImageError) as caught:
        convert.apply(plan, roots, progress=Takes())
    assert caught.value.code == "E_EXISTS"
    assert new.read_bytes() == b"mine"
    assert worlds.strays(tmp_path) == []


def test_a_differencing_copy_of_an_empty_leaf_is_its_parent(tmp_path: Path) -> None:
    base = build_fixed(tmp_path, "base.vhd", size=SIZE, content=CONTENT)
    leaf = build_differencing(tmp_path, "leaf.vhd", base, block_size=BLOCK)
    converted(leaf.path, tmp_path / "new.raw")
    assert sha256(tmp_path / "new.raw") == base.sha256
