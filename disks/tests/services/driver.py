"""A console for tests, as a process of its own with its own database and broker.

Reads one JSON command per line and answers with one line. It plays the web process, and
forks real Celery workers and the real reconciler from a child that was warm before any
connection was opened.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402 - Django has to be set up first
from django.db import connection, transaction  # noqa: E402

from disks import tasks  # noqa: E402
from disks.engine import faults  # noqa: E402
from disks.models import AuditEntry, Disk, DiskLock, Job, StorageRoot  # noqa: E402
from disks.services import jobs, merging, reconciling, scanning, stopping  # noqa: E402
from disks.services.errors import Refusal  # noqa: E402
from disks.tests.factories import make_root  # noqa: E402
from disks.tests.services import rehearsal  # noqa: E402
from vdadmin.celery import WORKER_ARGUMENTS, app  # noqa: E402
from vdadmin.supervisor import die_with_parent  # noqa: E402


class Nursery:
    """A child that forks the console's other processes."""

    def __init__(self) -> None:
        commands, self.to_child = os.pipe()
        self.from_child, answers = os.pipe()
        parent = os.getpid()
        if os.fork() == 0:
            os.close(self.to_child)
            die_with_parent(parent)
            self._serve(commands, answers)
        os.close(commands)

    def start(self, what: str) -> int:
        os.write(self.to_child, f"{what}\n".encode())
        return int(os.read(self.from_child, 100))

    def _serve(self, commands: int, answers: int) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
        nursery = os.getpid()
        with os.fdopen(commands) as lines:
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.setsid()
                    die_with_parent(nursery)
                    os.dup2(2, 1)
                    _be(line.strip())
                os.write(answers, str(pid).encode())
        os._exit(0)


def _be(what: str) -> None:
    try:
        if what == "reconciler":
            call_command("reconciler")
        elif what.startswith("job "):
            _, job_id, fault = what.split()
            faults.install(faults.parse(fault))
            jobs.run(int(job_id))
        else:
            app.worker_main(
                ["worker", *WORKER_ARGUMENTS, "--concurrency=1", "-n", what, "-l", "WARNING"]
            )
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def migrate() -> None:
    call_command("migrate", verbosity=0)


def start(what: str) -> int:
    return nursery.start(what)


def request(
    folder: str,
    name: str,
    kind: str = rehearsal.KIND,
    exclusive: list[str] | None = None,
    shared: list[str] | None = None,
    enqueue: bool = True,
    key: str | None = None,
) -> int:
    with transaction.atomic():
        if not StorageRoot.objects.filter(path=folder).exists():
            make_root(folder, name=folder[-80:], scan_every_minutes=0)
        job = jobs.request(
            kind=kind,
            parameters={"folder": folder, "name": name},
            user=None,
            summary=f"Rehearse {name}",
            exclusive=exclusive if exclusive is not None else [os.path.join(folder, name)],
            shared=shared or [],
            idempotency_key=key or uuid.uuid4().hex,
        )
        if enqueue:
            tasks.enqueue(job)
    return job.pk


def merge(folder: str, name: str) -> int:
    """Into the parent, in place, as the page asks for it."""
    root = make_root(folder, name=folder[-80:], scan_every_minutes=0)
    scanning.scan(root)
    with transaction.atomic():
        leaf = Disk.objects.get(root=root, name=name)
        job = merging.request(leaf, into_parent=True, user=None, idempotency_key=uuid.uuid4().hex)
        tasks.enqueue(job)
    return job.pk


def break_at(job_id: int, fault: str) -> None:
    """Run a job in a process of its own that breaks there; returns when the process is gone."""
    pid = nursery.start(f"job {job_id} {fault}")
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.002)


def reconcile() -> None:
    reconciling.mark_lost()
    reconciling.recover_lost()


def only_root(folder: str) -> None:
    StorageRoot.objects.all().delete()
    make_root(folder, name="root", scan_every_minutes=0)


def send(job_id: int, times: int = 1) -> None:
    for _ in range(times):
        tasks.send(job_id)


def send_raw(name: str, args: list[Any]) -> None:
    app.send_task(name, args=args)


def cancel(job_id: int) -> str:
    return stopping.cancel(Job.objects.get(pk=job_id), None).status


def show(job_id: int) -> dict[str, Any]:
    job = Job.objects.get(pk=job_id)
    shown = jobs.document(job)
    shown["locks"] = sorted(lock.path for lock in DiskLock.objects.filter(job=job))
    shown["states"] = [
        entry.after["status"]
        for entry in AuditEntry.objects.filter(job=job).order_by("pk")
        if entry.action.startswith("job-") and entry.before and entry.before.keys() == {"status"}
    ]
    return shown


def queue_depth() -> int | None:
    return tasks.queue_depth()


COMMANDS = {
    function.__name__: function
    for function in (
        migrate,
        start,
        request,
        merge,
        break_at,
        reconcile,
        only_root,
        send,
        send_raw,
        cancel,
        show,
        queue_depth,
    )
}


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": COMMANDS[asked["do"]](**asked["with"])}
        except Refusal as refusal:
            answer = {"refused": refusal.code}
        except Exception:
            answer = {"failed": traceback.format_exc()}
            connection.close()
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    rehearsal.register()
    nursery = Nursery()
    main()
