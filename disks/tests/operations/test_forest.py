"""How disks hang together: runs, branches and what stands apart, from links alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disks.operations.forest import Forest, Lost, Member


def member(path: str, parent: str | None = None, **options: object) -> Member:
    return Member(
        **{
            "path": path,
            "identity": f"id of {path}",
            "disk_type": "differencing" if parent else "dynamic",
            "virtual_size_bytes": 100,
            "file_size_bytes": 10,
            "allocated_bytes": 10,
            "mtime_ns": 0,
            "parent": parent,
        }
        | options  # type: ignore[arg-type]
    )


def forest(*links: str, **options: dict[str, object]) -> Forest:
    """Each link is "child>parent", or the name of a base."""
    members = []
    for link in links:
        path, _, parent = link.partition(">")
        members.append(member(path, parent or None, **options.get(path, {})))
    return Forest(members)


def runs(grown: Forest) -> list[str]:
    return ["".join(run.paths) for run in grown.runs]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (["b"], []),
        (["b", "1>b"], ["1b"]),
        (["b", "1>b", "2>1", "3>2"], ["321b"]),
        # a branch ends a run on both of its sides; what is above comes first
        (["b", "1>b", "2>1", "3>1"], ["1b"]),
        (["b", "1>b", "2>b"], []),
        (["b", "1>b", "2>1", "3>2", "4>2", "5>4"], ["54", "21b"]),
        (["b", "1>b", "2>1", "3>b", "4>3"], ["21", "43"]),
        (["b", "1>b", "c", "2>c", "3>2"], ["32c", "1b"]),
    ],
)
def test_every_way_without_a_branch_is_a_run(links: list[str], expected: list[str]) -> None:
    assert runs(forest(*links)) == expected
    random.Random(3).shuffle(links)
    assert runs(forest(*links)) == expected


def test_a_run_knows_what_builds_on_it() -> None:
    (run,) = forest("b", "1>b", "2>1", "3>1").runs
    assert (run.leaf, run.base, run.above) == ("1", "b", ("2", "3"))
    assert run.steps == [("1", "b")]


def test_a_run_goes_down_to_a_base_outside_but_not_up_to_a_disk_outside() -> None:
    grown = forest("b", "1>b", "2>1", "3>2", b={"inside": False}, **{"3": {"inside": False}})
    assert runs(grown) == ["21b"]
    assert grown.runs[0].above == ("3",)
    assert grown.needed_outside == [("2", ["3"])]


def test_other_children_outside_make_a_branch() -> None:
    grown = forest("b", "1>b", "2>1", "x>b", b={"inside": False}, x={"inside": False})
    assert runs(grown) == ["21"]
    assert [branch.parent for branch in grown.branches] == ["b"]


def test_a_branch_that_concerns_no_disk_of_the_folder_is_not_told() -> None:
    outside = {name: {"inside": False} for name in "bxy"}
    assert forest("b", "x>b", "y>x", "z>x", "a", **outside, z={"inside": False}).branches == []


def test_the_leaf_written_last_comes_first_and_a_tie_tells_nothing() -> None:
    links = ["b", "1>b", "2>1", "3>b", "4>b"]
    times = {"2": {"mtime_ns": 5}, "3": {"mtime_ns": 7}, "4": {"mtime_ns": 6}}
    grown = forest(*links, **times)  # type: ignore[arg-type]
    (branch,) = grown.branches
    assert branch.leaves == ("3", "4", "2")
    assert grown.newest(branch) == "3"
    times["4"] = {"mtime_ns": 7}
    tied = forest(*links, **times)  # type: ignore[arg-type]
    assert tied.newest(tied.branches[0]) is None


def test_copies_of_one_disk_are_twins_and_show_in_the_branch_they_make() -> None:
    grown = forest(
        "b", "1>b", "2>b", "3>b", **{"1": {"identity": "same"}, "3": {"identity": "same"}}
    )
    assert grown.branches[0].twins == ("1", "3")
    assert grown.twins == {"1": ["3"], "3": ["1"]}


def test_a_ring_is_told_once_and_nothing_on_it_is_a_run() -> None:
    grown = forest("1>3", "2>1", "3>2", "4>2", "5>4", "b", "6>b")
    assert [sorted(ring) for ring in grown.rings] == [["1", "2", "3"]]
    assert runs(grown) == ["6b"]


def test_orphans_and_lone_disks_are_told_apart() -> None:
    lost = {"lost": Lost("E_PARENT_MISSING", "It is not there."), "disk_type": "differencing"}
    grown = forest("b", "o", "2>o", "alone", "1>b", o=lost)
    assert [one.path for one in grown.orphans] == ["o"]
    assert [one.path for one in grown.alone] == ["alone"]
    assert runs(grown) == ["1b", "2o"]


@given(st.lists(st.integers(0, 30), max_size=30), st.randoms())
def test_runs_never_share_a_disk_and_never_skip_a_child(
    parents: list[int], chance: random.Random
) -> None:
    """Any tree: disk n builds on a disk with a smaller number, or is a base."""
    links = []
    for number, parent in enumerate(parents):
        links.append(f"d{number}>d{parent % number}" if number and parent else f"d{number}")
    chance.shuffle(links)
    grown = forest(*links)
    seen: set[str] = set()
    place = {path: number for number, run in enumerate(grown.runs) for path in run.paths}
    for number, run in enumerate(grown.runs):
        assert not seen.intersection(run.paths)
        seen.update(run.paths)
        for child, parent in run.steps:
            assert grown.children_of(parent) == [child]
        assert sorted(run.above) == grown.children_of(run.leaf)
        assert all(place.get(path, -1) < number for path in run.above)  # what is above is first
    alone_in_its_run = set(grown.members) - seen
    for path in alone_in_its_run:
        parent = grown.parent_of(path)
        assert parent is None or len(grown.children_of(parent)) > 1
