"""The fault points themselves: what breaks, where, and that nothing does otherwise."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.tests.operations.crashing import in_fork, with_fault


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
