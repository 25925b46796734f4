"""The overview's facts, from a catalog that scans made."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest
from django.apps import apps

from disks.models import Disk, ParentLink
from disks.services import overview, repair_plans, root_declarations
from disks.tests.builders import MIB
from disks.tests.services.catalog import base, child, declare, disk, scan, touch

pytestmark = pytest.mark.django_db


def test_folders_that_no_root_maps_are_counted_until_one_does(tmp_path: Path) -> None:
    bases, children = declare(tmp_path / "bases"), declare(tmp_path / "vms")
    bottom = base(tmp_path / "bases")
    for number, folder in enumerate(["V:\\bases", "V:\\bases", "W:\\old", "v:/bases"]):
        locators = {"W2ku": f"{folder}\\base.vhd"}
        child(tmp_path / "vms", f"{number}.vhd", bottom, locators=locators, parent_name="x.vhd")
    scan(bases, children)
    assert overview.unmapped_paths() == [("V:\\bases", 2), ("W:\\old", 1), ("v:\\bases", 1)]
    assert overview.unmapped_paths(most=1) == [("V:\\bases", 2)]
    root_declarations.change(bases, says=root_declarations.Declaration(windows_views=["V:\\bases"]))
    scan(children)
    assert overview.unmapped_paths() == [("W:\\old", 1)]


def test_a_cause_speaks_of_children_that_are_there_and_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(tmp_path / "elsewhere")
    middle = child(folder, "middle.vhd", bottom)
    child(folder, "leaf.vhd", middle)
    # Damaged itself: that its parent is missing, too, is not what keeps it from being read.
    child(folder, "damaged.vhd", bottom, front_checksum="wrong")
    scan(root)
    assert disk("damaged.vhd").health == Disk.Health.DAMAGED
    (group,) = overview.broken_groups()
    assert (group.count, group.above, group.example.name) == (1, 1, "middle.vhd")
    assert group.cause == f"missing:{disk('middle.vhd').parent_link.named_identity}"
    (planned,) = repair_plans.repair_plan()
    assert planned.cause == group.cause
    assert {row.child.name for row in planned.unmatched} == {"middle.vhd", "damaged.vhd"}
    os.rename(folder / "middle.vhd", tmp_path / "away.vhd")
    scan(root)
    assert overview.broken_causes() == (1, False)
    (group,) = overview.broken_groups()
    assert (group.count, group.example.name) == (1, "leaf.vhd")
    os.rename(tmp_path / "away.vhd", folder / "middle.vhd")
    scan(root)
    (group,) = overview.broken_groups()
    assert (group.count, group.above, group.example.name) == (1, 1, "middle.vhd")


def test_the_largest_group_comes_first_and_only_as_many_as_are_asked_for(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    for number, children in enumerate([1, 3, 2]):
        bottom = base(tmp_path / "elsewhere", f"base-{number}.vhd")
        for one in range(children):
            child(tmp_path / "vms", f"{number}-{one}.vhd", bottom)
    scan(root)
    assert [group.count for group in overview.broken_groups()] == [3, 2, 1]
    assert [group.count for group in overview.broken_groups(most=2)] == [3, 2]
    assert overview.broken_causes() == (3, False)


def test_suspects_are_no_group_of_broken_disks(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    child(tmp_path / "vms", "leaf.vhd", base(tmp_path / "vms"))
    scan(root)
    touch(tmp_path / "vms" / "base.vhd")
    scan(root)
    assert overview.totals().suspect == 1
    assert overview.broken_groups() == []
    assert overview.broken_causes() == (0, False)


def test_room_that_no_block_takes_is_told_where_it_is_worth_it(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    for name, more in (("little.vhd", 63 * MIB), ("much.vhd", 80 * MIB)):
        built = base(tmp_path / "vms", name)
        data = built.path.read_bytes()
        with open(built.path, "wb") as file:
            file.write(data[:-512])
            file.seek(more, os.SEEK_CUR)
            file.write(data[-512:])
    scan(root)
    much = disk("much.vhd")
    blocks = (much.blocks_allocated or 0) * (much.block_size_bytes or 0)
    assert blocks > 0
    assert much.spare_bytes == much.file_size_bytes - blocks > 80 * MIB
    assert disk("little.vhd").spare_bytes is None
    assert overview.spare_bytes() == much.spare_bytes
    os.unlink(tmp_path / "vms" / "much.vhd")
    scan(root)
    assert overview.spare_bytes() == 0


def test_what_is_catalogued_already_gets_the_counted_columns(tmp_path: Path) -> None:
    """The migration tells the same from rows as a scan does from files."""
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(tmp_path / "elsewhere")
    child(folder, "leaf.vhd", bottom)
    child(folder, "gone.vhd", bottom)
    base(folder, "base-2.vhd")
    child(folder, "fine.vhd", base(folder, "base-3.vhd"))
    scan(root)
    os.unlink(folder / "gone.vhd")
    scan(root)
    Disk.objects.filter(name="base-2.vhd").update(file_size_bytes=2**30)
    wanted = dict(ParentLink.objects.values_list("child__name", "unmapped_folder"))
    assert wanted == {"leaf.vhd": "C:\\VMs", "gone.vhd": "C:\\VMs", "fine.vhd": ""}
    cause = disk("leaf.vhd").parent_link.cause
    ParentLink.objects.update(unmapped_folder="", cause=cause)
    import_module("disks.migrations.0006_fill_counted_columns").fill(apps, None)
    assert dict(ParentLink.objects.values_list("child__name", "unmapped_folder")) == wanted
    causes = dict(ParentLink.objects.values_list("child__name", "cause"))
    assert causes == {"leaf.vhd": cause, "gone.vhd": "", "fine.vhd": ""}
    spare = dict(Disk.objects.values_list("name", "spare_bytes"))
    grown = disk("base-2.vhd")
    blocks = (grown.blocks_allocated or 0) * (grown.block_size_bytes or 0)
    assert spare.pop("base-2.vhd") == 2**30 - blocks
    assert set(spare.values()) == {None}
