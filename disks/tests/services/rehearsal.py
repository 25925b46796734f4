"""Work that only tests know: it behaves like a copy job, and obeys files that tests make.

`NAME.log` gets one line for whatever happens. The work goes on until `NAME.go` exists, then
commits; `NAME.hold` keeps it within its commit step. Registered by `register()` in the
processes that tests start, never in the console itself.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from disks.models import Job
from disks.operations import copy_chain, locks, paths, relink, storage_roots
from disks.operations import create as create_operation
from disks.operations import delete as delete_operation
from disks.operations import merge as merge_operation
from disks.operations.merge_in_place import batches
from disks.operations.progress import Cancelled, Progress
from disks.services import merging
from disks.services.work import WORK, JobContext, Recovery, Work

KIND = "rehearsal"
READ_ONLY_KIND = "rehearsal-read"
_PATIENCE_SECONDS = 60.0


def register() -> None:
    here = "disks.tests.services.rehearsal"
    WORK[KIND] = Work(f"{here}.run", recover=f"{here}.recover")
    WORK[READ_ONLY_KIND] = Work(f"{here}.run", recover=f"{here}.recover", requeue_when_lost=True)
    for kind in (
        "create",
        "merge",
        "update",
        "undo",
        "copy",
        "delete",
    ):  # the real operations, with their own recovery
        WORK[f"rehearsal-{kind}"] = Work(f"{here}.{kind}")
    WORK[Job.Kind.MERGE] = replace(WORK[Job.Kind.MERGE], run=f"{here}.slow_merge")


def run(parameters: dict[str, Any], progress: Progress, context: JobContext) -> dict[str, Any]:
    place = os.path.join(parameters["folder"], parameters["name"])
    with locks.hold(_roots(parameters), [place], job=context.name, token=context.token):
        return _run(place, progress, context)


def _run(place: str, progress: Progress, context: JobContext) -> dict[str, Any]:
    _say(place, f"start {context.token} {os.getpid()}")
    progress.step("copy", "Rehearsing.")
    started = time.monotonic()
    try:
        while not os.path.exists(f"{place}.go"):
            progress.report(1, 2)
            _say(place, f"write {context.token}")
            time.sleep(0.02)
            if time.monotonic() - started > _PATIENCE_SECONDS:
                raise TimeoutError("nobody said go")
        progress.commit_starts()
    except Cancelled:
        _say(place, f"clean {context.token}")
        raise
    _say(place, f"commit {context.token}")
    while os.path.exists(f"{place}.hold"):
        progress.report(2, 2)
        time.sleep(0.02)
    _say(place, f"end {context.token}")
    return {"sentence": "Rehearsed.", "token": context.token}


def recover(job: Job, context: JobContext) -> Recovery:
    place = os.path.join(job.parameters["folder"], job.parameters["name"])
    with locks.hold(_roots(job.parameters), [place], job=context.name, token=context.token):
        said = said_at(place)
        if any(line.startswith("commit ") for line in said):
            _say(place, f"end {context.token}")
            return Recovery("finished", result={"token": context.token})
        _say(place, f"undone {context.token}")
        return Recovery("undone")


def create(parameters: dict[str, Any], progress: Progress, context: JobContext) -> Any:
    roots = context.roots()
    path = os.path.join(parameters["folder"], "new.vhd")
    plan = create_operation.plan(path, roots, disk_type="fixed", size_bytes=1024 * 1024)
    return create_operation.apply(
        plan, roots, job=context.name, token=context.token, progress=progress
    )


def merge(parameters: dict[str, Any], progress: Progress, context: JobContext) -> Any:
    roots = context.roots()
    path = os.path.join(parameters["folder"], "child.vhd")
    plan = merge_operation.plan(path, roots, into_parent=True)
    return merge_operation.apply(
        plan, roots, offline=True, job=context.name, token=context.token, progress=progress
    )


class _Slow(Progress):
    """So that a test can see a merge of a small disk at work."""

    def __init__(self, progress: Progress) -> None:
        self.step, self.log = progress.step, progress.log  # type: ignore[method-assign]
        self.commit_starts = progress.commit_starts  # type: ignore[method-assign]
        self.commit_ends = progress.commit_ends  # type: ignore[method-assign]
        self._report = progress.report

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        time.sleep(0.5)
        self._report(done_bytes, total_bytes, sentence)


def slow_merge(parameters: dict[str, Any], progress: Progress, context: JobContext) -> Any:
    """What the console does, in many small batches, each after a while."""
    batches.BATCH_BYTES = 6 * 1024
    return merging.run_merge(parameters, _Slow(progress), context)


def update(parameters: dict[str, Any], progress: Progress, context: JobContext) -> Any:
    roots = context.roots()
    child = os.path.join(parameters["folder"], "child.vhd")
    parent = os.path.join(parameters["folder"], "moved", "base.vhd")
    plan = relink.plan(child, parent, roots)
    return relink.apply(
        plan, roots, offline=True, job=context.name, token=context.token, progress=progress
    )


def undo(parameters: dict[str, Any], progress: Progress, context: JobContext) -> Any:
    roots = context.roots()
    child = os.path.join(parameters["folder"], "child.vhd")
    return relink.undo(
        child, roots, offline=True, job=context.name, token=context.token, progress=progress
    )


def copy(parameters: dict[str, Any], progress: Progress, context: JobContext) -> Any:
    roots = context.roots()
    child = os.path.join(parameters["folder"], "child.vhd")
    plan = copy_chain.plan(child, os.path.join(parameters["folder"], "far"), roots, whole=True)
    return copy_chain.apply(plan, roots, job=context.name, token=context.token, progress=progress)


def delete(parameters: dict[str, Any], progress: Progress, context: JobContext) -> Any:
    roots = context.roots()
    plan = delete_operation.plan(os.path.join(parameters["folder"], "child.vhd"), roots)
    return delete_operation.apply(
        plan, roots, offline=True, job=context.name, token=context.token, progress=progress
    )


def said_at(place: str) -> list[str]:
    try:
        with open(f"{place}.log", encoding="ascii") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _roots(parameters: dict[str, Any]) -> paths.Roots:
    return paths.Roots([storage_roots.Root(parameters["folder"])])


def _say(place: str, line: str) -> None:
    handle = os.open(f"{place}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{line}\n".encode("ascii"))
    finally:
        os.close(handle)
