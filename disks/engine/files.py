"""A file that holds an image: bounded reads and looped writes on one descriptor.

Opening is not done here: `disks/operations/root_folders.py` opens below the roots and
hands the descriptor over. Everything works on the descriptor, never on the name again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.units import KIB, MIB, round_up


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file this is and whether it was written since (crash-safety R6)."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileIdentity:
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def as_dict(self) -> dict[str, int]:
        return {
            "device": self.device,
            "inode": self.inode,
            "size_bytes": self.size_bytes,
            "mtime_ns": self.mtime_ns,
            "ctime_ns": self.ctime_ns,
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> FileIdentity:
        return cls(**{name: int(row[name]) for name in cls.__slots__})


_WRITE_BYTES = 512 * KIB
"""Most that one write takes: what was just read is still in the processor's cache. Writes of
2 MiB get memory in pieces of 2 MiB, which a virtual machine may have to fetch from its host:
measured to be ten times slower (ext4, Linux 6.18)."""

LARGE_BYTES = 256 * KIB
"""The smallest piece that goes past the memory: of small ones the kernel makes larger ones."""

PAGE_BYTES = 4 * KIB
"""At least what any storage wants pieces that go past the memory to be multiples of."""

_PASS_BYTES = 8 * MIB
"""How much of a file that is passed once goes by between two hints to the storage."""


class ImageFile:
    """path is text for messages; fd is owned and closed here."""

    def __init__(self, fd: int, path: str, *, writable: bool = False) -> None:
        self.fd = fd
        self.path = path
        self.writable = writable
        self.status_at_opening = os.fstat(fd)
        self.size_bytes = self.status_at_opening.st_size
        self._passes_once = False
        self._passed_bytes = 0  # since the last hint
        self._passes_memory_by = False
        self._past_fd = -1

    def stat(self) -> os.stat_result:
        return os.fstat(self.fd)

    def identity(self) -> FileIdentity:
        return FileIdentity.of(self.stat())

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly length bytes. E_TRUNCATED past the end, E_IO when the storage fails."""
        pieces = []
        position = offset
        end = offset + length
        while position < end:
            try:
                piece = os.pread(self.fd, end - position, position)
            except OSError as error:
                raise self._failed(error, position, "read") from error
            if not piece:
                raise self._too_short(position, end)
            pieces.append(piece)
            position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer from offset; errors as in read_at."""
        if self._passes_memory_by and len(buffer) >= LARGE_BYTES:
            self._past_memory(offset, buffer, self._read, self._read_afresh)
        else:
            self.read_remembered(offset, buffer)

    def read_remembered(self, offset: int, buffer: memoryview) -> None:
        """As read_into(), but out of the kernel's memory what lies there."""
        self._read(self.fd, offset, buffer)

    def _read(self, fd: int, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise self._failed(error, offset + done, "read") from error
            if count == 0:
                raise self._too_short(offset + done, offset + len(buffer))
            done += count
        self._passed(offset, done)

    def next_data(self, offset: int) -> int:
        """The first byte from offset on that may be stored: holes before it read as zeros.

        The file's size if nothing more is stored; offset itself where the storage cannot tell.
        """
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            return self.size_bytes if error.errno == errno.ENXIO else offset

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """All of data, short writes looped. E_NOSPC, E_IO, E_READ_ONLY, E_TOO_LARGE…"""
        view = memoryview(data)
        is_piece = isinstance(data, memoryview) and len(view) >= LARGE_BYTES
        if self._passes_memory_by and is_piece:
            self._past_memory(offset, view, self._write, self._write_soon)
        else:
            self._write(self.fd, offset, view)
        self.size_bytes = max(self.size_bytes, offset + len(view))

    def _write(self, fd: int, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                rest = view[done : done + _WRITE_BYTES]
                count = faults.writing(fd, self.path, offset + done, rest)
                done += os.pwrite(fd, rest[:count], offset + done)
            except OSError as error:
                raise self._failed(error, offset + done, "write") from error
        self._passed(offset, done)

    def pass_memory_by(self) -> None:
        """From now on large pieces go past the kernel's memory of the file (O_DIRECT).

        What is written so is with the storage when the call returns, errors included, though
        durable only after sync(). What is read so comes from the storage and nowhere else:
        forget() is advice, which is not followed for pages that are kept in larger units.
        Neither asks for memory, nor pushes out of it what others need.

        Only whole pages go this way; the ends of a piece share theirs with other things. Give
        pieces that lie in memory as they do in the file, as in_pages() cuts them; bytes, which
        lie anywhere, are written the usual way. Where the storage does not allow it, all pieces
        go that way, and the storage begins with each.

        Source: open(2), "O_DIRECT".
        """
        if self._passes_memory_by:
            return
        self._passes_memory_by = True
        flags = (os.O_RDWR if self.writable else os.O_RDONLY) | os.O_DIRECT | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            # This file, whatever its name means by now.
            self._past_fd = os.open(f"/proc/self/fd/{self.fd}", flags)

    def _past_memory(
        self,
        offset: int,
        view: memoryview,
        move: Callable[[int, int, memoryview], None],
        usual: Callable[[int, memoryview], None],
    ) -> None:
        """Whole pages one way, the rest the other."""
        end = offset + len(view)
        first, last = round_up(offset, PAGE_BYTES), end - end % PAGE_BYTES
        if self._past_fd >= 0 and first < last:
            try:
                move(self._past_fd, first, view[first - offset : last - offset])
            except ImageError as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno != errno.EINVAL:
                    raise
                self._close_past()  # some storage refuses it only with the first piece
        if self._past_fd < 0 or first >= last:
            usual(offset, view)
            return
        if offset < first:
            usual(offset, view[: first - offset])
        if last < end:
            usual(last, view[last - offset :])

    def _read_afresh(self, offset: int, buffer: memoryview) -> None:
        self.forget(offset, len(buffer))
        self.read_remembered(offset, buffer)

    def _write_soon(self, offset: int, view: memoryview) -> None:
        self._write(self.fd, offset, view)
        self.hint(offset, len(view), os.POSIX_FADV_DONTNEED)

    def _close_past(self) -> None:
        if self._past_fd >= 0:
            os.close(self._past_fd)
            self._past_fd = -1

    def pass_once(self) -> None:
        """From now on the file is read or written once, from its beginning to its end.

        What was passed does not stay in memory: the storage begins with what was written
        while more is copied, so that sync() has little left to wait for, and what is read
        comes from the storage. Only hints: what is durable is still known from sync() alone,
        and a write that failed meanwhile is still told there.

        Source: posix_fadvise(2), "may attempt to write back dirty pages in the region".
        """
        self._passes_once = True
        self.hint(0, 0, os.POSIX_FADV_DONTNEED)
        self.hint(0, 0, os.POSIX_FADV_SEQUENTIAL)

    def _passed(self, offset: int, length: int) -> None:
        if not self._passes_once:
            return
        self._passed_bytes += length
        if self._passed_bytes >= _PASS_BYTES:
            self._passed_bytes = 0
            # Not further: what lies there was perhaps read ahead already, and is needed.
            self.hint(0, offset + length, os.POSIX_FADV_DONTNEED)

    def hint(self, offset: int, length: int, advice: int) -> None:
        """Tell the kernel what becomes of a range (length 0: to the end); advice only."""
        with contextlib.suppress(OSError):  # some file systems know none
            os.posix_fadvise(self.fd, offset, length, advice)

    def forget(self, offset: int, length: int) -> None:
        """Pages that the range touches are read from the storage next time, once durable."""
        start = offset - offset % PAGE_BYTES  # a page of which only a part is given is kept
        end = round_up(offset + length, PAGE_BYTES)
        self.hint(start, end - start, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """fsync. A failure ends the attempt: it is never retried (crash-safety R3)."""
        try:
            faults.reached("fsync", self.path)
            os.fsync(self.fd)
        except OSError as error:
            raise self._failed(error, None, "fsync") from error

    def truncate(self, size_bytes: int) -> None:
        try:
            faults.reached("truncate", self.path, offset=size_bytes)
            os.ftruncate(self.fd, size_bytes)
        except OSError as error:
            raise self._failed(error, size_bytes, "truncate") from error
        self.size_bytes = size_bytes

    def allocate(self, size_bytes: int, *, from_bytes: int = 0) -> None:
        """Reserve room up to size_bytes: no holes (R9), and a full volume is met first.

        from_bytes: where that begins; what lies before it is not looked at again.
        """
        try:
            faults.reached("allocate", self.path, offset=size_bytes)
            os.posix_fallocate(self.fd, from_bytes, size_bytes - from_bytes)
        except OSError as error:
            # A full ext4 has made the file longer by what still had room.
            self.size_bytes = self.stat().st_size
            raise self._failed(error, size_bytes, "fallocate") from error
        self.size_bytes = max(self.size_bytes, size_bytes)

    def close(self) -> None:
        self._close_past()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _too_short(self, position: int, end: int) -> ImageError:
        return ImageError(
            "E_TRUNCATED",
            f"The file ends at byte {position:,}, but data up to byte {end:,} was expected there.",
            file=self.path,
            offset=position,
            value=end,
        )

    def _failed(self, error: OSError, offset: int | None, verb: str) -> ImageError:
        return storage_error(error, self.path, offset=offset, verb=verb)


def page_buffer(most_bytes: int) -> memoryview:
    """Memory for one piece of a file, see in_pages()."""
    return memoryview(mmap.mmap(-1, most_bytes + PAGE_BYTES))


def in_pages(buffer: memoryview, offset: int, length: int) -> memoryview:
    """The part of a page_buffer() for the piece at this offset: pages of it are pages there."""
    start = offset % PAGE_BYTES
    return buffer[start : start + length]


class GlancedFile(ImageFile):
    """A file that is looked at once, for its headers: each of its ends is read only once.

    Whoever asks what format it has, where its headers lie and whether they are sound asks for
    the same few bytes; on network storage every read can be a round trip.
    """

    _HEAD_BYTES = 16 * 1024
    _TAIL_BYTES = 512

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd, path)
        self._head: bytes | None = None
        self._tail: bytes | None = None

    def read_at(self, offset: int, length: int) -> bytes:
        size = self.size_bytes
        if offset + length <= self._HEAD_BYTES and offset + length <= size:
            if self._head is None:
                self._head = super().read_at(0, min(size, self._HEAD_BYTES))
            return self._head[offset : offset + length]
        if size - self._TAIL_BYTES <= offset and offset + length <= size:
            if self._tail is None:
                self._tail = super().read_at(size - self._TAIL_BYTES, self._TAIL_BYTES)
            at = offset - (size - self._TAIL_BYTES)
            return self._tail[at : at + length]
        return super().read_at(offset, length)


_CODES = {
    errno.ENOSPC: ("E_NOSPC", "the storage is full"),
    errno.EDQUOT: ("E_NOSPC", "the quota on the storage is used up"),
    errno.EFBIG: ("E_TOO_LARGE", "the file system does not allow a file that large"),
    errno.EROFS: ("E_READ_ONLY", "the storage is read-only"),
    errno.EACCES: ("E_ACCESS", "this service has no permission for it"),
    errno.EPERM: ("E_ACCESS", "this service has no permission for it"),
    errno.ENAMETOOLONG: ("E_NAME", "the name is too long for the file system"),
    errno.ENOENT: ("E_NOT_FOUND", "there is no such file"),
    errno.ESTALE: ("E_IO", "the file server no longer knows the open file"),
    errno.EIO: ("E_IO", "the storage reported an input/output error"),
}


def storage_error(
    error: OSError, path: str, *, offset: int | None = None, verb: str = "open"
) -> ImageError:
    """An OSError in words: what could not be done to which file, and why."""
    code, why = _CODES.get(error.errno or 0, ("E_IO", error.strerror or "the storage failed"))
    where = "" if offset is None else f" at byte {offset:,}"
    doing = {"open": "opened", "read": "read", "write": "written", "fsync": "made durable"}
    done = doing.get(verb, f"changed ({verb})")
    return ImageError(
        code, f"{path} could not be {done}{where}: {why}.", file=path, field=verb, offset=offset
    )


_STORAGE_FAILED = ("E_NOSPC", "E_IO", "E_READ_ONLY", "E_ACCESS", "E_TOO_LARGE")


def is_of_the_storage(error: ImageError) -> bool:
    """Whether it tells nothing of the disk itself: it may be otherwise the next time."""
    return error.code in _STORAGE_FAILED
