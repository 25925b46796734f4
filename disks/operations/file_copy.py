"""A proven copy of a file byte by byte, in a temporary file that has no name yet.

What the file holds is not looked at: a copy of a disk is the same disk, with its identity,
and a log that waits waits in the copy, too. Only the parent link may become another one,
for the place where the copy will lie; it is written before the copy gets its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Level
from disks.engine.formats import open_image
from disks.engine.parent_link import NewParent
from disks.engine.units import MIB
from disks.operations import copying, modification_times
from disks.operations.copying import Draft
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.rewriting import writing

_PIECE_BYTES = 4 * MIB


@dataclass
class Meter:
    """How far several copies are, together: bytes, each counted for copying and for proving."""

    progress: Progress
    total_bytes: int
    done_bytes: int = 0

    def add(self, count_bytes: int, sentence: str, *, hole_bytes: int = 0) -> None:
        """hole_bytes: passed over before what was moved."""
        self.done_bytes += count_bytes + hole_bytes
        self.progress.moved(count_bytes)
        self.progress.report(self.done_bytes, self.total_bytes, sentence)


def make(roots: Roots, source: str, draft: Draft, link: NewParent | None, meter: Meter) -> str:
    """Fill the draft with what source holds, prove it, and give it its link. Returns the digest.

    link: of the finished copy; None: as it is. The copy keeps the time of its last write, by
    which backups and children know it; rights are the caller's to give.

    Raises E_NOSPC, E_PROOF, E_VERIFY, what keeps a link from being written, and Cancelled.
    """
    with roots.open(source) as original:
        written = _copy(original, draft, meter)
        mtime_ns = original.stat().st_mtime_ns
    _prove(draft, written, meter)
    if link is not None:
        _link(draft, link)
    modification_times.set_mtime(draft.file, mtime_ns)
    return f"xxh3-128:{written.hexdigest}"


@dataclass(frozen=True)
class _Written:
    """The pieces that hold something: (offset, length), and the digest over them."""

    pieces: list[tuple[int, int]]
    size_bytes: int
    hexdigest: str


def _copy(source: ImageFile, draft: Draft, meter: Meter) -> _Written:
    """Holes of the source become zeros that are reserved, never holes (crash-safety R9)."""
    file, size = draft.file, source.size_bytes
    source.pass_once()
    file.pass_once()
    if size:
        file.allocate(size)
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(_PIECE_BYTES, max(size, 1))))
    pieces: list[tuple[int, int]] = []
    for offset, length, skipped in _pieces(source):
        data = buffer[:length]
        source.read_into(offset, data)
        file.write_at(offset, data)
        digest.update(offset.to_bytes(8, "little"))
        digest.update(data)
        pieces.append((offset, length))
        meter.add(length, f"copying {draft.name}", hole_bytes=skipped)
    file.sync()
    return _Written(pieces, size, digest.hexdigest())


def _pieces(source: ImageFile) -> Iterator[tuple[int, int, int]]:
    """(offset, length, bytes of the hole before it) of what the source holds."""
    position, size = 0, source.size_bytes
    while position < size:
        start = min(source.next_data(position), size)
        length = min(_PIECE_BYTES, size - start)
        if length:
            yield start, length, start - position
        position = start + length if length else size


def _prove(draft: Draft, written: _Written, meter: Meter) -> None:
    """Read the copy from the storage, not from memory. E_PROOF."""
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(_PIECE_BYTES, max(written.size_bytes, 1))))
    with draft.reopened() as file:
        file.pass_once()
        if file.size_bytes != written.size_bytes:
            raise copying.unproven(draft, f"it has {file.size_bytes:,} bytes")
        for offset, length in written.pieces:
            data = buffer[:length]
            file.read_into(offset, data)
            digest.update(offset.to_bytes(8, "little"))
            digest.update(data)
            meter.add(length, f"proving {draft.name}")
    if digest.hexdigest() != written.hexdigest:
        raise copying.unproven(draft, "its content differs")


def _link(draft: Draft, link: NewParent) -> None:
    """Nobody knows the draft yet, so its link is written straight. E_VERIFY if it is not there."""
    file = draft.file
    image = open_image(file)
    if image.is_linked_to(link):
        return
    if image.log_waits:
        image.replay_log()  # in the copy alone: it reads as before
        image = open_image(file)
    if image.write_refusal is not None:
        raise image.write_refusal
    writing.write_straight(file, image.plan_parent_link(link))
    with draft.reopened() as again:
        errors = [one for one in check_image(again) if one.level is Level.ERROR]
        if errors or not open_image(again).is_linked_to(link):
            why = errors[0].message if errors else "its header names another parent"
            raise ImageError(
                "E_VERIFY",
                f"The link of the new {draft.name} was written and is not right: {why} "
                "The copy was thrown away, and nothing was changed.",
                file=draft.path,
            )


def total_bytes(sizes: Iterator[int] | list[int]) -> int:
    """What a Meter counts for files of these sizes: each byte is copied, then proven."""
    return 2 * sum(sizes)
