"""What recovery makes of remains that need more than one look."""

from __future__ import annotations

import json
import os
import uuid
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.operations import create, journal, merge, rewriting, trash
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.operations.rewriting import kinds, recovery
from disks.operations.trash import restoring
from disks.tests.builders import Built, build_differencing, build_dynamic
from disks.tests.operations.crashing import (
    in_fork,
    with_fault,
)
from disks.tests.operations.dying import DIED
from disks.tests.operations.worlds import (
    BLOCK,
    KIB,
    World,
    chain,
    content_of,
    names_in,
    noise,
    roots_of,
    strays,
)


def merge_into_parent(leaf: Path | str, roots: Roots) -> None:
    plan = merge.plan(str(leaf), roots, into_parent=True)
    merge.apply(plan, roots, offline=True, job="42", token=1)


def killed_with_a_child_elsewhere(folder: Path) -> tuple[World, Built]:
    """A merge that died in its end: its chain, and the leaf's child in another folder."""
    here, there = folder / "here", folder / "there"
    there.mkdir()
    world = chain(here)
    locators = {"W2ru": "..\\here\\leaf.vhd"}
    below = build_differencing(there, "below.vhd", world.leaf, locators=locators)
    both = roots_of(folder)
    in_fork(with_fault("forward.link:1:kill", lambda: merge_into_parent(world.leaf.path, both)))
    return world, below


@pytest.mark.parametrize("write", range(1, 6))
def test_a_link_torn_while_a_merge_was_finished_is_healed_and_then_written(
    tmp_path: Path, write: int
) -> None:
    """bad-input F85, F86: the merge's record sorts before that of the half written child."""
    base = build_dynamic(
        tmp_path, "a.vhd", size=160 * KIB, block_size=BLOCK, content=[(0, noise(1, 70))]
    )
    leaf = build_differencing(tmp_path, "m.vhd", base, content=[(3, noise(2, 4))])
    below = build_differencing(tmp_path, "z.vhd", leaf, content=[(8, noise(3, 4))])
    roots = roots_of(tmp_path)
    fault = f"relink.header:{write}:torn"
    in_fork(with_fault(fault, lambda: merge_into_parent(leaf.path, roots)))
    recover(str(tmp_path), roots)
    assert content_of(below.path) == below.sha256
    assert not leaf.path.exists()
    assert strays(tmp_path) == []


def test_a_disk_written_after_the_crash_keeps_no_second_name_in_the_trash(tmp_path: Path) -> None:
    """bad-input F85: the link into the trash was made, then a machine ran."""
    world = chain(tmp_path)
    leaf = world.leaf.path
    in_fork(with_fault("forward.rename:1:kill", lambda: merge_into_parent(leaf, world.roots)))
    middle = world.middle.path
    assert middle.stat().st_nlink == 2
    os.utime(middle, ns=(1, 1))
    (row,) = [row for row in recover(str(tmp_path), world.roots) if row["action"] != "swept"]
    assert row["action"] == "undone"
    assert middle.stat().st_nlink == 1
    assert not (tmp_path / ".vdtrash").exists()
    assert content_of(leaf) == world.leaf.sha256


def test_a_disk_stays_part_of_a_job_whose_record_cannot_be_seen(tmp_path: Path) -> None:
    """bad-input F87: recovery of one folder alone does not call the whole job over."""
    world, below = killed_with_a_child_elsewhere(tmp_path)
    there = below.path.parent
    both = roots_of(tmp_path)
    pointer = there / ".below.vhd.vdjob"
    (row,) = recover(str(there), roots_of(there))
    assert (row["action"], row["code"]) == ("needs-attention", "E_UNFINISHED")
    assert str(world.middle.path) in row["sentence"]
    assert pointer.exists()
    recover(str(tmp_path), both)
    assert not pointer.exists()
    assert content_of(below.path, both) == below.sha256


