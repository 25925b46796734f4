"""Whole 4 KiB pages before and after a header rewrite, and what a crash left of them (R2).

A power cut can garble the page that was being written, neighbours of the changed bytes
included. So whole pages are kept, and putting one back heals all of it.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from disks.engine.changes import Fill, HeaderRewrite, Write
from disks.engine.files import ImageFile
from disks.engine.units import SECTOR_BYTES, round_up

PAGE_BYTES = 4096


class PageState(StrEnum):
    """What lies in a page now, compared with before and after."""

    OLD = "old"
    NEW = "new"
    MIXED = "mixed"  # some sectors old, some new
    TORN = "torn"  # a sector that we change is neither: garbled by the crash
    FOREIGN = "foreign"  # somebody else wrote there


@dataclass(frozen=True, slots=True)
class Page:
    """One page; old is shorter at the end of the file, empty past it; step: the last to write.

    found: what a crash had made of it when its recovery began; sectors of that may be left
    where recovery itself was interrupted.
    """

    offset: int
    old: bytes
    new: bytes
    step: int
    found: bytes = b""

    def as_dict(self) -> dict[str, Any]:
        return {
            "offset": self.offset,
            "old": base64.b64encode(self.old).decode(),
            "new": base64.b64encode(self.new).decode(),
            "step": self.step,
            **({"found": base64.b64encode(self.found).decode()} if self.found else {}),
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Page:
        return cls(
            int(row["offset"]),
            base64.b64decode(row["old"]),
            base64.b64decode(row["new"]),
            int(row["step"]),
            base64.b64decode(row.get("found", "")),
        )

    def until(self, end: int) -> Page:
        """The same page of a file that ends there."""
        length = max(0, end - self.offset)
        return replace(self, old=self.old[:length], new=self.new[:length])

    @property
    def is_only_longer(self) -> bool:
        """Whether a page that the file ended in gets more bytes, and no other ones."""
        return 0 < len(self.old) < len(self.new) and self.new.startswith(self.old)

    def is_left(self, current: bytes, but: Collection[int]) -> bool:
        """Whether a sector is still what a crash made of it; but: those that do not count."""
        for at in range(0, min(len(current), len(self.found)), SECTOR_BYTES):
            now = current[at : at + SECTOR_BYTES]
            known = (self.old[at : at + SECTOR_BYTES], self.new[at : at + SECTOR_BYTES])
            if at not in but and now == self.found[at : at + len(now)] and now not in known:
                return True
        return False

    def state(self, current: bytes) -> PageState:
        """Judge what the file holds there now.

        Bytes past the old end of the file are ours whatever they are: the caller has made
        sure that nobody else made the file grow.
        """
        if len(current) < len(self.old):
            return PageState.FOREIGN
        if current == self.new:
            return PageState.NEW
        known = current[: len(self.old)]
        if known == self.old:
            return PageState.OLD
        foreign = torn = False
        for start in range(0, len(self.old), SECTOR_BYTES):
            old = self.old[start : start + SECTOR_BYTES]
            new = self.new[start : start + len(old)]
            now = known[start : start + len(old)]
            if now in (old, new):
                continue
            if old != new:
                return PageState.TORN
            if now == self.found[start : start + len(old)]:
                torn = True
            else:
                foreign = True
        if foreign:
            return PageState.FOREIGN
        return PageState.TORN if torn else PageState.MIXED


def changed_writes(
    file: ImageFile, rewrite: HeaderRewrite
) -> tuple[list[list[Write | Fill]], list[Page]]:
    """A rewrite cut down to the sectors that really change, and the pages it touches.

    Of a Fill the whole pages stay one, and nothing of them is kept: they hold nothing. Its
    edges, which share pages with other things, are written like everything else. Zeros past the
    file's end are not written: what the file grows by is reserved, and reads as that.

    ValueError for a page that holds old bytes to its end and is only appended to: a power cut
    that garbles it and loses the growth would look like somebody else's writing.
    """
    simulated = _Simulated(file)
    steps: list[list[Write | Fill]] = []
    for number, step in enumerate(rewrite.steps):
        pieces: list[Write | Fill] = []
        for piece in step:
            for part in _cut(file, piece) if isinstance(piece, Fill) else (piece,):
                pieces += simulated.apply(part, number) if isinstance(part, Write) else (part,)
        steps.append(pieces)
    pages = simulated.pages()
    for pieces in steps:
        for piece in pieces:
            if isinstance(piece, Fill) and any(_holds(piece, page.offset) for page in pages):
                raise ValueError("a page that is filled cannot be written to, too")
    if any(page.is_only_longer for page in pages):
        raise ValueError("a page that others end in cannot be appended to alone")
    return [pieces for pieces in steps if pieces], pages


def _holds(fill: Fill, offset: int) -> bool:
    return fill.offset <= offset < fill.offset + fill.length


def _cut(file: ImageFile, fill: Fill) -> Iterator[Write | Fill]:
    """The whole pages of a fill, and its edges as writes; no zeros past the file's end."""
    stop = fill.offset + fill.length
    if fill.byte == 0 and fill.copy_of is None:
        stop = max(fill.offset, min(stop, file.size_bytes))
    first = min(stop, round_up(fill.offset, PAGE_BYTES))
    last = max(first, stop - stop % PAGE_BYTES)
    for start, end in ((fill.offset, first), (first, last), (last, stop)):
        if start == end:
            continue
        source = None if fill.copy_of is None else fill.copy_of + start - fill.offset
        if start == first and end == last:
            yield Fill(start, end - start, fill.byte, source)
        elif source is None:
            yield Write(start, bytes([fill.byte]) * (end - start))
        else:
            yield Write(start, file.read_at(source, end - start))


