"""Stopping a long operation from the terminal, and what is drawn meanwhile."""

from __future__ import annotations

import os
import signal

import pytest

from disks.commandline.console import Console
from disks.operations.progress import Cancelled


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
