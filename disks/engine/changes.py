"""Planned changes of an image where it lies: fields, writes in their order, moves of blocks.

A plan is made by a format and writes nothing; whoever carries it out makes each step durable
before the next (`operations/rewriting`).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A row of a plan: one header field, before and after, and where its bytes go."""

    field: str
    now: str | None
    after: str | None
    offset: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Write:
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fill:
    """Content for room that holds nothing: behind the file's end or the disk's, or a gap.

    What lay there is neither kept nor put back when the change is taken back.

    byte     what all of it becomes
    copy_of  instead of that: where in the same file the bytes lie that come there
    """

    offset: int
    length: int
    byte: int = 0
    copy_of: int | None = None


@dataclass(frozen=True, slots=True)
class HeaderRewrite:
    """A metadata change as ordered steps; every step is made durable before the next.

    size_after_bytes is the file's size when all is done; where it is smaller, the file is cut
    off there after the last step, which must leave it valid at either size. No page of 4 KiB
    that a Fill covers whole is written to by anything else; the last step has no Fill.

    visible_step: the one that makes the change visible. From then on somebody may have gone
    on with what is new: a change that broke off is completed, whatever lies in pages of earlier
    steps, and never taken back. None: nobody goes on with it; it is taken back if not whole.

    entry_bytes: where the visible step changes entries of a table of which each stands for
    itself, old or new: how long they are. Whichever is there after an interruption stays.

    logged_step: the step whose writes the format's own log holds. An interruption then needs
    no old bytes: the log is replayed, and that step is there whole or not at all.

    identity_after: where the change gives the disk another one.
    """

    steps: tuple[tuple[Write | Fill, ...], ...]
    size_after_bytes: int
    changes: tuple[FieldChange, ...]
    _: KW_ONLY
    logged_step: int | None = None
    identity_after: str | None = None
    visible_step: int | None = None
    entry_bytes: int = 0


class Drop(NamedTuple):
    """An entry of a block table, by number, and what it becomes: without a place in the file."""

    number: int
    entry: int


class Move(NamedTuple):
    """What an entry of a block table leads to, moved down: offsets and length in bytes.

    room_bytes  what it takes there; behind length it is filled with zeros
    """

    number: int
    source: int
    target: int
    length: int
    room_bytes: int


@dataclass(frozen=True, slots=True)
class Round:
    """One change of a compaction in place: drops, or moves; the disk is the same after it."""

    drops: tuple[Drop, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def bytes_moved(self) -> int:
        return sum(move.length for move in self.moves)


@dataclass(frozen=True, slots=True)
class Compaction:
    """How a disk of blocks becomes dense where it lies.

    rounds            one after the other; each leaves a valid disk with the same content
    size_after_bytes  of the file, once `plan_end` was carried out as well
    """

    rounds: tuple[Round, ...]
    size_after_bytes: int

    @property
    def moves(self) -> int:
        return sum(len(one.moves) for one in self.rounds)

    @property
    def bytes_moved(self) -> int:
        return sum(one.bytes_moved for one in self.rounds)


@dataclass(frozen=True, slots=True)
class Expansion:
    """How a disk becomes larger in place.

    rewrite           what is to be done next
    makes_room        True: it only moves some of what is in the way, so that size and content
                      stay; when it is done, plan again
    changes           rows for people: of this rewrite and of what follows it
    size_after_bytes  of the file when all is done
    warnings          what a person should know of the result
    children_break    why children of the disk cannot use it any more, half a sentence
    """

    rewrite: HeaderRewrite
    makes_room: bool
    changes: tuple[FieldChange, ...]
    size_after_bytes: int
    warnings: tuple[str, ...]
    children_break: str


@dataclass(frozen=True, slots=True)
class LogReplay:
    """What brings a format's own log to its place.

    entries, updates   that wait in the log; bytes_written: of all updates together
    size_after_bytes   the file's size when all is done (never smaller)
    key                stands for what waits: the same until somebody else writes the disk, also
                       while an interrupted replay waits to be repeated
    """

    entries: int
    updates: int
    bytes_written: int
    size_after_bytes: int
    changes: tuple[FieldChange, ...]
    key: str
