"""Jobs with real processes: two Celery workers, a reconciler, a broker, both databases.

Workers are killed, stopped and continued; the broker loses everything. Whatever happens,
no job is lost, none runs twice, and every one ends by saying what is true of its files.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from disks.tests.operations import worlds
from disks.tests.services import consoles, rehearsal
from disks.tests.services.consoles import FINAL, Console
from vdadmin.broker import EmbeddedBroker, socket_path

pytestmark = [pytest.mark.slow, pytest.mark.postgres]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def console(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    make = {"sqlite": consoles.on_sqlite, "postgres": consoles.on_postgres}[request.param]
    with make(tmp_path_factory.mktemp(request.param)) as console:
        console.start("reconciler")
        yield console


@pytest.fixture
def workers(console: Console) -> Iterator[list[int]]:
    """Two workers."""
    started = [console.start("one"), console.start("two")]
    yield started
    for pid in started:
        console.kill(pid)


def said(folder: Path, name: str, word: str) -> list[str]:
    return [line for line in rehearsal.said_at(str(folder / name)) if line.split()[0] == word]


def started(console: Console, folder: Path, name: str) -> None:
    console.wait_until(lambda: said(folder, name, "write"), f"{name} to start")


def connection(console: Console) -> redis.Redis:
    if isinstance(console.broker, EmbeddedBroker):
        return redis.Redis(unix_socket_path=str(socket_path(console.broker.folder)))
    return redis.Redis(port=console.broker.port)


def test_a_killed_worker_loses_nothing(console, workers, tmp_path):
    """bad-input E68, F85: kill -9 at work; the job says that nothing was changed, its locks go,
    and the job that waited for them, saying for whom, runs."""
    disk = str(tmp_path / "disk")
    first = console.do("request", folder=str(tmp_path), name="first", exclusive=[disk])
    started(console, tmp_path, "first")
    second = console.do("request", folder=str(tmp_path), name="second", exclusive=[disk])
    waiting = console.wait_until(
        lambda: (shown := console.show(second))["waits_for"] and shown, "second to wait"
    )
    assert waiting["status"] == "queued"
    assert waiting["sentence"] == f"Waits for job {first} (Rehearse first)."
    (tmp_path / "second.go").touch()

    process = console.show(first)["worker"]["pid"]
    os.kill(process, signal.SIGKILL)
    killed_at = time.monotonic()
    ended = console.wait_for(first, *FINAL)

    assert time.monotonic() - killed_at < 15
    assert ended["status"] == "failed"
    assert ended["error"]["code"] == "E_WORKER_LOST"
    assert ended["sentence"] == (
        "The worker stopped before the work was complete; nothing was changed."
    )
    assert ended["states"] == ["running", "lost", "recovering", "failed"]
    assert ended["locks"] == []
    assert len(said(tmp_path, "first", "undone")) == 1
    assert console.wait_for(second, *FINAL)["status"] == "succeeded"
    assert len(said(tmp_path, "second", "start")) == 1


def test_a_worker_killed_in_its_commit_step_is_finished_by_recovery(console, tmp_path):
    """bad-input F85: kill -9 of the whole worker, the parent Celery process included."""
    (tmp_path / "disk.go").touch()
    (tmp_path / "disk.hold").touch()
    worker = console.start("one")
    job = console.do("request", folder=str(tmp_path), name="disk")
    console.wait_until(lambda: said(tmp_path, "disk", "commit"), "the commit step")
    assert console.do("cancel", job_id=job) == "E_TOO_LATE"

    console.kill(worker)
    ended = console.wait_for(job, *FINAL)

    assert ended["status"] == "succeeded"
    assert ended["result"]["token"] == 2
    assert ended["states"] == ["running", "lost", "recovering", "succeeded"]
    assert len(said(tmp_path, "disk", "end")) == 1


def test_reading_work_starts_again_after_a_kill(console, workers, tmp_path):
    """bad-input F85: a scan or check whose worker died simply runs again, with a new token."""
    job = console.do("request", folder=str(tmp_path), name="disk", kind=rehearsal.READ_ONLY_KIND)
    started(console, tmp_path, "disk")
    os.kill(console.show(job)["worker"]["pid"], signal.SIGKILL)
    console.wait_until(lambda: len(said(tmp_path, "disk", "start")) == 2, "the second start")
    (tmp_path / "disk.go").touch()

    ended = console.wait_for(job, *FINAL)
    assert ended["status"] == "succeeded"
    assert ended["attempts"] == 2
    assert len(said(tmp_path, "disk", "end")) == 1


def test_a_merge_in_place_whose_worker_is_killed_goes_on_by_itself(console, workers, tmp_path):
    """kill -9 when data has moved: the next worker finishes it, and nobody has to do anything."""
    world = worlds.chain(tmp_path)
    job = console.do("merge", folder=str(tmp_path), name="leaf.vhd")
    console.wait_until(lambda: console.show(job)["done_bytes"], "data to move")
    os.kill(console.show(job)["worker"]["pid"], signal.SIGKILL)
    assert worlds.content_of(world.leaf.path) == world.leaf.sha256

    ended = console.wait_for(job, *FINAL)
    assert ended["status"] == "succeeded"
    assert ended["states"] == ["running", "lost", "recovering", "queued", "running", "succeeded"]
    assert ended["attempts"] == 2
    assert worlds.content_of(world.middle.path) == world.leaf.sha256
    assert not world.leaf.path.exists()
    assert ended["locks"] == []


def test_a_worker_paused_past_its_lease_writes_nothing_more(console, workers, tmp_path):
    """bad-input E71: stopped longer than its lease, then continued: its next report raises, and
    recovery waited for the lock that it still held on the storage."""
    job = console.do("request", folder=str(tmp_path), name="disk")
    started(console, tmp_path, "disk")
    process = console.show(job)["worker"]["pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        waiting = console.wait_until(
            lambda: (
                (shown := console.show(job))["sentence"].startswith("Recovery waits: ") and shown
            ),
            "recovery to wait for the paused worker",
        )
        writes = said(tmp_path, "disk", "write")
        assert waiting["locks"] == [str(tmp_path / "disk")]
        assert said(tmp_path, "disk", "undone") == []
        time.sleep(1)  # long enough for three more tries, none of which may count
        assert console.show(job)["recoveries"] <= 1
    finally:
        os.kill(process, signal.SIGCONT)
    ended = console.wait_for(job, *FINAL)

    assert ended["status"] == "failed"
    # one write was under way when it was stopped; its next report came before another
    assert len(said(tmp_path, "disk", "write")) <= len(writes) + 1
    assert len(said(tmp_path, "disk", "undone")) == 1
    assert said(tmp_path, "disk", "commit") == []


def test_cancel_is_answered_within_two_seconds_and_after_clean_up(console, workers, tmp_path):
    """bad-input E79: "cancelled" is said only when the work has cleaned up."""
    job = console.do("request", folder=str(tmp_path), name="disk")
    started(console, tmp_path, "disk")
    asked_at = time.monotonic()
    console.do("cancel", job_id=job)
    ended = console.wait_for(job, *FINAL)
    assert time.monotonic() - asked_at < 2
    assert ended["status"] == "cancelled"
    assert said(tmp_path, "disk", "clean") == ["clean 1"]


def test_a_message_delivered_many_times_runs_once(console, workers, tmp_path):
    """bad-input E70, G112: ten deliveries, more after the end, and forged messages."""
    (tmp_path / "disk.go").touch()
    (tmp_path / "after.go").touch()
    job = console.do("request", folder=str(tmp_path), name="disk", enqueue=False)
    console.do("send", job_id=job, times=10)
    assert console.wait_for(job, *FINAL)["status"] == "succeeded"
    console.do("send", job_id=job, times=5)
    for args in ([job], [10**30], ["1; drop table"], [{"pk": job}], [None], [True], []):
        console.do("send_raw", name="disks.run_job", args=args)
    console.do("send_raw", name="os.system", args=["true"])

    after = console.do("request", folder=str(tmp_path), name="after")
    assert console.wait_for(after, *FINAL)["status"] == "succeeded"
    assert len(said(tmp_path, "disk", "start")) == 1
    assert console.show(job)["states"] == ["running", "succeeded"]


def test_an_emptied_queue_loses_no_job_and_runs_none_twice(console, tmp_path):
    """bad-input F89: FLUSHALL with jobs in the queue, and the queue's duplicates."""
    names = [f"disk-{number}" for number in range(4)]
    jobs = []
    for name in names:
        (tmp_path / f"{name}.go").touch()
        jobs.append(console.do("request", folder=str(tmp_path), name=name))
    with connection(console) as client:
        client.flushall()
        worker, other = console.start("one"), console.start("two")
        for job in jobs:
            console.do("send", job_id=job, times=2)
        client.flushall()
    try:
        for name, job in zip(names, jobs, strict=True):
            assert console.wait_for(job, *FINAL)["status"] == "succeeded"
            assert len(said(tmp_path, name, "start")) == 1
    finally:
        console.kill(worker)
        console.kill(other)


