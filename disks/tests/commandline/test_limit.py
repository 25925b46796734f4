"""`--limit` and `--stop-by`: how fast, and by when."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from disks.commandline import dispatch, options
from disks.commandline.console import TerminalProgress
from disks.tests.builders import MIB, build_differencing, build_dynamic
from disks.tests.commandline.running import Disk
from disks.tests.operations.worlds import content_of, noise


@pytest.fixture
def source(tmp_path: Path) -> Path:
    content = [(block * 4096, noise(block, 4096)) for block in range(4)]
    return build_dynamic(tmp_path, "source.vhd", size=8 * MIB, content=content).path


def test_a_limited_conversion_takes_its_time_for_copy_and_proof(
    disk: Disk, source: Path, tmp_path: Path
) -> None:
    """8 MiB are read to be copied and once more for the proof: 16 MiB at 20 MiB a second."""
    began = time.monotonic()
    done = disk("convert", source, tmp_path / "new.vhd", "--limit", "20M")
    seconds = time.monotonic() - began
    assert done.code == 0, done.err
    assert 16 / 20 - 0.3 <= seconds < 5
    assert content_of(tmp_path / "new.vhd") == content_of(source)


@pytest.mark.parametrize(
    "verb", ["merge", "pile", "compact", "convert", "expand", "copy", "move", "recover"]
)
def test_every_verb_that_moves_data_takes_a_limit(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch.main([verb, "--help"]) == 0
    assert "--limit BYTES[K|M|G]" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["fast", "-1", "100K", "1"])
def test_a_limit_that_is_none_is_wrong_usage(disk: Disk, source: Path, wrong: str) -> None:
    done = disk("compact", source, f"--limit={wrong}")
    assert (done.code, "--limit" in done.err) == (2, True)


# --- by when -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["soon", "25:00", "6", ""])
def test_a_time_to_stop_that_is_none_is_wrong_usage(disk: Disk, source: Path, wrong: str) -> None:
    done = disk("compact", source, f"--stop-by={wrong}")
    assert (done.code, "--stop-by" in done.err) == (2, True)


def test_a_copy_cannot_be_stopped_to_go_on(disk: Disk, source: Path, tmp_path: Path) -> None:
    for words in (
        ("compact", source, "--rewrite"),
        ("pile", tmp_path, "--copy"),
        ("merge", source, "--to", tmp_path / "new.vhd"),
        ("merge", source, "--into-parent", "--copy"),
    ):
        done = disk(*words, "--stop-by", "06:00")
        assert (done.code, "a copy could not be gone on with" in done.err) == (2, True)


def test_it_is_the_next_time_that_the_hosts_clock_says_so() -> None:
    for minutes in (-90, 90):
        wanted = datetime.now() + timedelta(minutes=minutes)
        found = datetime.fromtimestamp(options._next_time(f"{wanted:%H:%M}"))
        assert (found.hour, found.minute) == (wanted.hour, wanted.minute)
        assert timedelta(0) < found - datetime.now() <= timedelta(days=1, hours=1)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 06:00 once the first two blocks have moved."""
    moved = 0

    def count(self: TerminalProgress, count_bytes: int) -> None:
        nonlocal moved
        moved += count_bytes
        if moved >= 4 * MIB:
            self._stop_by = 0.0

    monkeypatch.setattr(TerminalProgress, "moved", count)
    monkeypatch.setattr(TerminalProgress, "at_once_bytes", lambda self, most: 2 * MIB)


def test_a_merge_stops_by_then_and_recover_goes_on(
    disk: Disk, tmp_path: Path, late: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build_dynamic(tmp_path, "base.vhd", size=16 * MIB)
    content = [(block * 4096, noise(block, 4096)) for block in range(6)]
    child = build_differencing(tmp_path, "child.vhd", parent=base, content=content)
    wanted = content_of(child.path)
    merge = ("merge", child.path, "--into-parent", "--offline", "--stop-by", "06:00")
    done = disk(*merge)
    assert done.code == 1
    assert "It is time to stop." in done.err
    assert "error: E_STOPPED: The merge was stopped before its first batch" in done.err
    assert "Resume it later" in done.err
    assert content_of(child.path) == wanted
    assert wanted in disk("hash", child.path).out, "it reads as ever, and may be used"
    assert "error: E_UNFINISHED" in disk("hash", base.path).err, "neither the old nor the new"
    done = disk("recover", tmp_path, "--stop-by", "06:00")
    assert done.code == 1, "the next night is not long enough, either"
    assert "The merge was stopped before its first batch" in done.out
    assert content_of(child.path) == wanted
    monkeypatch.undo()
    assert disk("recover", tmp_path).code == 0
    assert content_of(base.path) == wanted


def test_a_compaction_stops_by_then_and_goes_on_when_it_is_run_again(
    disk: Disk, tmp_path: Path, late: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = [(n * 4096, bytes(2 * MIB) if n % 2 else noise(n, 4096)) for n in range(6)]
    built = build_dynamic(tmp_path, "disk.vhd", size=12 * MIB, content=content)
    wanted = content_of(built.path)
    done = disk("compact", built.path, "--offline", "--stop-by", "06:00")
    assert (done.code, "Run it again to go on." in done.err) == (1, True)
    assert content_of(built.path) == wanted
    monkeypatch.undo()
    assert disk("compact", built.path, "--offline").code == 0
    assert content_of(built.path) == wanted