def test_nothing_is_done_while_a_neighbours_folder_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F83, F87: it may be there, and in use, so it must be locked first."""
    world, below = killed_with_a_child_elsewhere(tmp_path)
    here, there = world.folder, below.path.parent
    both = roots_of(tmp_path)
    before, real = set(names_in(here)), Roots.entries

    def failing(roots: Roots, path: str) -> Any:
        if path == str(there):
            raise ImageError("E_IO", f"{path} could not be read.", file=path)
        return real(roots, path)

    with monkeypatch.context() as patch:
        patch.setattr(Roots, "entries", failing)
        rows = recover(str(here), both)
    assert [(row["action"], row["code"]) for row in rows] == [("needs-attention", "E_IO")]
    assert set(names_in(here)) == before
    recover(str(tmp_path), both)
    assert content_of(below.path, both) == below.sha256
    assert strays(tmp_path) == []


def test_a_disk_stays_part_of_a_job_whose_folder_is_not_mounted(tmp_path: Path) -> None:
    """bad-input F87: the record is away with its folder; the job is not over for that."""
    world, below = killed_with_a_child_elsewhere(tmp_path)
    here, there = world.folder, below.path.parent
    both = roots_of(tmp_path)
    here.rename(tmp_path.parent / f"{tmp_path.name}-unmounted")
    rows = recover(str(tmp_path), roots_of(tmp_path))
    assert [row["code"] for row in rows] == ["E_UNFINISHED"]
    assert "cannot be found" in rows[0]["sentence"]
    assert (there / ".below.vhd.vdjob").exists()
    (tmp_path.parent / f"{tmp_path.name}-unmounted").rename(here)
    recover(str(tmp_path), both)
    assert not (there / ".below.vhd.vdjob").exists()
    assert content_of(below.path, both) == below.sha256


def forged(folder: Path, kind: str, **changes: Any) -> None:
    """A sidecar with a right checksum, as anybody who may write to the folder can make one."""
    (folder / "x.vhd").write_bytes(bytes(4096))
    (folder / "other.vhd").write_bytes(bytes(4096))
    file = FileIdentity.of((folder / "x.vhd").stat()).as_dict()
    entry = {
        "original": "../../x.vhd",
        "trash": "x.vhd",
        "file": file,
        "identity": "",
        "role": "replaced",
    }
    manifest = {
        "job": "1", "kind": "merge", "summary": "", "created": "", "state": "planned",
        "primary": ".", "folders": ["."], "entries": [entry], "replacement": "",
        "replaced_by": None, "relinked": [],
    }  # fmt: skip
    record = {
        "name": "x.vhd", "state": "copying", "job": "1", "token": 1, "neighbours": [],
        "x_kind": "merge", "x_temp": ".x.vhd.1-1.vdtmp", "x_temp_inode": 1,
        "x_trash": ".vdtrash/1", "x_manifest": manifest, "x_relink": [], "x_mtime_ns": None,
        "x_result": {}, "x_pages": [], "x_size_before": 4096, "x_size_after": 4096,
        "x_file": file, "x_identity": "", "x_keep_mtime": False, "x_is_undo": False,
    }  # fmt: skip
    deep = changes.pop("deep", 0)
    text = json.dumps(record | changes)
    body = (("{" + "[" * deep if deep else text) + "\n").encode()
    head = f"VDADMIN-SIDECAR 1 {kind} {zlib.crc32(body):08x}\n".encode()
    (folder / f".x.vhd.vd{kind}").write_bytes(head + body)


FORGED: list[dict[str, Any]] = [
    {"deep": 200_000},
    {"token": float("inf")},
    {"name": "\0"},
    {"neighbours": ["\0"]},
    {"neighbours": ["\ud800"]},
    {"neighbours": ["../../../etc/passwd"], "x_manifest": 5},
    {"x_temp": "other.vhd", "x_pages": [5]},
    {"x_temp": "x.vhd", "x_pages": [{"offset": -5, "old": "", "new": "", "step": 0}]},
    {"x_manifest": {}, "x_file": {}},
    {"x_trash": "", "x_size_before": float("inf")},
    {"state": "elsewhere", "primary": 5},
    {"state": "elsewhere", "x_primary": "\ud800"},
    {"x_previous": 5},
    {"x_previous": {"job": "1", "token": "x", "record": {}}},
    {"x_about": []},
    {"x_logged": True},
    {"x_identities": 5},
    {"x_entry_bytes": "a"},
    {"x_size_after": 2**80},
    {"x_result": {"warnings": 5}},
    {"x_mtime_ns": 1e300},
    {"name": ""},
]


@pytest.mark.parametrize("kind", ["job", "undo"])
@pytest.mark.parametrize("changes", FORGED, ids=lambda changes: "-".join(changes))
def test_a_forged_record_makes_recovery_neither_fail_nor_touch_a_disk(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    """bad-input F87, D63: all of its fields are text of somebody else's."""
    forged(tmp_path, kind, **changes)
    (tmp_path / ".y.vhd.vdundo.vdtmp").write_bytes(b"")
    rows = recover(str(tmp_path), roots_of(tmp_path))
    assert [row["action"] for row in rows if row["path"].endswith("y.vhd")] == ["swept"]
    assert [row for row in rows if row["code"] == "E_INTERNAL"] == []
    assert (tmp_path / "x.vhd").read_bytes() == (tmp_path / "other.vhd").read_bytes() == bytes(4096)


def test_records_are_not_read_again_for_every_temporary_file(tmp_path: Path) -> None:
    """A repair leaves a record beside each of thousands of disks, and a crash many files."""
    roots, counts = roots_of(tmp_path), []
    for number in range(3):
        done = journal.Sidecar(journal.UNDO, str(tmp_path / f"{number}.vhd"), journal.DONE)
        journal.write(roots, done)
    for files in (1, 5):
        for number in range(files):
            (tmp_path / f".x.vhd.{number}-1.vdtmp").write_bytes(b"")
        with mock.patch.object(journal, "read", side_effect=journal.read) as read:
            assert len(recover(str(tmp_path), roots)) == files
        counts.append(read.call_count)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("size", [200_000, 1 << 40])
