"""Processes of `disk …` that are killed, stopped and paused midway, or meet a running VM.

Each is a process of its own with its own locks. It pauses itself (SIGSTOP) at a change of the
storage; whatever happens to it then, the disks read as before or as the finished result.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.commandline import main
from disks.engine import faults
from disks.tests.builders import Family
from disks.tests.commandline.running import Disk
from disks.tests.operations import worlds
from disks.tests.operations.worlds import chain, errors_in, essence_of, names_in, roots_of

STEMS = ("base", "middle", "leaf", "below")
WAITS_OR_IN_USE = {"E_LOCKED", "E_IN_USE", "E_UNFINISHED"}


@dataclass(frozen=True)
class Operation:
    """arguments: of `disk`, stems of disks for their paths; target: the disk it is about.

    after: name in the end -> the disk whose content it has
    """

    arguments: tuple[str, ...]
    target: str
    after: dict[str, str]


SAME = {stem: stem for stem in STEMS}
OPERATIONS = {
    "compact": Operation(("compact", "base", "--offline"), "base", SAME),
    "copy": Operation(
        ("copy", "leaf", "far", "--chain"),
        "leaf",
        SAME | {f"far/{stem}": stem for stem in ("base", "middle", "leaf")},
    ),
    "move": Operation(
        ("move", "middle", "far/moved", "--relink", "--offline"),
        "middle",
        {"base": "base", "far/moved": "middle", "leaf": "leaf", "below": "below"},
    ),
    "delete": Operation(
        ("delete", "below", "--offline"), "below", {stem: stem for stem in STEMS[:3]}
    ),
    "merge": Operation(
        ("merge", "leaf", "--into-parent", "--offline"),
        "leaf",
        {"base": "base", "middle": "leaf", "below": "below"},
    ),
}


_POINTS: dict[tuple[tuple[str, ...], str], int] = {}


class Scene:
    """A chain of four, an operation on it as a process, and what must be true afterwards."""

    def __init__(self, folder: Path, family: Family, operation: Operation) -> None:
        self.folder, self.family, self.operation = folder, family, operation
        chain(folder, family=family, grandchild=True)
        (folder / "far").mkdir()
        self.before = {stem: essence_of(self.path(stem)) for stem in STEMS}
        self.size_bytes = self.path("base").stat().st_size

    def path(self, name: str) -> Path:
        return self.folder / self.family.file(name)

    @property
    def target(self) -> Path:
        return self.path(self.operation.target)

    @property
    def command(self) -> list[str]:
        verb, *rest = self.operation.arguments
        paths = [word if word.startswith("--") else str(self._named(word)) for word in rest]
        return [verb, *paths, "--root", str(self.folder)]

    def _named(self, word: str) -> Path:
        return self.folder / word if word == "far" else self.path(word)

    def points(self) -> int:
        """How many changes of the storage the operation takes, by one trial on a copy."""
        key = (self.operation.arguments, self.family.name)
        if key not in _POINTS:
            _POINTS[key] = self._counted()
        return _POINTS[key]

    def _counted(self) -> int:
        count = 0

        def see(_: faults.Event) -> None:
            nonlocal count
            count += 1

        aside = self.folder.with_name("before")
        worlds.copy_tree(self.folder, aside)
        faults.watch(see)
        try:
            assert main(self.command) == 0
        finally:
            faults.watch(None)
        shutil.rmtree(self.folder)
        worlds.copy_tree(aside, self.folder)
        shutil.rmtree(aside)
        return count

    def judge(self) -> str:
        names = {name for name in names_in(self.folder) if not name.startswith(".")}
        expected = SAME
        if names != {self.family.file(stem) for stem in STEMS}:
            expected = self.operation.after
        assert names == {self.family.file(name) for name in expected}
        roots = roots_of(self.folder)
        for name, stem in expected.items():
            assert essence_of(self.path(name), roots) == self.before[stem], name
            assert errors_in(self.path(name)) == [], name
        assert worlds.strays(self.folder) == []
        if self.operation.after is SAME:
            return "before" if self.path("base").stat().st_size == self.size_bytes else "after"
        return "before" if expected is SAME else "after"


class Paused:
    """The operation's process, stopped just before its number-th change of the storage."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
                faults.install(faults.parse(f"*:{number}:pause"))
                code = main(scene.command)
            finally:
                os._exit(code)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def send(self, *signals: signal.Signals) -> int:
        """Exit code of the process after these."""
        for number in signals:
            os.kill(self.pid, number)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture(params=list(OPERATIONS))
