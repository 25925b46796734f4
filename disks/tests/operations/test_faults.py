"""The fault points themselves: what breaks, where, and that nothing does otherwise."""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.tests.operations.crashing import in_fork, with_fault

_TOP = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "text", ["", "write", "write:1", "write:0:kill", "write:x:kill", ":1:kill", "write:1:burn"]
)
def test_a_fault_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="VD_FAULT"):
        faults.parse(text)


def test_stages_operations_and_numbers_choose_the_point(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()

    def work() -> None:
        with ImageFile(os.open(path, os.O_RDWR), str(path), writable=True) as file:
            file.write_at(0, b"1234")
            with faults.stage("second"):
                file.write_at(4, b"5678")
                file.sync()

    work()
    content = {"write:1:kill": b"", "write:2:kill": b"1234", "second:1:kill": b"1234"}
    content |= {"second.fsync:1:kill": b"12345678", "write:2:torn": b"123456"}
    for text, expected in content.items():
        path.write_bytes(b"")
        assert in_fork(with_fault(text, work)) == -signal.SIGKILL
        assert path.read_bytes() == expected, text
    path.write_bytes(b"")
    with_fault("second.write:1:short", work)()
    assert path.read_bytes() == b"12345678"
    for text, code in (("fsync:1:eio", "E_IO"), ("write:1:enospc", "E_NOSPC")):
        with pytest.raises(ImageError) as refused:
            with_fault(text, work)()
        assert refused.value.code == code


def test_a_paused_process_goes_on_when_it_is_continued(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        faults.install(faults.parse("write:1:pause"))
        faults.reached("write", "x")
        os._exit(5)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(pid, signal.SIGCONT)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 5


# What changes names, contents, owners and rights.
_CHANGING = {
    *("chmod", "chown", "fchmod", "fchown", "removexattr", "setxattr"),
    *("copy_file_range", "fdatasync", "fsync", "ftruncate", "link", "makedirs", "mkdir", "mknod"),
    *("posix_fallocate", "pwrite", "pwritev", "remove", "rename", "renameat2", "replace", "rmdir"),
    *("sendfile", "symlink", "sync", "truncate", "unlink", "utime", "write", "writev"),
}
_WITHOUT_POINTS = {
    "disks/engine/faults.py": "the points themselves",
    "disks/operations/demo.py": "makes the demo's disks",
    "disks/operations/locks.py": "who holds a lock is written for people, and is no content",
    "disks/operations/probing.py": "learns in a folder of its own what a root can do",
}
_RIGHT_BEHIND_ONE = {
    "_rename_new",  # its only caller passes the point
    "let_in_readers_of",  # a new file's, right after it was created; nothing waits for it
}


def test_nothing_changes_the_storage_past_the_fault_points() -> None:
    """A change that no point precedes would never be broken by any of the loops."""
    past = [
        f"{name}: {function.name}"
        for folder in ("disks/operations", "disks/engine")
        for path in (_TOP / folder).rglob("*.py")
        if (name := path.relative_to(_TOP).as_posix()) not in _WITHOUT_POINTS
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef) and function.name not in _RIGHT_BEHIND_ONE
        for _ in _changes_past_points(function)
    ]
    assert past == []


def _changes_past_points(function: ast.FunctionDef) -> Iterator[ast.Call]:
    """Calls of the system that change the storage, where no point is reached before them."""
    calls = [one for one in ast.walk(function) if isinstance(one, ast.Call)]
    points = [one.lineno for one in calls if ast.unparse(one.func).startswith("faults.")]
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr in _CHANGING:
            of_the_system = ast.unparse(call.func.value) in ("os", "shutil", "libc()")
            if of_the_system and min(points, default=call.lineno) >= call.lineno:
                yield call


def test_a_change_without_a_point_is_noticed() -> None:
    told = ast.parse("def f(): os.unlink(x); faults.reached('unlink', x)").body[0]
    assert isinstance(told, ast.FunctionDef)
    assert [ast.unparse(call) for call in _changes_past_points(told)] == ["os.unlink(x)"]
