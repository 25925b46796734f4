"""The block table in runs, compared with a list of every block."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from disks.engine import formats
from disks.engine.block_runs import block_runs
from disks.engine.images import Source
from disks.tests.builders import MIB, Family, build_differencing_vhdx, build_dynamic_vhdx
from disks.tests.engine.world import open_file


@pytest.mark.parametrize("seed", range(40))
def test_runs_say_what_a_list_says(seed: int) -> None:
    chance = random.Random(seed)
    total = chance.randrange(1, 40)
    sources = [chance.choice(list(Source)) for _ in range(total)]
    absent = chance.choice(list(Source))
    told = [one is not absent or chance.random() < 0.3 for one in sources]
    used = [(at, one) for at, one in enumerate(sources) if told[at]]
    found = [one for _, count, one in block_runs(used, total, absent) for _ in range(count)]
    assert found == sources
    runs = list(block_runs(used, total, absent))
    assert all(one[2] is not other[2] for one, other in itertools.pairwise(runs))
    assert [first for first, _, _ in runs] == [
        sum(count for _, count, _ in runs[:at]) for at in range(len(runs))
    ]


def test_blocks_behind_the_end_do_not_count() -> None:
    assert list(block_runs([(1, Source.DATA), (7, Source.DATA)], 2, Source.ZERO)) == [
        (0, 1, Source.ZERO),
        (1, 1, Source.DATA),
    ]


def test_a_disk_tells_its_blocks_as_its_extents_do(tmp_path: Path, family: Family) -> None:
    built = family.dynamic(
        tmp_path, family.file("a"), size=8 * MIB, block_size=family.small, allocate=[1, 2, 5]
    )
    child = family.differencing(
        tmp_path, family.file("b"), built, block_size=family.small, allocate=[3]
    )
    with open_file(built.path) as file:
        runs = list(formats.open_image(file).block_runs())
    assert runs[:4] == [
        (0, 1, Source.ZERO),
        (1, 2, Source.DATA),
        (3, 2, Source.ZERO),
        (5, 1, Source.DATA),
    ]
    with open_file(child.path) as file:
        image = formats.open_image(file)
        runs = list(image.block_runs())
    assert [(first, count) for first, count, one in runs if one is Source.DATA] == [(3, 1)]
    assert {one for _, _, one in runs} == {Source.DATA, Source.PARENT}


def test_states_of_a_vhdx_that_hide_the_parent(tmp_path: Path) -> None:
    """vhdx.md 5: 1 to 3 are zeros, 0 is the parent; chunks are crossed without a gap."""
    base = build_dynamic_vhdx(tmp_path, "a.vhdx", size=8 * MIB, block_size=MIB)
    states = {0: 1, 1: 2, 2: 3, 3: 0}
    child = build_differencing_vhdx(tmp_path, "b.vhdx", base, states=states, allocate=[5])
    with open_file(child.path) as file:
        assert list(formats.open_image(file).block_runs()) == [
            (0, 3, Source.ZERO),
            (3, 2, Source.PARENT),
            (5, 1, Source.DATA),
            (6, 2, Source.PARENT),
        ]
