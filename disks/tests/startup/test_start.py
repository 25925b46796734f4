"""`make run` after its bootstrap: the whole console, started as its users start it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from disks.tests.console import PROJECT, Console, eventually, family, is_gone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def started(disk_place: Path) -> Iterator[Console]:
    """Started once, ended, and started again: every test meets a second start."""
    console = Console(disk_place / "first-start" / "state")
    console.start()
    console.first_output = console.text()  # type: ignore[attr-defined]
    console.stop()
    with console:
        yield console


def first_output(console: Console) -> str:
    return str(console.first_output)  # type: ignore[attr-defined]


def get(address: str, path: str) -> tuple[int, str]:
    """The answer's status, and where it sends the browser."""
    parts = urlsplit(address)
    with contextlib.closing(
        http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    ) as connection:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            return answer.status, answer.headers.get("Location", "")


def test_the_first_start_shows_an_address_and_a_password_once(started: Console) -> None:
    assert "vdadmin is up at http://127.0.0.1:" in first_output(started)
    assert len(re.findall(r"^  Password      \S{16}$", first_output(started), re.M)) == 1
    assert "Password" not in started.text()


def test_the_password_lies_nowhere(started: Console) -> None:
    password = re.search(r"Password\s+(\S+)", first_output(started))
    assert password
    for path in started.state.rglob("*"):
        if path.is_file() and path.parent.name != "demo" and path.stat().st_size < 10_000_000:
            assert password[1].encode() not in path.read_bytes(), path


def test_the_next_start_does_no_slow_step_again(started: Console) -> None:
    assert started.text().startswith("vdadmin is up at http://127.0.0.1:")


def test_the_secret_key_is_kept_and_only_its_owner_reads_it(started: Console) -> None:
    key = started.state / "secret-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(started.state.stat().st_mode) == 0o700
    assert len(key.read_text().strip()) >= 50


def test_the_web_server_answers_and_sends_strangers_to_the_sign_in_page(started: Console) -> None:
    assert get(started.address, "/health") == (200, "")
    status, location = get(started.address, "/")
    assert (status, urlsplit(location).path) == (302, "/login")


def test_all_five_services_run(started: Console) -> None:
    services = started.running()["services"]
    assert sorted(services) == ["beat", "broker", "reconciler", "web", "worker"]
    assert not any(is_gone(pid) for pid in services.values())


def test_a_second_start_says_where_the_first_one_runs(started: Console) -> None:
    done = try_start(started, "0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"vdadmin already runs here at {started.address} "
        f"(process {started.running()['pid']}): end that one first.\n"
    )


def test_a_killed_service_comes_back(started: Console) -> None:
    before = started.kill("reconciler")
    eventually(lambda: started.running()["services"].get("reconciler", before) != before)
    assert "reconciler was ended by SIGKILL; it starts again in" in started.text()


def test_a_killed_web_server_comes_back_on_the_same_address(started: Console) -> None:
    started.kill("web")
    eventually(lambda: answers(started.address))


def answers(address: str) -> bool:
    try:
        return get(address, "/health")[0] == 200
    except OSError:
        return False


def test_a_busy_port_is_one_sentence(started: Console, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = try_start(Console(tmp_path / "other"), str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"Port {port} is taken by another program: choose one, make run PORT={port + 1}\n"
    )


@pytest.mark.parametrize("port", ["http", "70000", "-1", "80 80"])
def test_a_port_that_is_none_is_one_sentence(port: str, tmp_path: Path) -> None:
    done = try_start(Console(tmp_path / "other"), port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"PORT is {port!r}; it must be a number")
    assert done.stderr.count("\n") == 1


def test_a_state_folder_that_cannot_be_written_is_one_sentence() -> None:
    done = try_start(Console(Path("/proc/vdadmin")), "0")
    assert done.returncode == 1
    assert done.stderr.startswith("vdadmin keeps its data in /proc/vdadmin, which cannot be")
    assert done.stderr.count("\n") == 1


def try_start(console: Console, port: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vdadmin.start"],
        cwd=PROJECT,
        env={**console.environment, "VDADMIN_PORT": port},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_ctrl_c_ends_everything_and_a_killed_supervisor_leaves_no_orphans(started: Console) -> None:
    """Runs last: it ends the shared console, twice."""
    pids = family(started.running()["pid"])
    assert started.stop() == 0
    assert started.text().endswith("vdadmin has ended.\n")
    assert [pid for pid in pids if not is_gone(pid)] == []

    started.start()
    supervisor = started.running()["pid"]
    eventually(lambda: len(family(supervisor)) >= 8)  # five, and children of web and worker
    pids = family(supervisor)
    os.kill(started.running()["pid"], signal.SIGKILL)
    eventually(lambda: all(is_gone(pid) for pid in pids), seconds=10)
    started.start()  # what is left behind is no obstacle
    assert answers(started.address)