def scene(request: pytest.FixtureRequest, disk_folder: Path, family: Family) -> Scene:
    return Scene(disk_folder / "disks", family, OPERATIONS[request.param])


def recovered(scene: Scene, disk: Disk) -> list[str]:
    outcome = disk.json("recover", scene.folder)
    return [row["action"] for row in outcome.document["recovered"]]


@pytest.mark.parametrize("part", [1 / 3, 1.0])
def test_after_kill_9_recover_finishes_it_or_takes_it_back(
    scene: Scene, disk: Disk, part: float
) -> None:
    """bad-input F85: no database and no broker is needed for that."""
    paused = Paused(scene, int(scene.points() * part))
    assert paused.send(signal.SIGKILL) == -signal.SIGKILL
    assert not {"busy", "needs-attention"} & set(recovered(scene, disk))
    state = scene.judge()
    assert state == "after" or part < 1
    assert recovered(scene, disk) == []


def test_sigterm_ends_it_at_a_safe_place(scene: Scene, disk: Disk) -> None:
    """bad-input E79: as before, or on its way to the end, or at its end already."""
    paused = Paused(scene, scene.points() // 3)
    code = paused.send(signal.SIGTERM, signal.SIGCONT)
    assert code in (0, 1)
    if code == 0:
        assert scene.judge() == "after"
    assert not {"busy", "needs-attention"} & set(recovered(scene, disk))
    scene.judge()


def test_a_paused_process_is_waited_for_and_comes_to_its_end(scene: Scene, disk: Disk) -> None:
    """bad-input E68, E71: the same once more is refused, recovery leaves it alone."""
    paused = Paused(scene, scene.points() // 2)
    try:
        again = disk.json(*scene.command)
        assert again.code == 1
        refused = again.document.get("error") or again.document["refused"]
        assert refused["code"] in WAITS_OR_IN_USE
        assert set(recovered(scene, disk)) <= {"busy"}
    finally:
        code = paused.send(signal.SIGCONT)
    assert code == 0
    assert scene.judge() == "after"
    assert recovered(scene, disk) == []


def test_a_disk_that_is_swapped_meanwhile_is_not_touched(scene: Scene, disk: Disk) -> None:
    """bad-input E74: somebody gives the name to another file after the plan was made."""
    paused = Paused(scene, 1)
    aside = scene.folder.with_name("aside")
    scene.target.rename(aside)
    shutil.copyfile(aside, scene.target)
    before = worlds.snapshot(scene.folder)[scene.target.name]
    assert paused.send(signal.SIGCONT) == 1
    assert worlds.snapshot(scene.folder)[scene.target.name] == before
    aside.replace(scene.target)
    recovered(scene, disk)
    assert scene.judge() == "before"


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils is missing")
def test_a_disk_that_a_vm_holds_is_left_alone(
    scene: Scene, disk: Disk, machine: Callable[[Path], None]
) -> None:
    """bad-input E72: the dry run says so, and the work is refused."""
    machine(scene.target)
    before = worlds.snapshot(scene.folder)
    foreseen = disk.json(*scene.command, "--dry-run")
    told = f"{scene.target} is open in another program now"
    assert any(warning.startswith(told) for warning in foreseen.document["warnings"])
    assert f"warning: {told}" in foreseen.err
    outcome = disk.json(*scene.command)
    assert outcome.code == 1
    assert outcome.document["error"]["code"] == "E_IN_USE"
    assert worlds.snapshot(scene.folder) == before


@pytest.fixture
def machine():
    """Opens a disk for writing as a running VM does; closes it after the test."""
    running = []

    def start(path: Path) -> None:
        process = subprocess.Popen(
            ["qemu-io", "-f", "raw", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("read 0 512\n")
        process.stdin.flush()
        assert "read 512/512" in process.stdout.readline()

    yield start
    for process in running:
        process.communicate("quit\n", timeout=20)
