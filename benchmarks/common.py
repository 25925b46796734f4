"""What the benchmarks share: disks to work on, runs with time and memory, medians."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HERE)
sys.path.insert(0, PROJECT)

from disks.commandline import compact, merge  # noqa: E402, F401  what warm_disk() has already
from disks.commandline import main as disk_main  # noqa: E402
from disks.engine.chain import open_chain  # noqa: E402
from disks.engine.images import DiskType  # noqa: E402
from disks.engine.new_image import NewImage  # noqa: E402
from disks.operations import create  # noqa: E402
from disks.operations.copying import Draft  # noqa: E402
from disks.operations.paths import Roots  # noqa: E402
from disks.operations.storage_roots import Root  # noqa: E402

BLOCK = 2 * 1024 * 1024
BLOCK_SECTORS = BLOCK // 512

Extents = list[tuple[int, int, bool]]  # first sector, sectors, zeros


@dataclass
class Run:
    """One process: wall and processor seconds, peak memory, and what it printed as JSON."""

    seconds: float
    cpu_seconds: float
    rss_mib: float
    document: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def workspace(folder: str | None) -> Iterator[str]:
    """A folder of our own, gone at the end, also after SIGTERM."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    path = tempfile.mkdtemp(prefix="vdadmin-bench-", dir=folder)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def run(command: Sequence[str], *, then_sync: str = "", parse: bool = False) -> Run:
    """Run a process to its end; then_sync: a file that must be durable within the time."""
    # As it is installed: what Python compiled once it does not compile again at every start.
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.PIPE, env=environment
        ) as process,
    ):
        assert process.stderr is not None
        problems = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        document = json.load(output) if parse and not process.returncode else {}
    if then_sync:
        with open(then_sync, "rb+") as file:
            os.fsync(file.fileno())
    seconds = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {problems.decode(errors='replace')}")
    return _taken(seconds, usage, document)


def disk(*arguments: str) -> Run:
    """`manage.py disk …` as a process of its own."""
    command = [sys.executable, os.path.join(PROJECT, "manage.py"), "disk", *arguments, "--json"]
    return run(command, parse=True)


def warm_disk(*arguments: str) -> Run:
    """As disk(), in a process that has Python and our modules already, as every worker has."""
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        if not (pid := os.fork()):
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            code = disk_main([*arguments, "--json"])
            sys.stdout.flush()
            os._exit(code)
        _, status, usage = os.wait4(pid, 0)
        seconds = time.monotonic() - started
        if code := os.waitstatus_to_exitcode(status):
            raise RuntimeError(f"disk {' '.join(arguments)} ended with {code}")
        output.seek(0)
        document = json.load(output)
    return _taken(seconds, usage, document)


def _taken(seconds: float, usage: resource.struct_rusage, document: dict[str, Any]) -> Run:
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, document)


def merge_to(leaf: str, target: str) -> Run:
    return disk("merge", leaf, "--to", target)


def our_hash(path: str) -> str:
    """SHA-256 of the virtual content through the whole chain."""
    with open_chain(path, Roots([Root(os.path.dirname(path))])) as chain:
        return chain.sha256()


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def rotated(names: list[str], number: int) -> list[str]:
    """Another one begins in every round."""
    shift = number % len(names)
    return names[shift:] + names[:shift]


def forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def settle() -> None:
    """What earlier runs left to be written is not charged to the next one."""
    os.sync()


def make_disk(
    folder: str, name: str, extents: Extents, *, blocks: int = 0, parent: str = "", seed: int = 0
) -> str:
    """Write a disk with random data (or written zeros) at ascending extents."""
    roots = Roots([Root(folder)])
    path = os.path.join(folder, name)
    plan = create.plan(
        path,
        roots,
        disk_type=DiskType.DYNAMIC,
        size_bytes=blocks * BLOCK if not parent else None,
        parent=os.path.join(folder, parent) if parent else None,
        block_size_bytes=BLOCK,
    )
    if plan.refused is not None:
        raise plan.refused
    touched = {first // BLOCK_SECTORS for first, _, _ in extents}
    new: NewImage = plan.new
    source = random.Random(seed)
    noise = source.randbytes(3 * BLOCK)
    with Draft(roots, path, job="benchmark", token=0) as draft:
        writer = plan.format.writer(draft.file, new, blocks=len(touched))
        for first, count, zeros in extents:
            start = source.randrange(0, 2 * BLOCK, 512)
            data = bytes(count * 512) if zeros else noise[start : start + count * 512]
            writer.write(first, data)
        writer.finish()
        draft.publish()
    return path


def add_format(parser: argparse.ArgumentParser) -> None:
    """--format: the formats that the engine writes."""
    parser.add_argument("--format", choices=("vhd", "vhdx"), default="vhd")


def qemu_arguments(path: str) -> list[str]:
    """How qemu-img is told to read a disk of ours: a VHD's size, not its geometry."""
    if path.endswith(".vhdx"):
        return ["-f", "vhdx", path]
    return ["--image-opts", f"driver=vpc,force_size_calc=current_size,file.filename={path}"]


def qemu_output(path: str) -> list[str]:
    """How qemu-img is told what to write: blocks of 2 MiB, as ours are."""
    if path.endswith(".vhdx"):
        return ["-O", "vhdx", "-o", "subformat=dynamic,block_size=2M"]
    return ["-O", "vpc", "-o", "subformat=dynamic,force_size=on"]


def build_chain(folder: str, blocks: int, format_name: str = "vhd") -> list[str]:
    """Base and three children, shaped like the table's chain; base first.

    blocks: allocated blocks of the base; a tenth of them all zero, another half zero.
    The virtual disk is twice as large.
    """
    source = random.Random(7)
    bottom: Extents = []
    for index in range(blocks):
        first = index * 2 * BLOCK_SECTORS
        if index % 10 == 3:
            bottom.append((first, BLOCK_SECTORS, True))
        elif index % 11 == 5:
            bottom += [
                (first, BLOCK_SECTORS // 2, False),
                (first + BLOCK_SECTORS // 2, BLOCK_SECTORS // 2, True),
            ]
        else:
            bottom.append((first, BLOCK_SECTORS, False))
    total = 2 * blocks
    base, second, third, leaf = (
        f"{name}.{format_name}" for name in ("base", "clustered", "scattered", "mixed")
    )
    made = [make_disk(folder, base, bottom, blocks=total, seed=1)]
    clustered: Extents = [
        (index * BLOCK_SECTORS, BLOCK_SECTORS, False)
        for index in range(total // 4, total // 4 + blocks // 5)
    ]
    made.append(make_disk(folder, second, clustered, parent=base, seed=2))
    scattered = _scattered(source, sorted(source.sample(range(total), blocks * 3 // 20)), 36)
    made.append(make_disk(folder, third, scattered, parent=second, seed=3))
    mixed: Extents = []
    for number, index in enumerate(sorted(source.sample(range(total), blocks // 10))):
        if number % 2:
            mixed.append((index * BLOCK_SECTORS, BLOCK_SECTORS, False))
        else:
            mixed += _scattered(source, [index], 12)
    made.append(make_disk(folder, leaf, mixed, parent=third, seed=4))
    return made


def _scattered(source: random.Random, indexes: list[int], pieces: int) -> Extents:
    """Pieces of 4 to 16 KiB within the blocks."""
    extents: Extents = []
    for index in indexes:
        slots = sorted(source.sample(range(BLOCK_SECTORS // 32), pieces))
        extents += [
            (index * BLOCK_SECTORS + slot * 32, source.choice((8, 16, 24, 32)), False)
            for slot in slots
        ]
    return extents
