"""Pieces that are made one ahead: in order, while the one before is used, and no longer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from disks.operations.ahead import one_ahead


def test_all_pieces_come_in_their_order() -> None:
    with one_ahead(iter(range(100))) as pieces:
        assert list(pieces) == list(range(100))


def test_the_next_piece_is_made_while_one_is_used_and_not_the_one_after() -> None:
    begun = [threading.Event() for _ in range(4)]

    def made() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    with one_ahead(made()) as pieces:
        for number in pieces:
            assert begun[min(number + 1, 3)].wait(10)
            # Its memory may still be that of the piece at hand.
            assert not any(event.wait(0.05) for event in begun[number + 2 :])


def test_an_error_comes_in_the_place_of_its_piece() -> None:
    def failing() -> Iterator[str]:
        yield "first"
        yield "second"
        raise ValueError("the third")

    seen = []
    with one_ahead(failing()) as pieces, pytest.raises(ValueError, match="the third"):  # noqa: PT012
        for piece in pieces:
            seen.append(piece)
    assert seen == ["first", "second"]


def test_nothing_is_read_any_more_after_a_block_that_failed() -> None:
    slow = threading.Event()
    made = []

    def reading() -> Iterator[int]:
        for number in range(10):
            if number == 1:
                slow.wait(0.2)
            made.append(number)
            yield number

    def broken_off() -> None:
        with one_ahead(reading()) as pieces:
            next(pieces)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        broken_off()
    assert made == [0, 1]  # the one that was being read was waited for
    assert not [one for one in threading.enumerate() if one.name.startswith("ahead")]
