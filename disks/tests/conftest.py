"""Fixtures and rules for every test."""

from __future__ import annotations

import fcntl
import os
import tarfile
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from disks.tests.builders import FAMILIES, Family

IN_CI = os.environ.get("CI", "").lower() == "true"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing required may skip itself: a skipped test is a failed one."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"Skipped, which CI does not allow: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    if IN_CI and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"Skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    """A format's builders: a test that asks for it runs once for every format."""
    return request.param


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where faults are tried, again and again: in memory, as everything where it has room."""
    return tmp_path


@pytest.fixture(scope="session")
def disk_place() -> Iterator[Path]:
    """A folder on the machine's disk, for what a real file system has to prove."""
    with tempfile.TemporaryDirectory(
        prefix="vdadmin-on-disk-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@pytest.fixture
def disk_folder(disk_place: Path) -> Iterator[Path]:
    """The same, for one test alone."""
    with tempfile.TemporaryDirectory(dir=disk_place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def corpus_archive() -> Path | None:
    """The archive of real disks: `$VDADMIN_CORPUS`, or shared/corpus beside the checkout."""
    told = os.environ.get("VDADMIN_CORPUS")
    places = [Path(told)] if told else []
    places.append(Path(__file__).resolve().parents[3] / "shared" / "corpus")
    for place in places:
        archive = place if place.is_file() else place / "real-disks.tar.xz"
        if archive.is_file():
            return archive
    return None


def unpack_sparse(archive: Path, folder: Path) -> None:
    """Unpack plain files and folders, leaving holes where there are zeros."""
    piece = 256 * 1024
    with tarfile.open(archive) as tar:
        for member in tar:
            target = folder / member.name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{member.name} leads out of the archive")
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isfile():
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                with target.open("wb") as file:
                    while source is not None and (data := source.read(piece)):
                        if data.count(0) == len(data):
                            file.seek(len(data), os.SEEK_CUR)
                        else:
                            file.write(data)
                    file.truncate(member.size)
                target.chmod(0o444)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real disks, shared by all test processes: copy what you change."""
    archive = corpus_archive()
    if archive is None:
        pytest.skip("the corpus of real disks is not here (set VDADMIN_CORPUS)")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "corpus"
    with (base / "corpus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unpacking = base / "corpus.unpacking"
            unpack_sparse(archive, unpacking)
            unpacking.rename(folder)
    return folder