def put_back(file: ImageFile, pages: Sequence[Page], size_bytes: int) -> None:
    """Bring the old pages and the old size back, last written first, each step made durable.

    Pages that are as they were are not touched. May be repeated after a crash.

    To cut within a page is to write the rest of it once more, which a power cut garbles. So the
    file keeps the zeros up to the end of a page that is none of these, and cannot be put back.
    """
    for page in pages:
        # After an fsync that failed, memory may say what the storage never got (R3).
        file.forget(page.offset, PAGE_BYTES)
    for step in sorted({page.step for page in pages}, reverse=True):
        wrote = False
        for page in pages:
            if page.step == step and page.old and _current(file, page)[: len(page.old)] != page.old:
                file.write_at(page.offset, page.old)
                wrote = True
        if wrote:
            file.sync()
    if all(page.offset != size_bytes - size_bytes % PAGE_BYTES for page in pages):
        size_bytes = round_up(size_bytes, PAGE_BYTES)
    if file.stat().st_size > size_bytes:  # also by a write that broke off
        file.truncate(size_bytes)
        file.sync()


def put_forward(file: ImageFile, pages: Sequence[Page]) -> None:
    """Bring pages to what they are to become, step by step, each made durable."""
    for step in sorted({page.step for page in pages}):
        for page in pages:
            if page.step == step and _current(file, page) != page.new:
                file.write_at(page.offset, page.new)
        file.sync()


def is_there(file: ImageFile, pages: Sequence[Page], ranges: Sequence[Sequence[int]]) -> bool:
    """Whether these (offset, length) hold what they are to become; False without any.

    To the byte, for somebody may be using the rest of a page by now.
    """
    for offset, length in ranges:
        page = next(page for page in pages if 0 <= offset - page.offset < PAGE_BYTES)
        start = offset - page.offset
        if _current(file, page)[start : start + length] != page.new[start : start + length]:
            return False
    return bool(ranges)


