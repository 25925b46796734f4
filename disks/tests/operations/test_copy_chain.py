"""Copying a chain elsewhere: the set opens there by itself, and is the same disks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Verdict
from disks.operations import copy_chain, file_copy, space
from disks.operations.copy_chain import CopyChainPlan
from disks.operations.inspection import link_document
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress
from disks.operations.recover import recover
from disks.operations.storage_roots import Root
from disks.tests.builders import (
    VHD,
    Family,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    seven_zip_sha256,
)
from disks.tests.operations.crashing import DONE, in_fork, with_fault
from disks.tests.operations.dying import DIED
from disks.tests.operations.kinds import needs_7z
from disks.tests.operations.worlds import chain, content_of, errors_in, noise, roots_of, snapshot


def copied(path: Path, folder: Path, roots: Roots, *, whole: bool = True) -> dict[str, object]:
    plan = copy_chain.plan(str(path), str(folder), roots, whole=whole)
    assert plan.refused is None, plan.refused
    return copy_chain.apply(plan, roots)


def refused(path: Path, folder: Path, roots: Roots, *, whole: bool = True) -> str:
    plan = copy_chain.plan(str(path), str(folder), roots, whole=whole)
    assert plan.refused is not None
    with pytest.raises(ImageError) as caught:
        copy_chain.apply(plan, roots)
    assert caught.value is plan.refused
    return plan.refused.code


def facts(path: Path, roots: Roots) -> tuple[str, str, int]:
    with roots.open(str(path)) as file:
        image = open_image(file)
        return image.identity, str(image.disk_type), image.virtual_size_bytes


@pytest.fixture
def far(tmp_path: Path) -> Path:
    folder = tmp_path / "far"
    folder.mkdir()
    return folder


def test_the_set_is_the_same_disks_and_needs_nothing_of_the_original(
    tmp_path: Path, far: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)
    was, before = content_of(world.leaf.path), snapshot(tmp_path)
    done = copied(world.leaf.path, far, world.roots)
    names = [family.file(stem) for stem in ("leaf", "middle", "base")]
    assert done["opens_as"] == [str(far / name) for name in names]
    found = snapshot(tmp_path)
    assert {name: found[name] for name in before} == before
    assert sorted(set(found) - set(before)) == sorted(f"far/{name}" for name in names)
    for name in names:
        assert facts(far / name, world.roots) == facts(tmp_path / name, world.roots)
        assert errors_in(far / name) == []
        assert os.stat(far / name).st_mtime_ns == os.stat(tmp_path / name).st_mtime_ns
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-portable")
    shutil.move(far, elsewhere)
    try:
        roots = roots_of(elsewhere)
        with open_chain(str(elsewhere / names[0]), roots) as opened:
            assert opened.paths == [str(elsewhere / name) for name in names]
        assert content_of(elsewhere / names[0]) == was
    finally:
        shutil.rmtree(elsewhere)


def test_the_links_lead_by_their_relative_paths_and_never_to_the_original(
    tmp_path: Path, far: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)
    copied(world.leaf.path, far, world.roots)
    roots = world.roots
    for child, parent in (("leaf", "middle"), ("middle", "base")):
        path = str(far / family.file(child))
        with roots.open(path) as file:
            found = resolve(open_image(file), path, roots)
        assert found.path == str(far / family.file(parent))
        matches = {step.source: step.candidate for step in found.trace if step.candidate}
        assert matches[family.relative] == str(far / family.file(parent))
        assert set(matches.values()) == {str(far / family.file(parent))}
        assert {step.verdict for step in found.trace} <= {Verdict.MATCH}


@needs_7z
def test_7_zip_reads_the_set(tmp_path: Path, far: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    copied(world.leaf.path, far, world.roots)
    assert seven_zip_sha256(far / family.file("leaf")) == content_of(world.leaf.path)


def test_one_disk_alone_keeps_its_parent_where_that_is(
    tmp_path: Path, far: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)
    was = content_of(world.leaf.path)
    copied(world.leaf.path, far, world.roots, whole=False)
    copy = far / family.file("leaf")
    with open_chain(str(copy), world.roots) as opened:
        assert opened.paths == [str(copy), str(world.middle.path), str(world.base.path)]
    assert content_of(copy, world.roots) == was


def test_a_disk_without_parent_is_copied_byte_by_byte(
    tmp_path: Path, far: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)
    copied(world.base.path, far, world.roots, whole=False)
    assert (far / family.file("base")).read_bytes() == world.base.path.read_bytes()


def test_a_copy_has_no_holes(tmp_path: Path, far: Path, family: Family) -> None:
    """crash-safety R9: Windows refuses sparse files."""
    base = family.fixed(tmp_path, family.file("base"), size=4 * 1024 * 1024)
    _with_holes(base.path)
    assert os.stat(base.path).st_blocks * 512 < os.stat(base.path).st_size
    copied(base.path, far, roots_of(tmp_path))
    copy = os.stat(far / family.file("base"))
    assert copy.st_blocks * 512 >= copy.st_size
    assert (far / family.file("base")).read_bytes() == base.path.read_bytes()


def _with_holes(path: Path) -> None:
    """The same bytes, with a hole in place of every MiB of zeros."""
    data, piece = path.read_bytes(), 1024 * 1024
    with path.open("wb") as file:
        file.truncate(len(data))
        for at in range(0, len(data), piece):
            if any(data[at : at + piece]):
                file.seek(at)
                file.write(data[at : at + piece])


def test_disks_of_one_name_get_numbers(tmp_path: Path, far: Path, family: Family) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    base = family.dynamic(tmp_path / "a", family.file("disk"), content=[(0, noise(1, 9))])
    leaf = family.differencing(
        tmp_path / "b",
        family.file("Disk"),
        base,
        content=[(3, noise(2, 1))],
        **family.naming(base, relative=f"..\\a\\disk.{family.name}"),
    )
    roots = roots_of(tmp_path)
    plan = copy_chain.plan(str(leaf.path), str(far), roots, whole=True)
    assert any("of the same name" in text for text in plan.warnings)
    copy_chain.apply(plan, roots)
    assert sorted(os.listdir(far)) == sorted([family.file("Disk"), family.file("disk-2")])
    assert content_of(far / family.file("Disk")) == leaf.sha256


def test_names_that_are_taken_are_refused_and_kept(
    tmp_path: Path, far: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)
    (far / family.file("base")).write_bytes(b"theirs")
    assert refused(world.leaf.path, far, world.roots) == "E_EXISTS"
    assert os.listdir(far) == [family.file("base")]
    assert refused(world.leaf.path, tmp_path, world.roots) == "E_EXISTS"


def test_a_name_taken_at_the_last_moment_takes_the_others_back(
    tmp_path: Path, far: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = chain(tmp_path, family=family)
    from disks.operations import relocating

    real = relocating.commit

    def commit(roots: Roots, work: relocating.Relocation) -> None:
        real(roots, work)
        (far / family.file("leaf")).write_bytes(b"theirs")

    monkeypatch.setattr(relocating, "commit", commit)
    with pytest.raises(ImageError) as caught:
        copied(world.leaf.path, far, world.roots)
    assert caught.value.code == "E_EXISTS"
    assert os.listdir(far) == [family.file("leaf")]
    assert (far / family.file("leaf")).read_bytes() == b"theirs"


def test_a_set_that_does_not_open_in_its_place_is_taken_away(
    tmp_path: Path, far: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = chain(tmp_path, family=family)
    real = file_copy.make

    def unlinked(roots: Roots, source: str, draft: object, link: object, meter: object) -> str:
        return real(roots, source, draft, None, meter)  # type: ignore[arg-type]

    monkeypatch.setattr(file_copy, "make", unlinked)
    monkeypatch.setattr(copy_chain, "open_chain", _first_then_wrong(world.leaf.path))
    with pytest.raises(ImageError) as caught:
        copied(world.leaf.path, far, world.roots)
    assert caught.value.code == "E_VERIFY"
    assert os.listdir(far) == []


def _first_then_wrong(original: Path) -> object:
    """As open_chain, but what lies elsewhere opens as the original chain does."""

    def opened(path: str, roots: Roots) -> object:
        return open_chain(str(original), roots)

    return opened


def test_a_chain_over_roots_is_read_through_their_windows_views(
    tmp_path: Path, family: Family
) -> None:
    one, two, far = tmp_path / "one", tmp_path / "two", tmp_path / "far"
    two.mkdir()
    far.mkdir()
    world = chain(one, family=family)
    roots = Roots(
        [
            Root(str(one), windows_views=("D:\\VMs",)),
            Root(str(two), windows_views=("E:\\Copies",)),
        ]
    )
    plan = copy_chain.plan(str(world.leaf.path), str(two), roots, whole=True)
    assert [change.windows_will_look_at for change in plan.links] == [
        (f"E:\\Copies\\middle.{family.name}",),
        (f"E:\\Copies\\base.{family.name}",),
    ]
    copy_chain.apply(plan, roots)
    copy = two / family.file("leaf")
    assert content_of(copy, roots) == content_of(world.leaf.path, roots)
    alone = copy_chain.plan(str(world.leaf.path), str(two), roots)
    assert alone.refused is not None  # the name is taken by now
    with roots.open(str(copy)) as file:
        link = open_image(file).parent
    assert link is not None
    paths = {row["path"] for row in link_document(link)["locators"]}
    assert paths >= {f".\\middle.{family.name}", f"E:\\Copies\\middle.{family.name}"}


def test_too_little_room_and_read_only_roots_are_said_first(
    tmp_path: Path, far: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = chain(tmp_path, family=family)
    assert refused(world.leaf.path, far, roots_of(tmp_path, read_only=True)) == "E_READ_ONLY"
    assert refused(world.leaf.path, tmp_path / "none", world.roots) == "E_NOT_FOUND"
    monkeypatch.setattr(space, "space_of", lambda _: space.Space(10, 1000))
    assert refused(world.leaf.path, far, world.roots) == "E_NOSPC"
    assert os.listdir(far) == []


class _StopsAt(Progress):
    def __init__(self, number: int) -> None:
        self.left = number

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        assert 0 < done_bytes <= total_bytes
        self.left -= 1
        if self.left == 0:
            raise Cancelled


@pytest.mark.parametrize("number", [1, 2, 4, 6])
def test_a_cancelled_copy_leaves_nothing(
    tmp_path: Path, far: Path, family: Family, number: int
) -> None:
    world = chain(tmp_path, family=family)
    plan = copy_chain.plan(str(world.leaf.path), str(far), world.roots, whole=True)
    with pytest.raises(Cancelled):
        copy_chain.apply(plan, world.roots, progress=_StopsAt(number))
    assert os.listdir(far) == []


def test_a_source_written_meanwhile_ends_the_copy(
    tmp_path: Path, far: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)

    class Writes(Progress):
        def report(self, done: int, total: int, sentence: str | None = None) -> None:
            os.utime(world.base.path, ns=(1, 1))

    plan = copy_chain.plan(str(world.leaf.path), str(far), world.roots, whole=True)
    with pytest.raises(ImageError) as caught:
        copy_chain.apply(plan, world.roots, progress=Writes())
    assert caught.value.code == "E_CHANGED"
    assert os.listdir(far) == []


def test_a_copy_that_reads_otherwise_is_thrown_away(
    tmp_path: Path, far: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)

    class Spoils(Progress):
        def report(self, done: int, total: int, sentence: str | None = None) -> None:
            for name in os.listdir(far):
                if name.endswith(".vdtmp") and sentence and sentence.startswith("copying"):
                    with (far / name).open("r+b") as file:
                        file.seek(700)
                        file.write(b"rot")

    plan: CopyChainPlan = copy_chain.plan(str(world.leaf.path), str(far), world.roots, whole=True)
    with pytest.raises(ImageError) as caught:
        copy_chain.apply(plan, world.roots, progress=Spoils())
    assert caught.value.code == "E_PROOF"
    assert os.listdir(far) == []


def _dirty(folder: Path) -> Sequence[Path]:
    base = build_dynamic_vhdx(folder, "base.vhdx", content=[(0, noise(1, 40))])
    leaf = build_differencing_vhdx(folder, "leaf.vhdx", base, content=[(9, noise(2, 30))])
    leaf.move_into_log(leaf.table_offset, leaf.blocks[0] + 4096)
    assert content_of(leaf.path) == leaf.sha256
    return base.path, leaf.path


def test_a_log_that_waits_is_replayed_in_the_copy_alone(tmp_path: Path, far: Path) -> None:
    _, leaf = _dirty(tmp_path)
    before = leaf.read_bytes()
    copied(leaf, far, roots_of(tmp_path))
    assert leaf.read_bytes() == before
    assert content_of(far / "leaf.vhdx") == content_of(leaf)
    assert errors_in(far / "leaf.vhdx") == []
    with roots_of(tmp_path).open(str(far / "leaf.vhdx")) as file:
        assert not open_image(file).log_waits


def test_a_recovery_that_fails_keeps_the_copies_of_disks_with_very_long_names(
    tmp_path: Path, far: Path
) -> None:
    """Their temporary files have a hash for a name, and belong to a record all the same."""
    base = VHD.dynamic(tmp_path, "b" * 245 + ".vhd", content=[(0, noise(1, 9))])
    names = VHD.naming(base, relative=f".\\{base.path.name}")
    leaf = VHD.differencing(tmp_path, "l" * 245 + ".vhd", base, content=[(4, noise(2, 9))], **names)
    roots = roots_of(tmp_path)
    killed = with_fault("forward.rename:2:kill", lambda: copied(leaf.path, far, roots))
    assert in_fork(killed) == DIED
    failed = with_fault("forward.rename:1:eio", lambda: recover(str(far), roots))
    assert in_fork(failed) == DONE
    assert [row["action"] for row in recover(str(far), roots)] == ["finished"]
    assert content_of(far / leaf.path.name, roots) == leaf.sha256
