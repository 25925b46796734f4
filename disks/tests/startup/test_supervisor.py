"""The supervisor, with toy services in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disks.tests.console import eventually, is_gone

PROGRAM = """
import os, signal, subprocess, sys, time
from pathlib import Path
from vdadmin.supervisor import Service, Supervisor

folder = Path(sys.argv[1])

def steady():
    (folder / "steady.env").write_text(str(os.getpgid(0) == os.getpid()))
    time.sleep(600)

def with_helper():
    helper = subprocess.Popen(["sleep", "600"])
    (folder / "helper.pid").write_text(str(helper.pid))
    time.sleep(600)

def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "stubborn.ready").touch()
    time.sleep(600)

def failing():
    print("no luck", flush=True)
    sys.exit(3)

def piping():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        os.write(writer, b"nobody reads this")
    except BrokenPipeError:
        (folder / "pipe.survived").touch()
    time.sleep(600)

def broken():
    raise ValueError("a bug")

services = {f.__name__: f for f in (steady, with_helper, stubborn, failing, piping, broken)}
supervisor = Supervisor(
    log_folder=folder / "log", state_file=folder / "running.json",
    tell=lambda s: print(s, flush=True), about={"address": "nowhere"},
)
for name in sys.argv[2:]:
    supervisor.start(Service(name, services[name], grace_seconds=2.0))
supervisor.wait()
supervisor.stop()
print("ended", flush=True)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def start_supervisor(*names: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield start_supervisor
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def children(folder: Path, *names: str) -> dict[str, int]:
    """Process ids by service, once all of them run."""
    return eventually(lambda: known_children(folder, names))


def known_children(folder: Path, names: tuple[str, ...]) -> dict[str, int] | None:
    try:
        services = json.loads((folder / "running.json").read_text())["services"]
    except FileNotFoundError:
        return None
    return services if set(names) <= set(services) else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_services_and_what_they_started(
    start: Start, tmp_path: Path, number: int
) -> None:
    process = start("steady", "with_helper")
    pids = children(tmp_path, "steady", "with_helper")
    helper = int(eventually(lambda: read(tmp_path / "helper.pid")))
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert output == "ended\n"
    assert all(is_gone(pid) for pid in (*pids.values(), helper))
    assert not (tmp_path / "running.json").exists()


def test_services_lead_groups_so_that_ctrl_c_reaches_the_supervisor_alone(
    start: Start, tmp_path: Path
) -> None:
    start("steady")
    assert eventually(lambda: read(tmp_path / "steady.env")) == "True"


def test_a_killed_service_starts_again_and_that_is_said(start: Start, tmp_path: Path) -> None:
    process = start("steady")
    first = children(tmp_path, "steady")["steady"]
    os.kill(first, signal.SIGKILL)
    second = eventually(
        lambda: (
            (known_children(tmp_path, ("steady",)) or {}).get("steady", first) != first
            and known_children(tmp_path, ("steady",))
        )
    )
    assert not is_gone(second["steady"])
    process.terminate()
    output, _ = process.communicate(timeout=10)
    assert output.startswith("steady was ended by SIGKILL; it starts again in 0.5 s")


def test_a_service_that_keeps_failing_is_tried_with_growing_pauses(
    start: Start, tmp_path: Path
) -> None:
    process = start("failing")
    log = tmp_path / "log" / "failing.log"
    # With the fourth start it is sure that the third end was said.
    eventually(lambda: log.exists() and log.read_text().count("no luck") >= 4)
    process.terminate()
    output, _ = process.communicate(timeout=10)
    pauses = [line.split(" again in ")[1].split(" s ")[0] for line in output.splitlines()[:3]]
    assert pauses == ["0.5", "1", "2"]
    assert "failing ended with exit code 3" in output


def test_an_error_in_a_service_is_in_its_log_not_on_the_terminal(
    start: Start, tmp_path: Path
) -> None:
    process = start("broken")
    log = tmp_path / "log" / "broken.log"
    eventually(lambda: log.exists() and "ValueError: a bug" in log.read_text())
    process.terminate()
    output, _ = process.communicate(timeout=10)
    assert "Traceback" not in output


def test_a_visitor_who_hangs_up_does_not_end_a_service(start: Start, tmp_path: Path) -> None:
    """Writing to a closed connection is an error to handle, not a signal that kills."""
    start("piping")
    eventually((tmp_path / "pipe.survived").exists)


def test_a_service_that_ignores_the_end_is_killed_after_its_grace(
    start: Start, tmp_path: Path
) -> None:
    process = start("stubborn")
    pid = children(tmp_path, "stubborn")["stubborn"]
    eventually((tmp_path / "stubborn.ready").exists)
    began = time.monotonic()
    process.terminate()
    process.communicate(timeout=10)
    assert 1.9 <= time.monotonic() - began < 8
    assert is_gone(pid)


def test_a_second_signal_ends_everything_at_once(start: Start, tmp_path: Path) -> None:
    process = start("stubborn")
    pid = children(tmp_path, "stubborn")["stubborn"]
    eventually((tmp_path / "stubborn.ready").exists)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert time.monotonic() - began < 1.9  # its grace was not waited for
    assert is_gone(pid)


def test_two_signals_at_once_are_one(start: Start, tmp_path: Path) -> None:
    """`timeout`, and terminals with helpers, send the signal to the process and to its group."""
    process = start("stubborn")
    children(tmp_path, "stubborn")
    eventually((tmp_path / "stubborn.ready").exists)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert time.monotonic() - began >= 1.9


def test_services_end_with_a_killed_supervisor(start: Start, tmp_path: Path) -> None:
    process = start("steady", "stubborn")
    pids = children(tmp_path, "steady", "stubborn")
    eventually((tmp_path / "stubborn.ready").exists)
    process.kill()
    process.communicate(timeout=10)
    eventually(lambda: all(is_gone(pid) for pid in pids.values()), seconds=10)


def read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
