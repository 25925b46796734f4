"""bad-input E72: a plan says that a disk is open elsewhere, where its job would be refused."""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.operations import (
    compact,
    convert,
    copy_chain,
    create,
    delete,
    expand,
    in_use,
    locks,
    merge,
    move,
    relink,
)
from disks.operations.paths import Root, Roots
from disks.operations.pile import planning
from disks.tests.builders import Family
from disks.tests.operations.worlds import World, chain, machine, snapshot


@dataclass(frozen=True)
class Verb:
    """told: what its plan says of a world's disks. disk: one that the job needs."""

    told: Callable[[World, Family], list[str]]
    disk: str = "leaf"


def _messages(plan: relink.LinkPlan) -> list[str]:
    return [finding.message for finding in plan.warnings]


VERBS = {
    "merge in place": Verb(
        lambda w, f: merge.plan(str(w.leaf.path), w.roots, into_parent=True, in_place=True).warnings
    ),
    "merge by copy": Verb(
        lambda w, f: merge.plan(str(w.leaf.path), w.roots, into_parent=True).warnings, "middle"
    ),
    "merge to new": Verb(
        lambda w, f: merge.plan(str(w.leaf.path), w.roots, to=w.path(f.file("new"))).warnings
    ),
    "pile": Verb(
        lambda w, f: planning.plan(str(w.folder), w.roots, in_place=True).piles[0].warnings, "base"
    ),
    "compact in place": Verb(lambda w, f: compact.plan(str(w.leaf.path), w.roots).warnings),
    "compact by rewriting": Verb(
        lambda w, f: compact.plan(str(w.leaf.path), w.roots, in_place=False).warnings
    ),
    "expand": Verb(
        lambda w, f: expand.plan(str(w.leaf.path), 1 << 30, w.roots, scan=False).warnings
    ),
    "relink": Verb(
        lambda w, f: _messages(relink.plan(str(w.leaf.path), str(w.middle.path), w.roots))
    ),
    "move": Verb(lambda w, f: move.plan(str(w.leaf.path), w.path(f.file("new")), w.roots).warnings),
    "delete": Verb(lambda w, f: delete.plan(str(w.leaf.path), w.roots).warnings),
    "convert": Verb(
        lambda w, f: convert.plan(str(w.leaf.path), w.path(f.file("new")), w.roots).warnings
    ),
    "copy": Verb(
        lambda w, f: copy_chain.plan(str(w.leaf.path), w.path("far"), w.roots, whole=True).warnings
    ),
    "create": Verb(
        lambda w, f: create.plan(w.path(f.file("new")), w.roots, parent=str(w.leaf.path)).warnings
    ),
}


@pytest.fixture
def world(tmp_path: Path, family: Family) -> World:
    (tmp_path / "far").mkdir()
    return chain(tmp_path, family=family)


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_plan_says_that_a_disk_is_open_elsewhere(
    world: World, family: Family, verb: Verb
) -> None:
    path = world.path(family.file(verb.disk))
    before = snapshot(world.folder)
    with machine(Path(path)):
        (told,) = [one for one in verb.told(world, family) if "open in another program" in one]
    assert told.startswith(f"{path} is open in another program now")
    assert "nothing begins here: shut it down, or detach the disk there, first." in told
    assert not any("another program" in one for one in verb.told(world, family))
    assert snapshot(world.folder) == before


def test_what_a_plan_says_is_what_the_job_meets(tmp_path: Path) -> None:
    """The same means: whoever reads stands in the way of who changes, not of who reads."""
    roots, path = _a_disk(tmp_path)
    for writes in (True, False):
        with machine(Path(path), writes=writes):
            for exclusive in (True, False):
                told = in_use.warnings(roots, *([path], []) if exclusive else ([], [path]))
                assert bool(told) is _is_refused(roots, path, exclusive)
    assert in_use.warnings(roots, [path]) == []


def test_a_plan_names_the_job_that_has_the_disk(tmp_path: Path) -> None:
    """bad-input E68. Whose job it is itself is not told; nor is a lock that a dead job left."""
    roots, path = _a_disk(tmp_path)
    look = contextvars.copy_context()
    with locks.hold(roots, [path], job="17"):
        (told,) = look.run(in_use.warnings, roots, [path])
        assert told.startswith(f"{path} is in the hands of job 17 on host ")
        assert told.endswith("now. Nothing begins here before that is done.")
        assert in_use.warnings(roots, [path]) == []
    with locks.hold(roots, [], [path]):
        assert look.run(in_use.warnings, roots, [], [path]) == []
        (told,) = look.run(in_use.warnings, roots, [path])
        assert told.startswith(f"{path} is in the hands of another job that reads it now")
    (tmp_path / ".vdlock").mkdir()
    (tmp_path / ".vdlock" / locks.lock_name(path)).touch()
    assert in_use.warnings(roots, [path]) == []


def test_looking_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a moment: a machine that starts meanwhile must not find a lock of ours."""
    roots, path = _a_disk(tmp_path)
    asked = fcntl.fcntl
    kinds = []

    def noted(fd: int, command: int, *rest: bytes) -> object:
        kinds.append(command)
        return asked(fd, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", noted)
    assert in_use.warnings(roots, [path]) == []
    assert set(kinds) == {fcntl.F_OFD_GETLK}
    assert os.listdir(tmp_path) == ["a.vhd"]


def test_many_disks_of_one_machine_are_told_in_one_sentence(tmp_path: Path) -> None:
    roots, _ = _a_disk(tmp_path)
    paths = [str(tmp_path / f"{number}.vhd") for number in range(7)]
    with contextlib.ExitStack() as stack:
        for path in paths:
            Path(path).write_bytes(bytes(4096))
            stack.enter_context(machine(Path(path)))
        (told,) = in_use.warnings(roots, paths)
    assert told.startswith(", ".join(paths[:5]) + " and 2 more are open in another program now")


def test_what_cannot_be_looked_at_is_passed_over(tmp_path: Path) -> None:
    roots, path = _a_disk(tmp_path)
    (tmp_path / ".vdlock").mkdir()
    os.mkfifo(tmp_path / ".vdlock" / locks.lock_name(path))
    missing, outside = str(tmp_path / "no.vhd"), "/nowhere/a.vhd"
    assert in_use.warnings(roots, [path, missing, outside]) == []


def _a_disk(folder: Path) -> tuple[Roots, str]:
    (folder / "a.vhd").write_bytes(bytes(4096))
    return Roots([Root(str(folder))]), str(folder / "a.vhd")


def _is_refused(roots: Roots, path: str, exclusive: bool) -> bool:
    try:
        with locks.hold(roots, *([path], []) if exclusive else ([], [path])):
            return False
    except ImageError as error:
        return error.code == "E_IN_USE"