def standing(
    file: ImageFile, pages: Sequence[Page], ranges: Sequence[tuple[int, int]], entry_bytes: int
) -> list[Page] | None:
    """After a change whose entries each stand for themselves: the pages that are to be mended.

    ranges: the sectors (offset, length) that hold the entries. One that is old or new stays;
    a sector with one that is neither was garbled, and goes back. None: no entry is new.
    """
    by_page: dict[int, list[int]] = {}
    for offset, length in ranges:
        for at in range(offset, offset + length, SECTOR_BYTES):
            by_page.setdefault(at - at % PAGE_BYTES, []).append(at % PAGE_BYTES)
    begun = False
    mended = []
    for page in pages:
        if page.offset not in by_page:
            continue
        now = _current(file, page)[: len(page.old)]
        healed = bytearray(now)
        garbled = []
        for at in by_page[page.offset]:
            for entry in range(at, min(at + SECTOR_BYTES, len(now)), entry_bytes):
                old, new, found = (
                    one[entry : entry + entry_bytes] for one in (page.old, page.new, now)
                )
                if found not in (old, new):
                    garbled.append(at)
                    break
                begun = begun or found == new != old
        # With these sectors perhaps all of the page, or what an earlier recovery left of that.
        if garbled or page.is_left(now, by_page[page.offset]):
            for at in range(0, len(now), SECTOR_BYTES):
                end = at + SECTOR_BYTES
                if at not in by_page[page.offset]:
                    if now[at:end] != page.old[at:end]:
                        healed[at:end] = page.new[at : min(end, len(now))]
                elif at in garbled:
                    healed[at:end] = page.old[at:end]
        if healed != now:
            mended.append(Page(page.offset, now, bytes(healed), page.step))
    return mended if begun else None


def as_found(file: ImageFile, pages: Sequence[Page]) -> list[Page]:
    """The pages, those that are torn with what lies there now."""
    return [
        replace(page, found=_current(file, page)) if state is PageState.TORN else page
        for page, state in zip(pages, states(file, pages), strict=True)
    ]


def states(file: ImageFile, pages: Sequence[Page]) -> list[PageState]:
    return [page.state(_current(file, page)) for page in pages]


def _current(file: ImageFile, page: Page) -> bytes:
    """What lies there now, as far as the file and the page's new content reach."""
    length = max(len(page.old), len(page.new))
    return file.read_at(page.offset, max(0, min(length, file.size_bytes - page.offset)))


class _Simulated:
    """The file as it will be, page by page."""

    def __init__(self, file: ImageFile) -> None:
        self._file = file
        self._size = file.size_bytes
        self._old: dict[int, bytes] = {}
        self._new: dict[int, bytearray] = {}
        self._step: dict[int, int] = {}

    def apply(self, write: Write, step: int) -> list[Write]:
        """Write into the simulation; returns the runs of sectors that this changes."""
        changed: list[Write] = []
        end = write.offset + len(write.data)
        position = write.offset
        while position < end:
            stop = min(end, (position // SECTOR_BYTES + 1) * SECTOR_BYTES)
            piece = bytes(write.data[position - write.offset : stop - write.offset])
            if self._put(position, piece, step):
                if changed and changed[-1].offset + len(changed[-1].data) == position:
                    changed[-1] = Write(changed[-1].offset, changed[-1].data + piece)
                else:
                    changed.append(Write(position, piece))
            position = stop
        return changed

    def _put(self, offset: int, piece: bytes, step: int) -> bool:
        """One piece within one sector; False if it is there already."""
        start = offset // PAGE_BYTES * PAGE_BYTES
        page = self._page(start)
        inside = offset - start
        if len(page) >= inside + len(piece) and page[inside : inside + len(piece)] == piece:
            return False
        if len(page) < inside:
            page.extend(bytes(inside - len(page)))
        page[inside : inside + len(piece)] = piece
        self._step[start] = step
        return True

    def _page(self, start: int) -> bytearray:
        if start not in self._new:
            old = self._file.read_at(start, max(0, min(PAGE_BYTES, self._size - start)))
            self._old[start] = old
            self._new[start] = bytearray(old)
        return self._new[start]

    def pages(self) -> list[Page]:
        return [
            Page(start, self._old[start], bytes(self._new[start]), self._step[start])
            for start in sorted(self._step)
        ]
