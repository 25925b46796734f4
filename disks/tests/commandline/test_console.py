"""Stopping a long operation from the terminal, and what is drawn meanwhile."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from disks.commandline import main
from disks.commandline.console import Console, TerminalProgress
from disks.operations.progress import Cancelled
from disks.tests import builders

REPORT = TerminalProgress.report


def test_ctrl_c_stops_at_the_next_safe_place_and_not_after_the_commit() -> None:
    """bad-input E79: cancelled between two pieces, never in the middle of one."""
    console = Console(as_json=False)
    progress = console.progress()
    with console.interruptible():
        progress.step("copy", "copying")
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Cancelled):
            progress.report(1, 2)
        progress.commit_starts()
        progress.report(2, 2)


def test_sigterm_is_a_wish_to_stop_too() -> None:
    """bad-input F98 for the command line."""
    console = Console(as_json=False)
    with console.interruptible():
        console.progress().report(0, 2)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Cancelled):
            console.progress().report(1, 2)


def test_ctrl_c_ends_at_once_what_reports_no_progress() -> None:
    console = Console(as_json=False)
    with pytest.raises(KeyboardInterrupt), console.interruptible():
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_said_to_people_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    Console(as_json=False).say("a\x1b[31mred\udcff\u202e\nnext")
    assert capsys.readouterr().out == "a\\x1b[31mred\\udcff\\u202e\nnext\n"


def test_ctrl_c_stops_a_deep_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its progress is the terminal's: the bar is drawn, and the wish to stop is heard."""
    blocks = range(0, 32 * builders.MIB, 2 * builders.MIB)
    content = [(first // 512, b"x" * 512) for first in blocks]  # all else is clear, and read
    path = builders.build_dynamic(tmp_path, "a.vhd", size=32 * builders.MIB, content=content).path
    told: list[tuple[int, int]] = []

    def interrupted(self: TerminalProgress, done: int, total: int, _: str | None = None) -> None:
        told.append((done, total))
        os.kill(os.getpid(), signal.SIGINT)
        REPORT(self, done, total)

    monkeypatch.setattr(TerminalProgress, "report", interrupted)
    assert main(["check", str(path), "--deep", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E_CANCELLED"
    assert len(told) == 1
    assert told[0][1] == path.stat().st_size
