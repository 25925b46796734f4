"""A scan: what it finds, what it leaves alone, and what it says about it."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.test.utils import CaptureQueriesContext

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.models import Disk, OtherFile, ParentLink, StorageRoot
from disks.operations import paths, root_folders
from disks.operations.progress import Cancelled, Progress
from disks.services import (
    chains,
    jobs,
    known_files,
    other_files,
    reading,
    root_declarations,
    scanning,
    standing,
)
from disks.services.walking import Folder, Walk
from disks.tests.builders import BuiltVhdx, build_fixed
from disks.tests.services.catalog import base, child, declare, disk, key, named, scan, touch

pytestmark = pytest.mark.django_db


def opened_files() -> tuple[list[str], Any]:
    """Names that are opened from now on, by Python's own announcements."""
    names: list[str] = []
    state = {"on": True}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if state["on"] and event == "open" and isinstance(arguments[0], str):
            names.append(arguments[0])

    sys.addaudithook(hook)

    def stop() -> list[str]:
        state["on"] = False
        return names

    return names, stop


@pytest.mark.usefixtures("either_format")
def test_scan_finds_a_chain_and_fills_its_columns(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    folder = tmp_path / "vms"
    bottom = base(folder)
    middle = child(folder, "middle.vhd", bottom)
    child(folder, "leaf.vhd", middle)
    result = scan(root)
    assert (result["disks"], result["new"], result["links_resolved"]) == (3, 3, 2)
    rows = [disk(name) for name in ("base.vhd", "middle.vhd", "leaf.vhd")]
    assert [row.chain_position for row in rows] == [1, 2, 3]
    assert [row.chain_depth for row in rows] == [3, 3, 3]
    assert [row.child_count for row in rows] == [1, 1, 0]
    assert rows[0].chain_base is None
    assert {row.chain_base_id for row in rows[1:]} == {rows[0].pk}
    assert {row.health for row in rows} == {Disk.Health.HEALTHY}
    assert rows[2].sentence == "The chain is complete: it rests on 2 disks."
    assert rows[2].parent_link.named_path == f"C:\\VMs\\{named('middle.vhd')}"
    names = [row.name for row in rows]
    assert [row.name for row in chains.chain_of(rows[2])] == names
    assert [row.name for row in chains.descendants(rows[0])] == names[1:]


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    """bad-input A2, C50: text named .vhd is listed as no disk; other texts are not listed."""
    folder = tmp_path / "vms"
    root = declare(folder)
    base(folder, "disk.without-extension")
    (folder / "letter.vhd").write_text("Dear disk,\n" * 200)
    (folder / "empty.vhd").write_bytes(b"")
    (folder / "letter.txt").write_text("Dear disk,\n" * 200)
    scan(root)
    assert disk("disk.without-extension").health == Disk.Health.HEALTHY
    assert disk("letter.vhd").health == Disk.Health.NOT_A_DISK
    assert disk("letter.vhd").health_code == "E_NO_FOOTER"
    assert disk("empty.vhd").health_code == "E_TOO_SMALL"
    assert not Disk.objects.filter(name="letter.txt").exists()
    assert list(OtherFile.objects.values_list("relative_path", flat=True)) == ["letter.txt"]


def test_a_crowded_folder_is_scanned_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F95: neither its names nor what is known of them is ever all in memory."""
    monkeypatch.setattr(root_folders, "PORTION", 3)
    monkeypatch.setattr(other_files, "_PORTION", 2)
    monkeypatch.setattr(other_files, "_KNOWN_AT_ONCE", 0)
    folder = tmp_path / "vms"
    root = declare(folder)
    base(folder, "disk.vhd")
    texts = {f"{number}.txt" for number in range(11)}
    for name in texts:
        (folder / name).write_text(name)
    most, read = [], []
    walk_files, read_file = Walk.__iter__, reading.read

    def portions(walk: Walk) -> Iterator[Folder]:
        for portion in walk_files(walk):
            most.append(len(portion.files))
            yield portion

    def counted(file: ImageFile, name: str, *more: Any, **told: Any) -> reading.Reading:
        read.append(name)
        return read_file(file, name, *more, **told)

    monkeypatch.setattr(Walk, "__iter__", portions)
    monkeypatch.setattr(reading, "read", counted)
    scan(root)
    assert (max(most), len(most)) == (3, 4)
    assert sorted(read) == sorted({"disk.vhd"} | texts)

    (folder / "3.txt").unlink()
    (folder / "new.txt").touch()
    (folder / "5.txt").write_text("another text")
    base(folder, "7.txt")
    read.clear()
    assert scan(root)["files"] == 12
    assert sorted(read) == ["5.txt", "7.txt", "new.txt"]
    others = set(OtherFile.objects.values_list("relative_path", flat=True))
    assert others == texts - {"3.txt", "7.txt"} | {"new.txt"}
    assert disk("7.txt").health == Disk.Health.HEALTHY
    read.clear()
    scan(root)
    assert read == []


def test_what_is_no_disk_is_not_asked_for_folder_by_folder(
    tmp_path: Path,
) -> None:
    """Each machine has a folder with files of its own beside its disks."""
    counts = []
    root = declare(tmp_path / "vms")
    for folders in (2, 20):
        for number in range(folders):
            folder = tmp_path / "vms" / f"machine-{number}"
            folder.mkdir(exist_ok=True)
            (folder / "machine.vmcx").write_text("its settings")
        scan(root)
        with CaptureQueriesContext(connection) as queries:
            scan(root)
        table = OtherFile._meta.db_table
        counts.append(sum(table in query["sql"] for query in queries))
    assert counts[0] == counts[1]


def test_a_vhdx_has_its_ids_and_the_state_of_its_log(tmp_path: Path) -> None:
    """And one with a broken header is damaged, not something else."""
    root = declare(tmp_path / "vms")
    built = base(tmp_path / "vms", "new.vhdx")
    assert isinstance(built, BuiltVhdx)
    built.move_into_log(built.table_offset)
    child(tmp_path / "vms", "leaf.avhdx", built)
    (tmp_path / "vms" / "torn.vhdx").write_bytes(b"vhdxfile" + bytes(4096))
    scan(root)
    found = disk("new.vhdx")
    assert found.identity == built.identity
    assert found.virtual_disk_id == str(uuid.UUID(bytes_le=built.disk_id))
    assert found.file_write_guid == str(
        uuid.UUID(bytes_le=built.header(built.current)["file_write_guid"])
    )
    assert found.log_waits
    assert (found.format, found.disk_type, found.blocks_allocated) == ("vhdx", "dynamic", 1)
    leaf = disk("leaf.avhdx")
    assert (leaf.virtual_disk_id, leaf.log_waits) == (found.virtual_disk_id, False)
    assert leaf.managed_by == "hyper-v-checkpoint"
    torn = disk("torn.vhdx")
    assert (torn.format, torn.health, torn.health_code) == ("vhdx", "damaged", "E_VHDX_HEADER")


def test_disks_that_an_earlier_release_did_not_read_are_read_by_the_next_scan(
    tmp_path: Path,
) -> None:
    root = declare(tmp_path / "vms")
    base(tmp_path / "vms", "old.vhdx")
    base(tmp_path / "vms", "oddly-named.bin")
    scan(root)
    there = Disk.objects.get(name="old.vhdx")
    Disk.objects.update(own_health="not-read", health="not-read", format="vhdx", identity="")
    OtherFile.objects.create(
        root=root, relative_path="x.bin", inode=1, file_size_bytes=1, mtime_ns=1, ctime_ns=1
    )
    migration = import_module("disks.migrations.0008_read_vhdx")
    migration.forget(apps, None)
    assert not OtherFile.objects.exists()
    assert {row.health for row in Disk.objects.all()} == {Disk.Health.UNREADABLE}
    scan(root)
    assert Disk.objects.get(pk=there.pk).identity == there.identity
    assert disk("old.vhdx").health == Disk.Health.HEALTHY


@pytest.mark.usefixtures("either_format")
def test_unchanged_files_are_not_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder)
    child(folder, "leaf.vhd", bottom)
    (folder / "notes.txt").write_text("x" * 1000)
    scan(root)
    read_at = disk("leaf.vhd").last_read_at
    touch(folder / named("base.vhd"))
    _, stop = opened_files()
    result = scan(root)
    names = stop()
    assert named("leaf.vhd") not in names
    assert "notes.txt" not in names
    assert names.count(named("base.vhd")) == 1
    assert result["changed"] == 1
    assert disk("leaf.vhd").last_read_at == read_at
    assert disk("leaf.vhd").last_seen_at > read_at


def test_nothing_outside_the_roots_is_opened(tmp_path: Path) -> None:
    """bad-input D61, D62: what locators say is text, unless it lies in a root."""
    folder = tmp_path / "vms"
    root = declare(folder, "C:\\VMs")
    outside = tmp_path / "outside"
    bottom = base(outside)
    texts = ["/etc/shadow", f"{outside}/base.vhd", "\\\\evil\\share\\x.vhd", "json:{}", "nbd:x"]
    for number, text in enumerate(texts):
        child(folder, f"leaf-{number}.vhd", bottom, locators={"W2ku": text}, parent_name="none.vhd")
    climbing = child(
        folder,
        "climber.vhd",
        bottom,
        locators={"W2ru": "..\\outside\\base.vhd"},
        parent_name="none",
    )
    assert climbing.path.exists()
    _, stop = opened_files()
    scan(root)
    names = stop()
    assert not [
        name
        for name in names
        if name.startswith((str(outside), "/etc")) or "shadow" in name or "evil" in name
    ]
    link = disk("climber.vhd").parent_link
    assert link.trace[0]["verdict"] == "outside-roots"
    assert {row.health for row in Disk.objects.all()} == {Disk.Health.BROKEN}


def test_links_and_mounts_are_not_followed_and_pipes_do_not_hang(tmp_path: Path) -> None:
    """bad-input D63, D64."""
    folder = tmp_path / "vms"
    root = declare(folder)
    outside = tmp_path / "outside"
    base(outside, "hidden.vhd")
    (folder / "linked.vhd").symlink_to(outside / "hidden.vhd")
    (folder / "linked-folder").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.vhd")
    (folder / "folder.vhd").mkdir()
    os.link(base(folder, "two-names.vhd").path, outside / "second-name.vhd")
    result = scan(root)
    assert list(Disk.objects.values_list("name", flat=True)) == ["two-names.vhd"]
    assert result["files"] == 1
    row = disk("two-names.vhd")
    assert row.health_code == "W_HARD_LINKS"
    assert row.health == Disk.Health.NOTICE


def test_excluded_folders_and_own_files_are_left_out(tmp_path: Path) -> None:
    """bad-input D56: snapshots, recycle folders and the trash are never scanned."""
    folder = tmp_path / "vms"
    root = declare(folder, excluded_folders=["Old"])
    for name in (".snapshot", "#recycle", ".vdtrash", "$Recycle.Bin", "Old", "old/deeper", "kept"):
        base(folder / name, "copy.vhd")
    base(folder, ".base.vhd.7-1.vdtmp")
    scan(root)
    assert list(Disk.objects.values_list("relative_path", flat=True)) == ["kept/copy.vhd"]


def test_a_root_below_a_root_is_scanned_once(tmp_path: Path) -> None:
    outer, inner = declare(tmp_path / "vms"), declare(tmp_path / "vms" / "inner")
    base(tmp_path / "vms" / "inner", "in.vhd")
    base(tmp_path / "vms", "out.vhd")
    scan(outer, inner)
    assert {row.name: row.root_id for row in Disk.objects.all()} == {
        "in.vhd": inner.pk,
        "out.vhd": outer.pk,
    }


@pytest.mark.usefixtures("either_format")
def test_moved_files_keep_their_history_and_copies_are_new(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    base(folder, "one.vhd")
    base(folder, "two.vhd")
    base(folder, "three.vhd")
    scan(root)
    before = {row.name: row.pk for row in Disk.objects.all()}
    (folder / "archive").mkdir()
    os.rename(folder / named("one.vhd"), folder / "archive" / named("renamed.vhd"))
    shutil.copy2(folder / named("two.vhd"), folder / "archive" / named("two.vhd"))  # another inode
    os.unlink(folder / named("two.vhd"))
    shutil.copy2(folder / named("three.vhd"), folder / named("copy.vhd"))
    result = scan(root)
    assert (result["moved"], result["new"], result["missing"]) == (2, 1, 0)
    renamed = disk("renamed.vhd")
    assert renamed.pk == before[named("one.vhd")]
    assert renamed.moved_from == str(folder / named("one.vhd"))
    assert disk("two.vhd").pk == before[named("two.vhd")]
    assert disk("two.vhd").relative_path == f"archive/{named('two.vhd')}"
    assert disk("copy.vhd").pk not in before.values()
    assert "N_TWINS" in {row["code"] for row in disk("copy.vhd").findings}


@pytest.mark.usefixtures("either_format")
def test_two_files_that_change_places_keep_their_histories(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    base(folder, "a.vhd")
    base(folder, "b.vhd")
    scan(root)
    before = {row.name: (row.pk, row.identity) for row in Disk.objects.all()}
    os.rename(folder / named("a.vhd"), folder / "x")
    os.rename(folder / named("b.vhd"), folder / named("a.vhd"))
    os.rename(folder / "x", folder / named("b.vhd"))
    scan(root)
    assert (disk("a.vhd").pk, disk("a.vhd").identity) == before[named("b.vhd")]
    assert (disk("b.vhd").pk, disk("b.vhd").identity) == before[named("a.vhd")]


@pytest.mark.usefixtures("either_format")
def test_a_file_moved_to_another_root_keeps_its_history(tmp_path: Path) -> None:
    one, two = declare(tmp_path / "one"), declare(tmp_path / "two")
    base(tmp_path / "one", "disk.vhd")
    scan(one, two)
    before = disk("disk.vhd").pk
    os.rename(tmp_path / "one" / named("disk.vhd"), tmp_path / "two" / named("disk.vhd"))
    scan(two)
    assert (disk("disk.vhd").pk, disk("disk.vhd").root_id) == (before, two.pk)
    result = scan(one)
    assert result["missing"] == 0


@pytest.mark.usefixtures("either_format")
def test_missing_files_are_marked_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder)
    child(folder, "leaf.vhd", bottom)
    scan(root)
    os.rename(folder / named("base.vhd"), tmp_path / named("away.vhd"))
    result = scan(root)
    assert result["missing"] == 1
    assert disk("base.vhd").health == Disk.Health.MISSING
    leaf = disk("leaf.vhd")
    assert (leaf.health, leaf.health_code) == (Disk.Health.BROKEN, "E_PARENT_MISSING")
    assert leaf.sentence.startswith(
        f"The parent is missing: this disk names C:\\VMs\\{named('base.vhd')}, which no storage "
        "root maps, so it was not looked at."
    )
    os.rename(tmp_path / named("away.vhd"), folder / named("base.vhd"))
    scan(root)
    assert disk("base.vhd").missing_since is None
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY


@pytest.mark.usefixtures("either_format")
def test_a_base_found_elsewhere_is_suggested_and_groups_its_children(tmp_path: Path) -> None:
    """bad-input D54: the parent is named, and where the right disk lies."""
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder / "archive")
    for number in range(3):
        child(folder, f"leaf-{number}.vhd", bottom)
    scan(root)
    links = ParentLink.objects.all()
    assert {link.status for link in links} == {ParentLink.Status.MISSING}
    assert len({link.cause for link in links}) == 1
    assert {link.suggested_id for link in links} == {disk("base.vhd").pk}
    assert f"lies at archive/{named('base.vhd')}" in disk("leaf-0.vhd").sentence


@pytest.mark.usefixtures("either_format")
def test_a_disk_above_a_broken_one_is_broken_too(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(tmp_path / "elsewhere")
    middle = child(folder, "middle.vhd", bottom)
    child(folder, "leaf.vhd", middle)
    scan(root)
    leaf = disk("leaf.vhd")
    assert leaf.parent_link.status == ParentLink.Status.FOUND
    assert leaf.health == Disk.Health.BROKEN
    assert leaf.sentence.startswith(f"The chain is broken further down, at {named('middle.vhd')}:")
    assert leaf.parent_link.cause == disk("middle.vhd").parent_link.cause


@pytest.mark.usefixtures("either_format")
def test_another_disk_in_the_parents_place_is_said(tmp_path: Path) -> None:
    """bad-input D55."""
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(tmp_path / "elsewhere")
    child(folder, "leaf.vhd", bottom)
    base(folder, "base.vhd")
    scan(root)
    leaf = disk("leaf.vhd")
    assert leaf.health_code == "E_PARENT_IDENTITY"
    assert leaf.sentence.startswith("Another disk is in the parent's place")


def test_rings_of_any_length_are_marked(tmp_path: Path) -> None:
    """bad-input D51, D52: itself, two, and many; nothing runs away."""
    folder = tmp_path / "vms"
    root = declare(folder)
    identities = [bytes([number]) * 16 for number in range(1, 41)]
    bottom = base(tmp_path / "elsewhere")
    for number in range(40):
        built = child(
            folder, f"ring-{number}.vhd", bottom, unique_id=identities[number],
            locators={"W2ru": f".\\ring-{(number + 1) % 40}.vhd"},
        )  # fmt: skip
        built.patch_header(parent_unique_id=identities[(number + 1) % 40])
    itself = child(folder, "self.vhd", bottom, unique_id=b"s" * 16, locators={"W2ru": "self.vhd"})
    itself.patch_header(parent_unique_id=b"s" * 16)
    scan(root)
    rows = Disk.objects.filter(name__startswith="ring-").select_related("parent_link")
    assert {row.health_code for row in rows} == {"E_CYCLE"}
    assert len({row.parent_link.cause for row in rows}) == 1
    assert "(40 disks)" in rows[0].sentence
    assert disk("self.vhd").health_code == "E_CYCLE"


@pytest.mark.parametrize("first", ["itself.vhd", "sibling.vhd"])
def test_children_in_one_folder_that_say_the_same_are_told_apart(
    tmp_path: Path, first: str
) -> None:
    """Both name itself.vhd with one identity: one of them is that file, the other is not.

    They are resolved in the order of their rows, so each comes first once.
    """
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(tmp_path / "elsewhere", "itself.vhd")
    names = {"itself.vhd": b"i" * 16, "sibling.vhd": b"s" * 16, "third.vhd": b"t" * 16}
    child(folder, first, bottom, unique_id=names.pop(first), locators={"W2ru": "itself.vhd"})
    scan(root)
    for name, identity in names.items():
        child(folder, name, bottom, unique_id=identity, locators={"W2ru": "itself.vhd"})
    ParentLink.objects.all().delete()
    scan(root)
    assert disk("itself.vhd").parent_link.status == ParentLink.Status.CYCLE
    for name in ("sibling.vhd", "third.vhd"):
        link = disk(name).parent_link
        assert link.status == ParentLink.Status.IDENTITY_MISMATCH
        assert link.trace[0]["detail"].startswith(
            "That disk's identity is 69696969-6969-6969-6969-696969696969, not "
        )
    assert disk("sibling.vhd").parent_link.trace == disk("third.vhd").parent_link.trace


def test_children_of_one_parent_find_it_from_their_own_folders(tmp_path: Path) -> None:
    """The same words mean another file in another folder."""
    folder = tmp_path / "vms"
    root = declare(folder)
    for name in ("a", "b"):
        bottom = base(folder / name, unique_id=name.encode() * 16)
        for number in range(3):
            child(folder / name, f"{name}-{number}.vhd", bottom)
    for number in range(2):
        child(folder, f"lost-{number}.vhd", bottom)
    scan(root)
    for name in ("a", "b"):
        for number in range(3):
            parent = disk(f"{name}-{number}.vhd").parent_link.parent
            assert parent is not None
            assert parent.relative_path == f"{name}/base.vhd"
    assert {disk(f"lost-{number}.vhd").health_code for number in range(2)} == {"E_PARENT_MISSING"}


def test_links_that_a_killed_scan_did_not_write_are_made_up_for(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    child(folder, "leaf.vhd", base(folder))
    scan(root)
    ParentLink.objects.all().delete()
    Disk.objects.update(chain_position=1, chain_depth=1, chain_base=None, child_count=0)
    scan(root)
    assert disk("leaf.vhd").parent_link.parent_id == disk("base.vhd").pk
    assert (disk("base.vhd").child_count, disk("leaf.vhd").chain_position) == (1, 2)


def test_deep_chains_need_no_recursion(tmp_path: Path) -> None:
    """bad-input D53."""
    from disks.tests.factories import make_disk, make_root

    root = make_root(tmp_path)
    below: Disk | None = None
    rows = []
    for number in range(1_500):
        row = make_disk(
            f"d{number}.vhd", root=root, disk_type="differencing" if below else "dynamic"
        )
        if below is not None:
            ParentLink.objects.create(
                child=row, parent=below, status="found", first_seen_at=row.first_seen_at
            )
        rows.append(row)
        below = row
    standing.renew([rows[700].pk])
    rows[-1].refresh_from_db()
    assert (rows[-1].chain_position, rows[-1].chain_depth) == (1_500, 1_500)
    assert len(chains.chain_of(rows[-1])) == 1_500


def test_a_parent_written_after_its_child_is_flagged_with_evidence(tmp_path: Path) -> None:
    """bad-input D58: the catalog saw the parent before and after."""
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder)
    middle = child(folder, "middle.vhd", bottom)
    child(folder, "leaf.vhd", middle)
    scan(root)
    touch(folder / "base.vhd")
    scan(root)
    link = disk("middle.vhd").parent_link
    assert link.parent_written_after
    assert disk("middle.vhd").health == Disk.Health.SUSPECT
    assert "was last written" in disk("middle.vhd").sentence
    assert disk("leaf.vhd").health == Disk.Health.SUSPECT
    assert disk("base.vhd").health == Disk.Health.HEALTHY


@pytest.mark.usefixtures("either_format")
def test_a_twin_of_the_parent_is_a_note(tmp_path: Path) -> None:
    """bad-input D56: a header path that leads to a match wins; twins are told."""
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder)
    child(folder, "leaf.vhd", bottom)
    (folder / "backup").mkdir()
    shutil.copy2(bottom.path, folder / "backup" / named("base.vhd"))
    scan(root)
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY
    assert f"backup/{named('base.vhd')}" in disk("leaf.vhd").parent_link.reason


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    """bad-input D65."""
    folder = tmp_path / "vms"
    root = declare(folder)
    names = [b"caf\xe9.vhd", b"new\nline.vhd", "\u202ertl.vhd".encode(), b"back\\slash.vhd"]
    for name in names:
        build_fixed(folder, os.fsdecode(name), size=64 * 1024)
    scan(root)
    found = {os.fsencode(path) for path in Disk.objects.values_list("relative_path", flat=True)}
    assert found == set(names)
    assert scan(root)["missing"] == 0


def test_an_emptied_mount_point_is_offline_and_keeps_its_rows(tmp_path: Path) -> None:
    """bad-input D67."""
    folder = tmp_path / "vms"
    root = declare(folder)
    other = declare(tmp_path / "other", "C:\\VMs")
    bottom = base(tmp_path / "other")
    child(folder, "leaf.vhd", bottom, locators={"W2ku": "C:\\VMs\\base.vhd"})
    scan(root, other)
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY
    os.rename(tmp_path / "other", tmp_path / "unmounted")
    (tmp_path / "other").mkdir()
    with pytest.raises(ImageError) as refused:
        scan(other)
    assert refused.value.code == "E_ROOT_OFFLINE"
    other.refresh_from_db()
    assert other.state == StorageRoot.State.OFFLINE
    assert disk("base.vhd").missing_since is None
    scan(root)
    leaf = disk("leaf.vhd")
    assert leaf.parent_link.parent_id == disk("base.vhd").pk
    assert leaf.health_code == "E_ROOT_OFFLINE"
    (tmp_path / "other").rmdir()
    os.rename(tmp_path / "unmounted", tmp_path / "other")
    scan(other)
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY


def test_another_volume_in_the_roots_place_is_refused_until_accepted(tmp_path: Path) -> None:
    """bad-input E75."""
    root = declare(tmp_path / "vms")
    base(tmp_path / "vms")
    scan(root)
    os.rename(tmp_path / "vms", tmp_path / "first")
    base(tmp_path / "vms", "other.vhd")
    with pytest.raises(ImageError) as refused:
        scan(root)
    assert refused.value.code == "E_ROOT_CHANGED"
    assert disk("base.vhd").missing_since is None
    root.refresh_from_db()
    root_declarations.accept(root)
    scan(root)
    assert disk("base.vhd").missing_since is not None
    assert disk("other.vhd").health == Disk.Health.HEALTHY


def test_a_cancelled_scan_keeps_what_it_saw(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder / "a")
    child(folder / "a", "leaf.vhd", bottom)
    base(folder / "b", "later.vhd")

    class Stopping(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            if "b" in (sentence or "").split():
                raise Cancelled

    with pytest.raises(Cancelled):
        scanning.scan(root, Stopping())
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY
    root.refresh_from_db()
    assert root.last_scan_at is None


def test_a_scan_asks_after_each_file_that_it_reads_whether_it_shall_stop(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    for name in ("a.vhd", "b.vhd", "c.vhd"):
        base(folder, name)
    told: list[int] = []

    class Stopping(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            told.append(done_bytes)
            if done_bytes == 2:
                raise Cancelled

    with pytest.raises(Cancelled):
        scanning.scan(root, Stopping())
    assert told == [1, 2]
    assert not Disk.objects.filter(name="c.vhd").exists()


def test_an_unreadable_folder_makes_nothing_missing(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    base(folder / "locked", "kept.vhd")
    scan(root)
    from disks.operations.paths import Roots

    original = Roots.open_folder

    def refuse(self: Roots, path: str) -> int:
        if path.endswith("locked"):
            raise ImageError("E_ACCESS", "no permission", file=path)
        return original(self, path)

    monkeypatch.setattr(Roots, "open_folder", refuse)
    result = scan(root)
    assert result["missing"] == 0
    assert result["problem_count"] == 1
    assert disk("kept.vhd").missing_since is None


@pytest.mark.usefixtures("either_format")
def test_whoever_manages_a_disk_is_found_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    base(folder, "vm.vhd")
    scan(root)
    assert disk("vm.vhd").managed_by == ""
    (folder / f"{named('vm.vhd')}.rct").write_bytes(b"")
    scan(root)
    assert disk("vm.vhd").managed_by == "change-tracking"
    os.unlink(folder / f"{named('vm.vhd')}.rct")
    scan(root)
    assert disk("vm.vhd").managed_by == ""


def test_new_windows_views_resolve_old_links(tmp_path: Path) -> None:
    one, two = declare(tmp_path / "one"), declare(tmp_path / "two")
    bottom = base(tmp_path / "two")
    child(tmp_path / "one", "leaf.vhd", bottom, locators={"W2ku": "V:\\bases\\base.vhd"})
    scan(one, two)
    assert disk("leaf.vhd").health == Disk.Health.BROKEN
    root_declarations.change(two, says=root_declarations.Declaration(windows_views=["V:\\bases"]))
    scan(one)
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY


def test_queries_do_not_grow_with_the_number_of_disks(
    tmp_path: Path, django_assert_max_num_queries: Any
) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    for number in range(30):
        bottom = base(folder, f"base-{number}.vhd")
        child(folder, f"leaf-{number}.vhd", bottom)
    root.refresh_from_db()
    with django_assert_max_num_queries(60):
        scanning.scan(root)
    with django_assert_max_num_queries(25):
        scanning.scan(root)


def test_two_scans_of_one_root_wait_for_each_other(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    first = scanning.request(root, user=None, idempotency_key=key())
    second = scanning.request_many([root], user=None, idempotency_key=key())
    assert jobs.claim(first.pk) is not None
    assert jobs.claim(second.pk) is None
    second.refresh_from_db()
    assert second.waits_for_id == first.pk


def test_rows_that_another_scan_wrote_meanwhile_are_kept(tmp_path: Path, monkeypatch: Any) -> None:
    """The command line and a job may still scan at once: neither fails over the other's rows."""
    root = declare(tmp_path / "vms")
    child(tmp_path / "vms", "leaf.vhd", base(tmp_path / "vms"))
    load = known_files.KnownFiles.load

    def overtaken(scanned: Any) -> known_files.KnownFiles:
        known = load(scanned)
        monkeypatch.setattr(known_files.KnownFiles, "load", load)
        scanning.scan(root)
        return known

    monkeypatch.setattr(known_files.KnownFiles, "load", overtaken)
    scanning.scan(root)
    assert Disk.objects.count() == 2
    assert disk("leaf.vhd").parent_link.parent_id == disk("base.vhd").pk


def test_disks_in_a_folder_that_cannot_be_listed_do_not_count_as_seen(
    tmp_path: Path, monkeypatch: Any
) -> None:
    root = declare(tmp_path / "vms")
    base(tmp_path / "vms" / "locked", "hidden.vhd")
    base(tmp_path / "vms", "open.vhd")
    scan(root)
    before = disk("hidden.vhd").last_seen_at
    open_folder = paths.Roots.open_folder

    def refusing(self: paths.Roots, path: str) -> int:
        if path.endswith("/locked"):
            raise ImageError("E_ACCESS", "The folder cannot be read.", file=path)
        return open_folder(self, path)

    monkeypatch.setattr(paths.Roots, "open_folder", refusing)
    scan(root)
    assert disk("hidden.vhd").last_seen_at == before
    assert disk("open.vhd").last_seen_at > before
