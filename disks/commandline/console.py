"""What a verb says: one JSON document or text on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from disks.engine import codes
from disks.engine.errors import ImageError
from disks.engine.units import size_text
from disks.operations.pacing import Pacer
from disks.operations.progress import Cancelled, Progress
from disks.operations.windows import shown

_BAR_WIDTH = 30
_QUIET_SECONDS = 1.0  # nothing is drawn for what is over sooner
_REDRAW_SECONDS = 0.2


class Console:
    """as_json: stdout carries exactly one document, result() or error() writes it.

    bytes_per_second: the limit on what the verb moves; 0: none. stop_by: when it stops at the
    next safe place, in seconds since 1970; None: never.
    """

    def __init__(
        self, *, as_json: bool, bytes_per_second: int = 0, stop_by: float | None = None
    ) -> None:
        self.as_json = as_json
        self._progress = TerminalProgress(Pacer(bytes_per_second), stop_by)

    def result(self, document: Mapping[str, Any], text: str = "") -> None:
        """The outcome: the document with --json, else text for a person."""
        if self.as_json:
            print(json.dumps(document, indent=1), flush=True)
        elif text:
            self.say(text)

    def say(self, text: str) -> None:
        """A line for a person, left out with --json. Escaped: names can hold anything."""
        self._progress.clear()
        if not self.as_json:
            print("\n".join(shown(line) for line in text.split("\n")), flush=True)

    def note(self, text: str) -> None:
        """A line on stderr: what the reader should know beside the outcome."""
        self._progress.clear()
        print(shown(text), file=sys.stderr, flush=True)

    def error(self, error: ImageError) -> None:
        """The one error line, and the error document with --json."""
        self.refuse(error)
        if self.as_json:
            print(json.dumps({"error": described(error)}, indent=1), flush=True)

    def refuse(self, error: ImageError) -> None:
        """The error line alone: what is wrong and why, then what to do next."""
        self.note(f"error: {error.code}: {error.message} {described(error)['advice']}")

    def progress(self) -> Progress:
        """The bar on the terminal; give it to operations."""
        return self._progress

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop an operation at its next safe place; Ctrl-C twice at once."""

        def asked(number: int, frame: FrameType | None) -> None:
            if not self._progress.stop_later():
                raise KeyboardInterrupt

        try:
            before = [
                (number, signal.signal(number, asked)) for number in (signal.SIGINT, signal.SIGTERM)
            ]
        except ValueError:  # not the main thread: nobody sends signals to it
            before = []
        try:
            yield
        finally:
            self._progress.clear()
            for number, handler in before:
                signal.signal(number, handler)


def described(error: ImageError) -> dict[str, Any]:
    """An error or a refusal as a document, with what to do next at a terminal."""
    return error.as_dict() | {"advice": error.advice or codes.command(error.code, error.file)}


class TerminalProgress(Progress):
    """A bar for anything longer than a second, only on a terminal."""

    def __init__(self, pacer: Pacer | None = None, stop_by: float | None = None) -> None:
        self._pacer = pacer or Pacer()
        self._stop_by = stop_by
        self._started = time.monotonic()
        self._drawn = 0.0
        self._width = 0
        self._sentence = ""
        self._running = False
        self._asked = False
        self._committing = False

    def step(self, step: str, sentence: str) -> None:
        self._sentence = sentence
        self._running = True
        self._started = time.monotonic()

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        self._running = True
        self._stop_if_asked()
        self._show(done_bytes, total_bytes, sentence)
        if not self._committing:
            self._pacer.wait(self._stop_if_asked)

    def moved(self, count_bytes: int) -> None:
        self._pacer.moved(count_bytes)

    def at_once_bytes(self, most_bytes: int) -> int:
        return self._pacer.at_once_bytes(most_bytes)

    def _stop_if_asked(self) -> None:
        if self._committing:
            return
        if self._asked:
            raise Cancelled
        if self._stop_by is not None and time.time() >= self._stop_by:
            self._stop_by, self._asked = None, True  # whatever comes after it stops, too
            self.log("It is time to stop.")
            raise Cancelled

    def _show(self, done_bytes: int, total_bytes: int, sentence: str | None) -> None:
        now = time.monotonic()
        if now - self._started < _QUIET_SECONDS or now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        if sys.stderr.isatty():
            self._draw(done_bytes, total_bytes, sentence or self._sentence, now)

    def log(self, sentence: str) -> None:
        self.clear()
        print(shown(sentence), file=sys.stderr, flush=True)

    def commit_starts(self) -> None:
        self._committing = True

    def commit_ends(self) -> None:
        self._committing = False

    def stop_later(self) -> bool:
        """Note the wish to stop; False if nothing runs that would notice, or asked twice."""
        if not self._running or self._asked:
            return False
        self._asked = True
        self.log(
            "Too late to stop: the work is being finished."
            if self._committing
            else "Stopping at the next safe place…"
        )
        return True

    def clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0

    def _draw(self, done: int, total: int, sentence: str, now: float) -> None:
        share = min(1.0, done / total) if total else 0.0
        bar = "█" * int(share * _BAR_WIDTH)
        left = (now - self._started) * (1 - share) / share if share else 0.0
        line = (
            f"{bar:░<{_BAR_WIDTH}} {share:4.0%}  {size_text(done)} of {size_text(total)}"
            f"  {left:.0f} s left  {shown(sentence)}"
        )
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = max(self._width, len(line))
