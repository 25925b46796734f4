"""Any chain under any row of operations reads as a plain array of bytes says it must.

What one operation leaves is what the next one finds: parents merged away, blocks given back,
disks grown and converted, links rewritten and taken back.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disks.engine.chain import open_chain
from disks.engine.formats import open_image
from disks.engine.images import DiskType
from disks.operations import (
    compact,
    convert,
    copy_chain,
    create,
    delete,
    expand,
    merge,
    move,
    relink,
)
from disks.operations.paths import Roots
from disks.operations.trash import restoring
from disks.tests.builders import FAMILIES, MIB, Family, seven_zip_sha256
from disks.tests.engine.test_properties import DETERMINISTIC, Plan, build, plans, room_for
from disks.tests.operations import worlds
from disks.tests.operations.worlds import content_of, errors_in, roots_of

# `make prove` raises it.
EXAMPLES = int(os.environ.get("VD_PROVE_SEQUENCES", "25"))
MOST_LEVELS = 6


@dataclass
class Row:
    """A chain of disks, base first, each with the bytes that it must read as."""

    folder: Path
    family: Family
    seven_zip_reads: bool
    disks: list[tuple[Path, bytearray]]
    draw: Callable[[st.SearchStrategy[Any]], Any]
    others: list[tuple[Path, bytearray]] = field(default_factory=list)
    made: int = 0

    @property
    def roots(self) -> Roots:
        return roots_of(self.folder)

    def new_name(self, extension: str = "") -> Path:
        self.made += 1
        return self.folder / f"made{self.made}.{extension or self.family.name}"

    def check(self) -> None:
        """Every disk reads as its model; nothing is damaged or left behind."""
        for path, model in [*self.disks, *self.others]:
            assert content_of(path, self.roots) == hashlib.sha256(model).hexdigest(), path.name
            assert errors_in(path) == [], path.name
        assert worlds.strays(self.folder) == []

    # The operations. Each says whether there was anything to do it with.

    def merge_into_parent(self) -> bool:
        if len(self.disks) < 2:
            return False
        index = self.draw(st.integers(1, len(self.disks) - 1))
        lowest = self.draw(st.integers(0, index - 1))
        keep = self.draw(st.sampled_from(["parent", "child"]))
        (child, model), (base, _) = self.disks[index], self.disks[lowest]
        plan = merge.plan(
            str(child),
            self.roots,
            into_parent=True,
            base=str(base),
            keep_name=keep,
            in_place=self.draw(st.booleans()),
        )
        merge.apply(plan, self.roots, offline=True)
        survivor = child if keep == "child" else base
        self.disks[lowest : index + 1] = [(survivor, model)]
        shutil.rmtree(self.folder / ".vdtrash")
        return True

    def merge_to_new(self) -> bool:
        path, model = self.disks[-1]
        if len(self.disks) < 2:
            return False
        target = self.new_name()
        merge.apply(merge.plan(str(path), self.roots, to=str(target)), self.roots)
        self.others.append((target, bytearray(model)))
        return True

    def compact(self) -> bool:
        path, _ = self.draw(st.sampled_from(self.disks))
        plan = compact.plan(str(path), self.roots, in_place=self.draw(st.booleans()))
        if plan.refused is not None:
            assert plan.refused.code in ("E_FIXED", "E_NOTHING_TO_COMPACT", "E_DISK_TYPE")
            return False
        compact.apply(plan, self.roots, offline=True)
        shutil.rmtree(self.folder / ".vdtrash", ignore_errors=True)
        return True

    def create_child(self) -> bool:
        parent, model = self.disks[-1]
        if len(self.disks) >= MOST_LEVELS:
            return False
        path = self.new_name()
        create.apply(create.plan(str(path), self.roots, parent=str(parent)), self.roots)
        self.disks.append((path, bytearray(model)))
        return True

    def expand_leaf(self) -> bool:
        path, model = self.disks[-1]
        sectors = self.draw(st.sampled_from([8, 64, 2048, 8192]))
        size = len(model) // 4096 * 4096 + sectors * 512 + 4096
        plan = expand.plan(str(path), size, self.roots)
        assert plan.refused is None, plan.refused
        expand.apply(plan, self.roots, offline=True)
        model.extend(bytes(size - len(model)))
        self.seven_zip_reads = False  # 7-Zip refuses children that are larger than their parent
        return True

    def convert_leaf(self) -> bool:
        path, model = self.disks[-1]
        extension = self.draw(st.sampled_from(["vhd", "vhdx", "raw"]))
        target = self.new_name(extension)
        kind = None if extension == "raw" else self.draw(st.sampled_from(["fixed", "dynamic"]))
        plan = convert.plan(str(path), str(target), self.roots, disk_type=kind)
        if plan.refused is not None:
            assert plan.refused.code in ("E_SECTORS", "E_SIZE", "E_SECTOR_SIZE"), plan.refused
            return False
        convert.apply(plan, self.roots)
        if extension == "raw":
            assert target.read_bytes() == model
            target.unlink()
        else:
            self.others.append((target, bytearray(model)))
        return True

    def move_a_parent_and_relink(self) -> bool:
        """Moved by somebody else; the link is repaired, and now and then that is taken back."""
        if len(self.disks) < 2:
            return False
        index = self.draw(st.integers(1, len(self.disks) - 1))
        (child, _), (parent, model) = self.disks[index], self.disks[index - 1]
        elsewhere = self.new_name()
        if self.draw(st.booleans()):
            elsewhere = elsewhere.with_suffix("") / parent.name
            elsewhere.parent.mkdir()
            self.seven_zip_reads = False  # on Linux it takes `.\\folder\\name` for one name
        parent.rename(elsewhere)
        self.disks[index - 1] = (elsewhere, model)
        if index > 1:  # the parent's own link led from its old folder
            above = self.disks[index - 2][0]
            relink.apply(
                relink.plan(str(elsewhere), str(above), self.roots), self.roots, offline=True
            )
        relink.apply(relink.plan(str(child), str(elsewhere), self.roots), self.roots, offline=True)
        if self.draw(st.booleans()):
            relink.undo(str(child), self.roots, offline=True)
            relink.apply(
                relink.plan(str(child), str(elsewhere), self.roots), self.roots, offline=True
            )
        return True

    def move(self) -> bool:
        """With its children's links."""
        index = self.draw(st.integers(0, len(self.disks) - 1))
        path, model = self.disks[index]
        target = self.new_name()
        plan = move.plan(str(path), str(target), self.roots, relink=True)
        move.apply(plan, self.roots, offline=True)
        self.disks[index] = (target, model)
        return True

    def delete_and_restore(self) -> bool:
        path, _ = self.disks[-1]
        done = delete.apply(delete.plan(str(path), self.roots), self.roots, offline=True)
        assert not path.exists()
        (there,) = done["trash"]
        restoring.restore(there, self.roots, offline=True)
        return True

    def copy_the_chain(self) -> bool:
        """The set is opened as any other disk, in a folder of its own."""
        path, model = self.disks[-1]
        folder = self.new_name().with_suffix("")
        folder.mkdir()
        plan = copy_chain.plan(str(path), str(folder), self.roots, whole=True)
        copy_chain.apply(plan, self.roots)
        assert content_of(folder / path.name) == hashlib.sha256(model).hexdigest()
        shutil.rmtree(folder)
        return True


