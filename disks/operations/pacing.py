"""At most so many bytes per second: how long work has to wait for what it has moved."""

from __future__ import annotations

import time
from collections.abc import Callable

PIECE_SECONDS = 0.2
"""Longest sleep between two looks at whether somebody asks to stop."""

_CREDIT_SECONDS = 0.25  # time that was not used and may be made good for, as other work waits, too
_LEAST_AT_ONCE_BYTES = 4 * 1024 * 1024


class Pacer:
    """A bucket of time: what is moved costs its share of a second; debts are slept off.

    bytes_per_second  0: no limit
    clock, sleep      of seconds; others in tests
    """

    def __init__(
        self,
        bytes_per_second: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._paid_until = float("-inf")

    def change(self, bytes_per_second: int) -> None:
        """From now on it is this rate; what is still to be slept off is counted by it, too."""
        if bytes_per_second == self.bytes_per_second:
            return
        now = self._clock()
        owed_bytes = max(0.0, self._paid_until - now) * self.bytes_per_second
        self.bytes_per_second = bytes_per_second
        self._paid_until = now + owed_bytes / bytes_per_second if bytes_per_second else now

    def moved(self, count_bytes: int) -> None:
        """So many bytes were read to be written, or read again for the proof."""
        if self.bytes_per_second > 0:
            begin = max(self._paid_until, self._clock() - _CREDIT_SECONDS)
            self._paid_until = begin + count_bytes / self.bytes_per_second

    def wait(self, between: Callable[[], object]) -> None:
        """Sleep until the rate is what it may be; what `between` raises ends the waiting."""
        while (left := self._paid_until - self._clock()) > 0:
            self._sleep(min(left, PIECE_SECONDS))
            between()

    def at_once_bytes(self, most_bytes: int) -> int:
        """How much to move between two waits: about a second's worth, and no tiny pieces."""
        if self.bytes_per_second <= 0:
            return most_bytes
        return min(most_bytes, max(_LEAST_AT_ONCE_BYTES, self.bytes_per_second))