def test_a_broker_that_goes_away_and_comes_back_loses_no_job(console, workers, tmp_path):
    """bad-input F89: the running job goes on, a new one says that the queue is away, and both
    end well after the restart, with the same workers."""
    running = console.do("request", folder=str(tmp_path), name="running")
    started(console, tmp_path, "running")
    console.broker.stop()
    try:
        asked_at = time.monotonic()
        late = console.do("request", folder=str(tmp_path), name="late")
        assert time.monotonic() - asked_at < 3  # a page must not hang for it
        shown = console.show(late)
        assert shown["status"] == "queued"
        assert shown["sentence"] == (
            "The queue cannot be reached; the job is sent as soon as it answers."
        )
        (tmp_path / "running.go").touch()
        assert console.wait_for(running, *FINAL)["status"] == "succeeded"
    finally:
        console.broker.start()
    (tmp_path / "late.go").touch()
    assert console.wait_for(late, *FINAL)["status"] == "succeeded"
    for name in ("running", "late"):
        assert len(said(tmp_path, name, "start")) == 1


def test_jobs_with_opposite_lock_orders_never_wait_for_each_other(console, workers, tmp_path):
    """bad-input E69: pairs that want the same disks in opposite order, and share an ancestor."""
    a, b, base = (str(tmp_path / name) for name in ("a", "b", "base"))
    names, jobs = [], []
    for number in range(6):
        name = f"job-{number}"
        (tmp_path / f"{name}.go").touch()
        wanted = [a, b] if number % 2 else [b, a]
        jobs.append(
            console.do("request", folder=str(tmp_path), name=name, exclusive=wanted, shared=[base])
        )
        names.append(name)
    for name, job in zip(names, jobs, strict=True):
        assert console.wait_for(job, *FINAL)["status"] == "succeeded"
        assert len(said(tmp_path, name, "start")) == 1


def test_a_worker_that_is_shut_down_puts_its_job_back_for_the_next(
    console: Console, tmp_path: Path
) -> None:
    """bad-input F98: SIGTERM to the worker's first process, as a deploy or the supervisor does."""
    first = console.start("one")
    job = console.do("request", folder=str(tmp_path), name="a")
    started(console, tmp_path, "a")
    began = time.monotonic()
    os.kill(first, signal.SIGTERM)
    console.wait_until(lambda: not Path(f"/proc/{first}").exists(), "the worker to end", 15)
    assert time.monotonic() - began < 10
    assert said(tmp_path, "a", "clean")
    assert console.wait_for(job, "queued")["attempts"] == 0
    second = console.start("two")
    try:
        console.wait_until(lambda: len(said(tmp_path, "a", "start")) == 2, "the next worker")
        (tmp_path / "a.go").touch()
        ended = console.wait_for(job, *FINAL)
        assert ended["status"] == "succeeded"
        assert ended["states"] == ["running", "queued", "running", "succeeded"]
    finally:
        console.kill(second)
