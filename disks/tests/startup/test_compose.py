"""docker-compose.yml: parsed, complete, without a secret; and the same processes run for real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from disks.tests import servers
from disks.tests.console import PROJECT, eventually
from vdadmin.celery import WORKER_ARGUMENTS

OURS = ("web", "worker", "reconciler", "beat")


@pytest.fixture(scope="module")
def text() -> str:
    return (PROJECT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def compose(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text))


def test_everything_that_the_console_needs_is_a_service(compose: dict[str, Any]) -> None:
    assert sorted(compose["services"]) == sorted([*OURS, "database", "broker", "migrate"])


def test_services_restart_and_say_whether_they_are_well(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name == "migrate":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name


def test_ours_wait_for_a_migrated_database_and_a_broker(compose: dict[str, Any]) -> None:
    for name in OURS:
        assert compose["services"][name]["depends_on"] == {
            "database": {"condition": "service_healthy"},
            "broker": {"condition": "service_healthy"},
            "migrate": {"condition": "service_completed_successfully"},
        }


def test_the_storage_is_mounted_into_web_and_workers(compose: dict[str, Any]) -> None:
    mounts = {tuple(compose["services"][name]["volumes"]) for name in OURS}
    assert len(mounts) == 1
    assert any(mount.endswith(":/storage") for mount in mounts.pop())


def test_no_secret_is_in_the_file_and_none_has_a_default(text: str) -> None:
    for name in ("VDADMIN_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "STORAGE"):
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert uses, name
        assert all(use.startswith(":?") for use in uses), name
    for value in re.findall(r"^ +\w*(?:PASSWORD|SECRET_KEY): *(.*)", text, re.M):
        assert value.startswith("${"), value


def test_only_known_variables_are_set(compose: dict[str, Any]) -> None:
    """Settings refuse an unknown VDADMIN_ name; here it is noticed before a container is."""
    from vdadmin.settings import KNOWN_NAMES

    for name in OURS:
        environment = compose["services"][name]["environment"]
        ours = {key for key in environment if key.startswith("VDADMIN_")}
        assert ours <= set(KNOWN_NAMES)


def test_workers_are_started_with_the_same_arguments_as_everywhere(
    compose: dict[str, Any],
) -> None:
    command = compose["services"]["worker"]["command"]
    assert command[:4] == ["celery", "-A", "vdadmin", "worker"]
    assert set(WORKER_ARGUMENTS) <= set(command)


def test_the_image_has_a_file_for_every_copy_and_its_base_is_python_3_11() -> None:
    lines = (PROJECT / "Dockerfile").read_text().splitlines()
    copied = [
        source
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert copied
    assert [name for name in copied if not (PROJECT / name).exists()] == []
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases == ["python:3.11-slim-bookworm"] * 2


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real PostgreSQL and a real Redis, and the environment that points to them."""
    broker = servers.Redis(tmp_path_factory.mktemp("redis"))
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VDADMIN_") and name not in ("DATABASE_URL", "REDIS_URL")
    }
    with servers.postgres() as database:
        broker.start()
        try:
            yield {
                **clean,
                "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}",
                "VDADMIN_STATE_DIR": str(tmp_path_factory.mktemp("state")),
                "VDADMIN_SECRET_KEY": "for-this-test-only-" + "y" * 50,
                "VDADMIN_ALLOWED_HOSTS": "disks.example.org",
                "VDADMIN_BEHIND_PROXY": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "DATABASE_URL": database,
                "REDIS_URL": broker.url,
            }
        finally:
            broker.stop()


@pytest.mark.slow
@pytest.mark.postgres
def test_the_same_processes_run_on_postgresql_and_redis_by_environment_alone(
    compose: dict[str, Any],
    surroundings: dict[str, str],
    tmp_path: Path,
    disk_folder: Path,
) -> None:
    """The commands of the file itself: a scan asked for on one side is done on the other."""
    port = free_port()
    environment = {**surroundings, "VDADMIN_STATIC_ROOT": str(tmp_path / "static")}

    def attempt(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60
        )

    def run(*command: str) -> str:
        done = attempt(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(*compose["services"]["migrate"]["command"])
    run("python", "manage.py", "collectstatic", "--no-input", "--verbosity", "0")
    web = [part.replace("0.0.0.0:8000", f"127.0.0.1:{port}") for part in image_command()]
    commands = {"web": web, **{name: compose["services"][name]["command"] for name in OURS[1:]}}
    with contextlib.ExitStack() as running:
        processes = {
            name: running.enter_context(process(command, environment, tmp_path / f"{name}.log"))
            for name, command in commands.items()
        }
        for name in OURS:
            check = compose["services"][name]["healthcheck"]["test"]
            assert check[0] == "CMD"
            port_of_web = ["--port", str(port)] if name == "web" else []
            asks = [*check[1:], *port_of_web]
            eventually(lambda asks=asks: attempt(*asks).returncode == 0, 30)
        (disk_folder / "no-disk.vhd").write_text("text\n" * 200)
        run("python", "manage.py", "root", "add", str(disk_folder), "--name", "disks")
        scan = run("python", "manage.py", "scan", "disks")
        assert "1" in scan
        assert {name: one.poll() for name, one in processes.items()} == dict.fromkeys(OURS)


def image_command() -> list[str]:
    """What the image starts when no other command is named."""
    text = (PROJECT / "Dockerfile").read_text().replace("\\\n", "")
    return list(json.loads(text.split("\nCMD ")[1].splitlines()[0]))


@contextlib.contextmanager
def process(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """One long-running process in a group of its own, ended with everything it started."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        started.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