def test_a_forged_manifest_is_no_trash(tmp_path: Path, size: int) -> None:
    """bad-input G3: neither its depth nor its size counts."""
    folder = tmp_path / ".vdtrash" / "job"
    folder.mkdir(parents=True)
    with open(folder / "manifest.json", "wb") as file:
        file.write(b"[" * 200_000)
        file.truncate(size)
    assert trash.list_trash(str(tmp_path), roots_of(tmp_path)) == []


def interrupted(folder: Path) -> World:
    """A chain whose merge died after its commit step."""
    world = chain(folder)
    leaf = world.leaf.path
    in_fork(with_fault("forward.rename:1:kill", lambda: merge_into_parent(leaf, world.roots)))
    return world


def test_no_child_is_made_of_a_disk_that_waits_for_recovery(tmp_path: Path) -> None:
    """The disk is about to become another one."""
    world = interrupted(tmp_path)
    plan = create.plan(world.path("new.vhd"), world.roots, parent=world.path("middle.vhd"))
    with pytest.raises(ImageError) as caught:
        create.apply(plan, world.roots)
    assert caught.value.code == "E_UNFINISHED"


def test_nothing_is_restored_into_a_chain_that_waits_for_recovery(tmp_path: Path) -> None:
    world = chain(tmp_path, grandchild=True)
    merge_into_parent(world.leaf.path, world.roots)
    (before,) = trash.list_trash(str(tmp_path), world.roots)
    below = world.path("below.vhd")
    in_fork(with_fault("forward.rename:1:kill", lambda: merge_into_parent(below, world.roots)))
    with pytest.raises(ImageError) as caught:
        restoring.restore(before.folder, world.roots, offline=True)
    assert caught.value.code == "E_UNFINISHED"


def half_changed(folder: Path, name: str) -> None:
    """A disk whose header was being rewritten when the process died."""
    folder.mkdir()
    disk = str(build_dynamic(folder, name).path)
    roots = roots_of(folder)
    change = rewriting.Change(
        build=lambda image: image.plan_identity(str(uuid.uuid4())),
        check=lambda image: None,
        about=kinds.IDENTITY,
    )
    with roots.open(disk) as file:
        seen = file.identity()

    def rewrite() -> None:
        rewriting.rewrite(roots, disk, change, expected=seen, job="7", token=1)

    assert in_fork(with_fault("identity.header:1:kill", rewrite)) == DIED


def broken_by(error: Exception, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recovery of a header rewrite meets an error for one disk."""
    one = recovery.recover

    def failing(roots: Roots, sidecar: journal.Sidecar, *, token: int) -> tuple[str, str]:
        if os.path.basename(sidecar.disk) == at:
            raise error
        return one(roots, sidecar, token=token)

    monkeypatch.setattr(recovery, "recover", failing)


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (ValueError("9 pages do not fit"), "E_INTERNAL", "9 pages do not fit"),
        (RuntimeError("can't start new thread"), "E_INTERNAL", "can't start new thread"),
        (IndexError("list index out of range"), "E_INTERNAL", "a.vhd"),
        (OSError(5, os.strerror(5)), "E_IO", "a.vhd"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_that_nobody_foresaw_in_one_disk_keeps_no_other_from_recovery(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: str,
    word: str,
) -> None:
    for name in ("a.vhd", "b.vhd"):
        half_changed(tmp_path / name[0], name)
    broken_by(error, "a.vhd", monkeypatch)
    rows = {
        os.path.basename(row["path"]): row for row in recover(str(tmp_path), roots_of(tmp_path))
    }
    assert (rows["a.vhd"]["action"], rows["a.vhd"]["code"]) == ("needs-attention", code)
    assert word in rows["a.vhd"]["sentence"]
    assert rows["b.vhd"]["action"] == "undone"
    assert "Traceback" in caplog.text
    monkeypatch.undo()
    assert [row["action"] for row in recover(str(tmp_path), roots_of(tmp_path))] == ["undone"]


def test_a_folder_that_cannot_be_listed_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    lists = Roots.entries

    def refuse(roots: Roots, path: str) -> Any:
        if path == str(shut):
            raise ImageError("E_ACCESS", f"{path} could not be opened.", file=path)
        return lists(roots, path)

    monkeypatch.setattr(Roots, "entries", refuse)
    rows = recover(str(tmp_path), roots_of(tmp_path))
    told = [(row["path"], row["action"], row["code"]) for row in rows]
    assert told == [(str(shut), "needs-attention", "E_ACCESS")]
