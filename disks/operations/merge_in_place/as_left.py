"""Whether base is as a merge left it when it was stopped, and what a person may say of it.

Whoever writes to a file changes its modification time; but so do tools that write nothing: touch,
some backups, what hands files to another owner. The file does not tell these apart, people do.
Said wrongly, it can do no more harm than whoever wrote has done: everything that the levels hold is
moved once more. Where the file itself says that it was written, nothing can be said.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, ImageFile, is_of_the_storage
from disks.engine.formats import identify, open_image
from disks.operations import steps
from disks.operations.merge_in_place import old_pages
from disks.operations.merge_in_place.refusals import PUT_BACK, attention
from disks.operations.merge_in_place.work import MERGING, Work, key
from disks.operations.paths import Roots


def header_of(file: ImageFile) -> int:
    """Another number after its headers were written; a VHDX says there that it was opened."""
    return zlib.crc32(identify(file).header_bytes(file))


def is_as_stopped(file: ImageFile, work: Work) -> bool:
    """Whether base is what the merge left when it was stopped between two batches."""
    now, then = file.identity(), work.file
    return then is not None and (now.size_bytes, now.mtime_ns) == (then.size_bytes, then.mtime_ns)


def require_as_stopped(file: ImageFile, work: Work) -> None:
    """E_NEEDS_ATTENTION where it is not: with the way on, where somebody may have the word."""
    if is_as_stopped(file, work):
        return
    if why := _written(file, work):
        raise attention(work.base, why, PUT_BACK)
    raise attention(
        work.base,
        "its times are others: somebody has written to it since the merge was stopped, or a tool "
        "has changed only its times (touch, a backup), which the file does not tell",
        "If you know that nobody has written to it, say so: tick that on the page of the job or of "
        f"the disk, or add --only-touched to “disk recover”. {PUT_BACK}",
    )


def touched(roots: Roots, work: Work) -> FileIdentity | None:
    """Base as it is now, where a person's word that nobody has written to it is all that going on
    with the merge needs; None where it goes on without, and where no word would help.
    """
    if work.file is None or steps.inode(roots, work.base) != work.inodes[-1]:
        return None
    pages = work.pages_path
    if not old_pages.is_there(roots, pages):
        return None
    if old_pages.newest(roots, pages, key(work), work.batch) is not None:
        return None  # a batch is half written
    with roots.open(work.base) as file:
        if is_as_stopped(file, work) or _written(file, work):
            return None
        return file.identity()


def taken_as_untouched(roots: Roots, work: Work, told: FileIdentity | None) -> Work:
    """The work as it goes on where somebody has said that nobody has written to base.

    told: base as it was when that was said. Written, or touched, since then, it is not believed.
    """
    now = touched(roots, work) if told is not None else None
    if told is None or now is None or _times(now) != _times(told):
        return work
    # From the first sector: so what the levels hold is right, whoever wrote there all the same.
    return replace(work, state=MERGING, position=0, file=now)


def _times(file: FileIdentity) -> tuple[int, int, int]:
    return file.inode, file.size_bytes, file.mtime_ns


def _written(file: ImageFile, work: Work) -> str:
    """Why it is certain that somebody has written to base; "" where its times alone are others."""
    then = work.file
    if then is None:
        return ""
    if file.size_bytes < then.size_bytes:
        return "it is shorter than it was"
    if file.size_bytes > then.size_bytes:
        return "it is larger than it was: somebody has written to it since the merge was stopped"
    try:
        if open_image(file).identity != work.identity:
            return "it has another identity now"
        if work.header is not None and header_of(file) != work.header:
            return "its headers are other ones: somebody has opened it to write to it"
    except ImageError as error:
        if is_of_the_storage(error):
            raise
        return f"it cannot be read any more ({error.message})"
    return ""
