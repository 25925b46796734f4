"""Large pieces of a file, written and read past the kernel's memory of it (O_DIRECT).

What is written so is with the storage when the call returns, errors included, though durable
only after sync(). What is read so comes from the storage and nowhere else. Neither asks for
memory, nor pushes out of it what others need.

Only whole pages of 4 KiB go this way. The ends of a piece, which share pages with other things,
go the usual one, and so does everything where the storage does not allow this.

Source: open(2), "O_DIRECT".
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from types import TracebackType

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.units import round_up

PAGE_BYTES = 4096  # at least what any storage wants offsets, lengths and memory to be multiples of


class Direct:
    """Past the memory into an open file, by a second descriptor, which is closed here.

    most_bytes: of one piece. buffer() has room for one.
    """

    def __init__(self, file: ImageFile, most_bytes: int) -> None:
        self._file = file
        self._buffer = memoryview(mmap.mmap(-1, most_bytes + PAGE_BYTES))
        self._past = _opened_again(file)

    def buffer(self, offset: int, length: int) -> memoryview:
        """Room for the piece at this offset, laid so that its pages are pages of memory."""
        start = offset % PAGE_BYTES
        return self._buffer[start : start + length]

    def write(self, offset: int, piece: memoryview) -> None:
        """All of a piece in the buffer for this offset. Errors as in ImageFile.write_at()."""

        def usual(start: int, end: int) -> None:
            self._file.write_at(start, piece[start - offset : end - offset])

        def past(file: ImageFile, start: int, end: int) -> None:
            file.write_at(start, piece[start - offset : end - offset])

        if not self._whole_pages(offset, len(piece), past, usual):
            # The storage begins with it while more is copied.
            self._file.hint(offset, len(piece), os.POSIX_FADV_DONTNEED)

    def read(self, offset: int, length: int) -> memoryview:
        """A piece that is durable, in its buffer. Errors as in ImageFile.read_into()."""
        piece = self.buffer(offset, length)

        def usual(start: int, end: int) -> None:
            self._file.forget(start, end - start)
            self._file.read_into(start, piece[start - offset : end - offset])

        def past(file: ImageFile, start: int, end: int) -> None:
            file.read_into(start, piece[start - offset : end - offset])

        self._whole_pages(offset, length, past, usual)
        return piece

    def _whole_pages(
        self,
        offset: int,
        length: int,
        past: Callable[[ImageFile, int, int], None],
        usual: Callable[[int, int], None],
    ) -> bool:
        """Whole pages one way, the ends the other; False: all of it went the usual one."""
        end = offset + length
        first = min(end, round_up(offset, PAGE_BYTES))
        last = max(first, end - end % PAGE_BYTES)
        if first == last or not self._tried(past, first, last):
            usual(offset, end)
            return False
        if offset < first:
            usual(offset, first)
        if last < end:
            usual(last, end)
        return True

    def _tried(self, past: Callable[[ImageFile, int, int], None], first: int, last: int) -> bool:
        """Whether it went this way: some storage refuses it only with the first piece."""
        if self._past is None:
            return False
        try:
            past(self._past, first, last)
        except ImageError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EINVAL:
                raise
            self.close()
            return False
        return True

    def close(self) -> None:
        if self._past is not None:
            self._past.close()
            self._past = None

    def __enter__(self) -> Direct:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _opened_again(file: ImageFile) -> ImageFile | None:
    """The same file, whatever its name means by now; None where it cannot be opened so."""
    flags = (os.O_RDWR if file.writable else os.O_RDONLY) | os.O_DIRECT | os.O_CLOEXEC
    try:
        fd = os.open(f"/proc/self/fd/{file.fd}", flags)
    except OSError:
        return None
    return ImageFile(fd, file.path, writable=file.writable)
