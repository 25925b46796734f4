"""Two jobs, a job and a running qemu, a job and a dead one: who may touch a disk."""

from __future__ import annotations

import contextvars
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.operations import locks
from disks.operations.locks import hold, lock_name
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for name in ("a.vhd", "b.vhd", "c.vhd"):
        (tmp_path / name).write_bytes(bytes(4096))
    return Roots([Root(str(tmp_path))])


def elsewhere(call: Callable[[], object]) -> object:
    """As another job would: without what this one holds already."""
    return contextvars.Context().run(call)


def code_when_taken(
    roots: Roots, exclusive: list[str], shared: list[str] | None = None
) -> str | None:
    def take() -> str | None:
        try:
            with hold(roots, exclusive, shared or []):
                return None
        except ImageError as error:
            return error.code

    return elsewhere(take)  # type: ignore[return-value]


@pytest.fixture
def other_process(roots: Roots, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start processes that hold disks until they are killed."""
    children: list[int] = []

    def start(exclusive: list[str], shared: list[str] | None = None) -> int:
        ready, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            with hold(roots, exclusive, shared or [], job="17", token=3):
                os.write(say, b"x")
                time.sleep(60)
            os._exit(0)
        os.close(say)
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        children.append(pid)
        return pid

    yield start
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_one_writer_or_many_readers(roots: Roots, tmp_path: Path) -> None:
    """bad-input E68: the second of two jobs on one disk is told who has it."""
    a = f"{tmp_path}/a.vhd"
    with hold(roots, [a], job="17"):
        assert code_when_taken(roots, [a]) == "E_LOCKED"
        assert code_when_taken(roots, [], [a]) == "E_LOCKED"
    with hold(roots, [], [a]):
        assert code_when_taken(roots, [], [a]) is None
        assert code_when_taken(roots, [a]) == "E_LOCKED"
    assert code_when_taken(roots, [a]) is None
    assert sorted(os.listdir(tmp_path)) == ["a.vhd", "b.vhd", "c.vhd"]


def test_a_job_may_hold_both_names_of_one_file(roots: Roots, tmp_path: Path) -> None:
    """A death between link and unlink left them; whoever mends it holds the job's old and new."""
    one, other = str(tmp_path / "a.vhd"), str(tmp_path / "second.vhd")
    os.link(one, other)
    assert code_when_taken(roots, [one, other]) is None
    assert code_when_taken(roots, [], [one, other]) is None
    with hold(roots, [one]):
        with hold(roots, [other]):
            assert code_when_taken(roots, [], [other]) == "E_LOCKED"
        assert code_when_taken(roots, [], [other]) == "E_IN_USE"


def test_the_refusal_names_the_holder(
    roots: Roots, tmp_path: Path, other_process: Callable[..., int]
) -> None:
    """bad-input E68: job, host, process and time of the holder."""
    a = f"{tmp_path}/a.vhd"
    pid = other_process([a])
    with pytest.raises(ImageError) as refused, hold(roots, [a]):
        pass
    assert refused.value.code == "E_LOCKED"
    assert "job 17 on host" in refused.value.message
    assert f"process {pid}" in refused.value.message
    written = json.loads((tmp_path / ".vdlock" / lock_name(a)).read_text())
    assert (written["job"], written["token"], written["pid"]) == ("17", 3, pid)


def test_a_killed_owner_holds_nothing(
    roots: Roots, tmp_path: Path, other_process: Callable[..., int]
) -> None:
    """bad-input F85: the kernel frees the locks; what is left of them is swept."""
    a, b = f"{tmp_path}/a.vhd", f"{tmp_path}/b.vhd"
    pid = other_process([a], [b])
    assert code_when_taken(roots, [b]) == "E_LOCKED"
    os.kill(pid, signal.SIGKILL)
    while code_when_taken(roots, [a, b]) is not None:
        time.sleep(0.01)
    (tmp_path / ".vdlock").mkdir(exist_ok=True)
    (tmp_path / ".vdlock" / lock_name(a)).touch()
    locks.sweep(roots, str(tmp_path))
    assert not (tmp_path / ".vdlock").exists()


def test_sweeping_spares_living_owners(
    roots: Roots, tmp_path: Path, other_process: Callable[..., int]
) -> None:
    other_process([f"{tmp_path}/a.vhd"], [f"{tmp_path}/b.vhd"])
    locks.sweep(roots, str(tmp_path))
    assert len(os.listdir(tmp_path / ".vdlock")) == 2
    assert code_when_taken(roots, [f"{tmp_path}/a.vhd"]) == "E_LOCKED"
    assert code_when_taken(roots, [f"{tmp_path}/b.vhd"]) == "E_LOCKED"


def test_opposite_orders_do_not_wait_for_each_other(roots: Roots, tmp_path: Path) -> None:
    """bad-input E69: taken in sorted order, and nobody waits; shared ancestors are shared."""
    a, b, c = (f"{tmp_path}/{name}.vhd" for name in "abc")
    with hold(roots, [b], [c, a]):
        assert code_when_taken(roots, [], [a, c]) is None
        assert code_when_taken(roots, [c, b]) == "E_LOCKED"
        assert code_when_taken(roots, [b, a]) == "E_LOCKED"
    # A refused attempt keeps nothing of what it had taken already.
    assert code_when_taken(roots, [a, b, c]) is None


def test_names_that_do_not_exist_yet_can_be_held(roots: Roots, tmp_path: Path) -> None:
    new = f"{tmp_path}/new.vhd"
    with hold(roots, [new]):
        assert code_when_taken(roots, [new]) == "E_LOCKED"
    assert not os.path.exists(new)


def test_a_job_meets_its_own_locks_without_harm(roots: Roots, tmp_path: Path) -> None:
    a, b = f"{tmp_path}/a.vhd", f"{tmp_path}/b.vhd"
    with hold(roots, [a], [b]):
        with hold(roots, [a], [b]):
            pass
        assert code_when_taken(roots, [a]) == "E_LOCKED"
        with pytest.raises(ImageError) as refused, hold(roots, [b]):
            pass
        assert refused.value.code == "E_LOCKED"


def test_read_only_roots_can_be_read_and_not_held_for_writing(tmp_path: Path) -> None:
    (tmp_path / "a.vhd").write_bytes(b"a")
    roots = Roots([Root(str(tmp_path), read_only=True)])
    with hold(roots, [], [f"{tmp_path}/a.vhd"]):
        assert os.listdir(tmp_path) == ["a.vhd"]
    with pytest.raises(ImageError) as refused, hold(roots, [f"{tmp_path}/a.vhd"]):
        pass
    assert refused.value.code == "E_READ_ONLY"


needs_qemu = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils is missing")


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = f"{tmp_path}/vm.vhd"
    make = ["qemu-img", "create", "-q", "-f", "vpc", path, "4M"]
    subprocess.run(make, check=True)
    return path


def qemu(path: str, *options: str) -> subprocess.Popen[str]:
    """A qemu that has the image open, until its input is closed."""
    process = subprocess.Popen(
        ["qemu-io", *options, "-f", "vpc", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("read 0 512\n")
    process.stdin.flush()
    for line in process.stdout:
        if "read 512/512" in line:
            break
    return process


def end(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate("quit\n", timeout=20)
    return output


@needs_qemu
def test_a_running_qemu_excludes_us(image: str) -> None:
    """bad-input E72: a VM has the disk open before the job."""
    roots = Roots([Root(os.path.dirname(image))])
    for options, reading in (((), "E_IN_USE"), (("-r",), None)):
        process = qemu(image, *options)
        try:
            assert code_when_taken(roots, [image]) == "E_IN_USE"
            assert code_when_taken(roots, [], [image]) == reading
        finally:
            end(process)
    assert code_when_taken(roots, [image]) is None


@needs_qemu
def test_we_exclude_qemu_while_a_job_runs(image: str) -> None:
    """bad-input E72: a VM that starts while the job runs cannot open the disk."""
    roots = Roots([Root(os.path.dirname(image))])

    def refused(*options: str) -> bool:
        command = ["qemu-io", *options, "-f", "vpc", "-c", "read 0 512", image]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        return run.returncode != 0 and "lock" in run.stderr

    with hold(roots, [image]):
        assert refused()
        assert refused("-r")
    with hold(roots, [], [image]):
        assert refused()
        assert not refused("-r")
    assert not refused()


def test_a_disk_linked_to_the_place_of_a_lock_file_is_not_written(
    roots: Roots, tmp_path: Path
) -> None:
    """bad-input D63: whoever may write to the folder can put anything there."""
    disk = str(tmp_path / "a.vhd")
    (tmp_path / ".vdlock").mkdir()
    os.link(tmp_path / "b.vhd", tmp_path / ".vdlock" / lock_name(disk))
    with hold(roots, [disk]):
        assert code_when_taken(roots, [disk]) == "E_LOCKED"
    assert (tmp_path / "b.vhd").read_bytes() == bytes(4096)


@pytest.mark.parametrize("text", [b"", b"\xff\0", b"[" * 4096, b"[]", b'{"job": {}}', b"1" * 4096])
def test_a_lock_is_one_whatever_its_file_says(roots: Roots, tmp_path: Path, text: bytes) -> None:
    """bad-input G3: whoever may write to the folder can write anything there."""
    disk = str(tmp_path / "a.vhd")
    with hold(roots, [disk]):
        (tmp_path / ".vdlock" / lock_name(disk)).write_bytes(text)
        assert code_when_taken(roots, [disk]) == "E_LOCKED"


def test_sweeping_takes_lock_files_only(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / ".vdlock").mkdir()
    stray = tmp_path / ".vdlock" / "c.vhd"
    stray.write_bytes(bytes(4096))
    (tmp_path / ".vdlock" / lock_name("a.vhd")).write_bytes(b"")
    locks.sweep(roots, str(tmp_path))
    assert [path.name for path in (tmp_path / ".vdlock").iterdir()] == ["c.vhd"]
