"""Sidecars: written whole or not at all, readable by a person, moved along with the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.operations import durable, journal
from disks.operations.journal import Sidecar
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots([Root(str(tmp_path))])


def sidecar(disk: str, state: str = "prepared", **options: object) -> Sidecar:
    return Sidecar(journal.UNDO, disk, state, **options)  # type: ignore[arg-type]


def code_of(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(ImageError) as refused:
        call(*arguments, **options)  # type: ignore[operator]
    return refused.value.code


def test_what_is_written_is_read_again(roots: Roots, tmp_path: Path) -> None:
    written = sidecar(
        f"{tmp_path}/a.vhd",
        job="17",
        token=4,
        neighbours=(f"{tmp_path}/sub/b.vhd", str(tmp_path.parent / "c.vhd")),
        record={"pages": [1, 2], "odd": "\udcff"},
        help="First line.\n{ is no record.\n",
    )
    journal.write(roots, written)
    read = journal.of(roots, written.disk, journal.UNDO)
    assert read is not None
    assert (read.state, read.job, read.token) == ("prepared", "17", 4)
    assert (read.neighbours, read.record) == (written.neighbours, written.record)
    assert read.help.splitlines() == ["First line.", " is no record."]
    assert os.listdir(tmp_path) == [".a.vhd.vdundo"]
    journal.remove(roots, written)
    assert journal.of(roots, written.disk, journal.UNDO) is None


def test_a_sidecar_moves_along_with_its_disk(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    disk = f"{tmp_path}/one/a.vhd"
    journal.write(roots, sidecar(disk, neighbours=(f"{tmp_path}/one/b.vhd",)))
    shutil.move(tmp_path / "one", tmp_path / "two")
    found = journal.pending(roots, [f"{tmp_path}/two/b.vhd"])
    assert [one.disk for one in found] == [f"{tmp_path}/two/a.vhd"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "newer"])
def test_a_damaged_sidecar_is_never_believed(roots: Roots, tmp_path: Path, damage: str) -> None:
    disk = f"{tmp_path}/a.vhd"
    journal.write(roots, sidecar(disk, record={"pages": ["x" * 100]}))
    path = Path(journal.sidecar_path(disk, journal.UNDO))
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[:-40],
            "flipped": data.replace(b"xxxx", b"xxyx", 1),
            "empty": b"",
            "foreign": b"hello\n" * 10,
            "newer": data.replace(b"SIDECAR 1", b"SIDECAR 9"),
        }[damage]
    )
    assert code_of(journal.of, roots, disk, journal.UNDO) == "E_SIDECAR"
    assert code_of(journal.require_settled, roots, [disk]) == "E_SIDECAR"
    journal.require_settled(roots, [f"{tmp_path}/other.vhd"])


def test_unfinished_work_stands_before_everything_it_names(roots: Roots, tmp_path: Path) -> None:
    a, b, c = (f"{tmp_path}/{name}.vhd" for name in "abc")
    journal.write(roots, sidecar(a, neighbours=(b,), job="17"))
    for disk in (a, b):
        assert code_of(journal.require_settled, roots, [c, disk]) == "E_UNFINISHED"
        journal.require_settled(roots, [disk], job="17")
        assert code_of(journal.require_settled, roots, [disk], job="18") == "E_UNFINISHED"
    journal.require_settled(roots, [c])
    journal.write(roots, sidecar(a, journal.DONE, neighbours=(b,)))
    journal.require_settled(roots, [a, b])


def test_names_near_255_bytes_have_sidecars_too(roots: Roots, tmp_path: Path) -> None:
    """bad-input D65: a hash stands for the name; two long names do not meet."""
    names = ["n" * 250 + end for end in ("a.vhd", "b.vhd")] + ["ü" * 125 + ".vhd"]
    for number, name in enumerate(names):
        journal.write(roots, sidecar(f"{tmp_path}/{name}", token=number))
    for number, name in enumerate(names):
        found = journal.of(roots, f"{tmp_path}/{name}", journal.UNDO)
        assert found is not None
        assert (found.token, found.disk) == (number, f"{tmp_path}/{name}")
    assert all(len(os.fsencode(name)) <= 255 for name in os.listdir(tmp_path))


def test_renaming_never_replaces_when_told_so(roots: Roots, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    arguments = (roots, f"{tmp_path}/a", f"{tmp_path}/b")
    assert code_of(durable.rename, *arguments, replace=False) == "E_EXISTS"
    assert code_of(durable.link, *arguments) == "E_EXISTS"
    assert (tmp_path / "b").read_text() == "b"
    durable.rename(roots, f"{tmp_path}/a", f"{tmp_path}/c", replace=False)
    durable.link(roots, f"{tmp_path}/c", f"{tmp_path}/d")
    assert sorted(os.listdir(tmp_path)) == ["b", "c", "d"]
    closed = Roots([Root(str(tmp_path), read_only=True)])
    assert code_of(durable.rename, closed, f"{tmp_path}/c", f"{tmp_path}/e") == "E_READ_ONLY"
    assert code_of(durable.unlink, closed, f"{tmp_path}/c") == "E_READ_ONLY"


def test_finished_records_are_read_once_and_one_begun_anew_is_noticed(
    roots: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = [f"{tmp_path}/disk-{number}.vhd" for number in range(5)]
    for disk in disks:
        journal.write(roots, sidecar(disk, journal.DONE))
    reads: list[str] = []
    read = journal.read
    monkeypatch.setattr(
        journal, "read", lambda roots, path: (reads.append(path), read(roots, path))[1]
    )
    journal.require_settled(roots, disks[:1])
    assert len(reads) == 5
    journal.require_settled(roots, disks[1:2])
    assert len(reads) == 5
    journal.write(roots, sidecar(disks[3], neighbours=(disks[1],)))
    assert code_of(journal.require_settled, roots, disks[1:2]) == "E_UNFINISHED"
    assert len(reads) == 6