OPERATIONS = [
    Row.merge_into_parent,
    Row.merge_to_new,
    Row.compact,
    Row.create_child,
    Row.expand_leaf,
    Row.convert_leaf,
    Row.move_a_parent_and_relink,
    Row.move,
    Row.delete_and_restore,
    Row.copy_the_chain,
]


def contents(folder: Path, plan: Plan) -> list[tuple[Path, bytearray]]:
    """The chain's disks, base first, with what they read as before anything was done."""
    found = []
    for number in range(len(plan.levels)):
        path = folder / plan.family.file(f"level{number}")
        with open_chain(str(path), roots_of(folder)) as chain:
            found.append((path, bytearray(chain.read(0, chain.sectors))))
    return found


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@settings(DETERMINISTIC, max_examples=EXAMPLES)
@given(data=st.data())
def test_any_row_of_operations_keeps_every_byte(
    tmp_path_factory: pytest.TempPathFactory, family: Family, data: st.DataObject
) -> None:
    plan = data.draw(plans(family))
    basetemp = tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(dir=basetemp) as name, room_for(*plan.levels):
        folder = Path(name)
        leaf = build(folder, plan)
        row = Row(folder, family, plan.seven_zip_reads, contents(folder, plan), data.draw)
        assert bytes(row.disks[-1][1]) == bytes(leaf.model)  # the builder's, not the engine's
        for operation in data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=5)):
            if operation(row):
                row.check()
        path, model = row.disks[-1]
        with row.roots.open(str(path)) as file:
            differencing = open_image(file).disk_type is DiskType.DIFFERENCING
        assert differencing == (len(row.disks) > 1)
        if row.seven_zip_reads:
            assert seven_zip_sha256(path) == hashlib.sha256(model).hexdigest()
        assert all(len(one) <= 64 * MIB for _, one in row.disks)
