"""Real work, killed at each of its steps: what its job says in the end is true of the files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.engine.chain import open_chain
from disks.engine.formats import open_image
from disks.operations import paths, relink, storage_roots
from disks.tests.builders import build_differencing, build_dynamic
from disks.tests.services import consoles
from disks.tests.services.consoles import Console

pytestmark = pytest.mark.slow

MOST_POINTS = 200


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory):
    with consoles.on_sqlite(tmp_path_factory.mktemp("console")) as console:
        yield console


@dataclass
class Scene:
    """Disks before the work; done() tells whether it was done, wholly or not at all."""

    kind: str
    build: Callable[[Path], None]
    done: Callable[[Path], bool]
    exclusive: tuple[str, ...]
    shared: tuple[str, ...] = ()
    every: int = 1  # how many steps to go on; the operation's own tests take each


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below; trash, finished records and freed lock files aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not {".vdtrash", ".vdlock"} & set(path.parts)
        and not path.name.endswith(".vdundo")
    }


def read(folder: Path, name: str) -> bytes:
    with open_chain(str(folder / name), paths.Roots([storage_roots.Root(str(folder))])) as chain:
        return chain.read(0, chain.virtual_size_bytes // 512)


BASE = [(0, b"\x11" * 4096), (4096, b"\x22" * 512)]  # (sector, data)
CHILD = [(1, b"\x33" * 512), (7000, b"\x44" * 1024)]


def build_pair(folder: Path) -> None:
    base = build_dynamic(folder, "base.vhd", content=BASE)
    build_differencing(folder, "child.vhd", base, content=CHILD)


def build_broken(folder: Path) -> None:
    build_pair(folder)
    (folder / "moved").mkdir()
    (folder / "base.vhd").rename(folder / "moved" / "base.vhd")


def build_updated(folder: Path) -> None:
    build_broken(folder)
    roots = paths.Roots([storage_roots.Root(str(folder))])
    plan = relink.plan(str(folder / "child.vhd"), str(folder / "moved" / "base.vhd"), roots)
    relink.apply(plan, roots, offline=True, job="an earlier one", token=1)


def build_pair_and_place(folder: Path) -> None:
    build_pair(folder)
    (folder / "far").mkdir()


def created(folder: Path) -> bool:
    if not (folder / "new.vhd").exists():
        return False
    roots = paths.Roots([storage_roots.Root(str(folder))])
    with roots.open(str(folder / "new.vhd")) as file:
        assert open_image(file).virtual_size_bytes == 1024 * 1024
    return True


def merged(folder: Path) -> bool:
    if (folder / "child.vhd").exists():
        return False
    merged = read(folder, "base.vhd")
    for first, data in (*BASE[1:], *CHILD):
        assert merged[first * 512 : first * 512 + len(data)] == data
    return True


def updated(folder: Path) -> bool:
    try:
        read(folder, "child.vhd")
    except Exception:
        return False
    return True


def chain_reads(folder: Path, *names: str) -> bool:
    """The child has its content through its link, and there are these files and no others."""
    found = {path for path in contents(folder) if path.endswith(".vhd")}
    if found != set(names):
        return False
    child = next(name for name in names if name.endswith("child.vhd"))
    roots = paths.Roots([storage_roots.Root(str(folder))])
    with open_chain(str(folder / child), roots) as chain:
        for first, data in (*BASE[1:], *CHILD):
            assert chain.read(first, len(data) // 512) == data
    return True


SCENES = {
    "create": Scene("rehearsal-create", lambda folder: None, created, ("new.vhd",)),
    "merge": Scene("rehearsal-merge", build_pair, merged, ("child.vhd", "base.vhd"), every=3),
    "update": Scene("rehearsal-update", build_broken, updated, ("child.vhd",), ("moved/base.vhd",)),
    "undo": Scene(
        "rehearsal-undo",
        build_updated,
        lambda folder: not updated(folder),
        ("child.vhd",),
        ("moved/base.vhd",),
        every=2,
    ),
    "copy": Scene(
        "rehearsal-copy",
        build_pair_and_place,
        lambda folder: chain_reads(
            folder, "base.vhd", "child.vhd", "far/base.vhd", "far/child.vhd"
        ),
        ("far/base.vhd", "far/child.vhd"),
        ("base.vhd", "child.vhd"),
        every=7,
    ),
    "delete": Scene(
        "rehearsal-delete",
        build_pair,
        lambda folder: not (folder / "child.vhd").exists(),
        ("child.vhd",),
        ("base.vhd",),
        every=7,
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_job_killed_at_any_step_says_what_is_true(console: Console, name, tmp_path):
    """bad-input E79, F85: at each write, fsync, rename, link and unlink, one after the other."""
    scene = SCENES[name]
    model = tmp_path / "model"
    model.mkdir()
    scene.build(model)
    before = contents(model)
    ends = []
    for number in range(1, MOST_POINTS, scene.every):
        folder = tmp_path / str(number)
        shutil.copytree(model, folder)
        console.do("only_root", folder=str(folder))
        job = console.do(
            "request",
            folder=str(folder),
            name=name,
            kind=scene.kind,
            exclusive=[str(folder / each) for each in scene.exclusive],
            shared=[str(folder / each) for each in scene.shared],
            enqueue=False,
        )
        console.do("break_at", job_id=job, fault=f"*:{number}:kill")
        if console.show(job)["status"] == "succeeded":
            break
        console.do("reconcile")
        ended = console.show(job)
        assert ended["status"] in ("succeeded", "failed"), (number, ended, console.log())
        done = scene.done(folder)
        assert done == (ended["status"] == "succeeded"), (number, ended, console.log())
        if not done:
            assert contents(folder) == before, number
        assert list(folder.rglob("*.vdtmp")) == []
        assert ended["locks"] == []
        ends.append(ended["status"])
        shutil.rmtree(folder)
    assert scene.done(folder)
    assert number > 3
    assert "failed" in ends
    assert "succeeded" in ends
