"""After an interrupted rewrite: finish it or take it back, as what is there allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, ImageFile
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations import journal
from disks.operations.journal import Sidecar
from disks.operations.modification_times import set_mtime
from disks.operations.pages import (
    Page,
    PageState,
    as_found,
    is_there,
    put_back,
    put_forward,
    standing,
    states,
)
from disks.operations.paths import Roots
from disks.operations.rewriting.kinds import LINK, WORDS, kind_of
from disks.operations.rewriting.records import finished, link_of, require_readable, restore
from disks.operations.rewriting.writing import write_straight
from disks.operations.settling import judge, settle
from disks.operations.windows import shown


def roll_back(roots: Roots, sidecar: Sidecar, file: ImageFile) -> None:
    """Old pages, old size, old modification time; then the record before this one.

    What went through the disk's own log is taken back by a second such change, and only by the
    process that made the first: raw bytes of headers are never put back, sequence numbers only
    grow.
    """
    record = sidecar.record
    if file.stat().st_size == int(record["size_after"]) < int(record["size_before"]):
        restore(roots, sidecar, record.get("previous"))  # cut off is cut off, and whole
        return
    if record.get("logged"):
        if not _take_back(file, sidecar):
            put_back(file, [], int(record["size_before"]))  # room that nothing refers to yet
        restore(roots, sidecar, record.get("previous"))
        return
    put_back(file, [Page.from_dict(row) for row in record["pages"]], int(record["size_before"]))
    set_mtime(file, int(record["file"]["mtime_ns"]))
    restore(roots, sidecar, record.get("previous"))


def _take_back(file: ImageFile, sidecar: Sidecar) -> bool:
    """Whatever of a logged change is there goes through the log again, back to the old link.

    False: nothing of it was there. E_NEEDS_ATTENTION where the disk is neither as before nor
    as planned.
    """
    record = sidecar.record
    pages = [Page.from_dict(row) for row in record["pages"]]
    there = _settled(file, pages, record)
    if there is None or (there and kind_of(sidecar) != LINK):
        # Done is done: somebody may have gone on with it. Recovery says so.
        raise attention(sidecar.disk, "what was written is not taken back")
    if there:
        write_straight(file, open_image(file).plan_recorded_link(record["link_before"]))
    return there


def recover(roots: Roots, sidecar: Sidecar, *, token: int) -> tuple[str, str]:
    """Finish or undo an interrupted rewrite; the caller holds the disk's lock.

    Returns (action, sentence): `finished` or `undone`. Raises E_NEEDS_ATTENTION, with
    everything untouched, when the disk is not what the sidecar says it may be.
    """
    path, record = sidecar.disk, sidecar.record
    try:
        pages = [Page.from_dict(row) for row in record["pages"]]
        before, after = int(record["size_before"]), int(record["size_after"])
        expected = FileIdentity.from_dict(record["file"])
        identity, keep_mtime = record["identity"], bool(record["keep_mtime"])
        visible = [(int(offset), int(length)) for offset, length in record.get("visible", ())]
        require_readable(record)
        if any(page.offset < 0 for page in pages) or "is_undo" not in record:
            raise ValueError("no record of a rewrite")
    except journal.UNREADABLE as error:
        raise attention(path, "its sidecar holds no record of the pages") from error
    try:
        file = roots.open(path, writable=True)
    except ImageError as error:
        raise attention(path, f"the disk cannot be opened ({error.message})") from error
    with file:
        if file.stat().st_ino != expected.inode:
            raise attention(path, "another file has its name now")
        if record.get("logged"):
            return _recover_logged(roots, replace(sidecar, token=token), file, pages)
        if after < before:  # what lies behind the new end is nobody's
            pages = [page.until(after) for page in pages]
        shortened = file.size_bytes == after < before
        if not (shortened or before <= file.size_bytes <= max(before, after)):
            raise attention(path, "its size is neither the old nor the planned one")
        known = as_found(file, pages)
        forward = _only_forward(file, pages, record, visible, shortened=shortened)
        only_forward = forward is not None
        if forward is not None:  # what earlier steps wrote may be in use by now
            pages = forward
        found = states(file, pages)
        if PageState.FOREIGN in found:
            raise attention(path, "somebody else has written to it since")
        opened = _opened(file)
        if opened is not None and opened.identity not in record.get("identities", [identity]):
            raise attention(path, "it has another identity now")
        untouched = all(state is PageState.OLD for state in found) and file.size_bytes == before
        if opened is None and untouched and not only_forward:
            raise attention(path, "it is as it was before the change, and yet cannot be read")
        record = record | {"pages": [page.as_dict() for page in known]}
        sidecar = replace(sidecar, token=token, record=record)
        about = kind_of(sidecar)
        with faults.stage(f"{about}.takeover"):
            journal.write(roots, sidecar)
        if only_forward:
            with faults.stage(f"{about}.forward"):
                put_forward(file, pages)
            opened = _opened(file)
            if opened is None:
                raise attention(path, "it cannot be read any more")
        complete = all(state is PageState.NEW for state in found) and file.size_bytes == after
        if opened is not None and (complete or only_forward):
            if keep_mtime:
                set_mtime(file, expected.mtime_ns)
            file.sync()
            with faults.stage(f"{about}.done"):
                finished(roots, sidecar, link_of(opened))
            return "finished", f"The interrupted {WORDS[about]} was completed."
        with faults.stage(f"{about}.rollback"):
            roll_back(roots, sidecar, file)
    return "undone", f"The interrupted {WORDS[about]} was taken back."


def _only_forward(
    file: ImageFile,
    pages: list[Page],
    record: dict[str, Any],
    visible: list[tuple[int, int]],
    *,
    shortened: bool,
) -> list[Page] | None:
    """What is to be put forward, of a change that is not taken back any more; else None."""
    if shortened:
        # The last step of all. But to cut a page is to write the rest of it once more.
        return pages if visible and _is_torn(file, pages) else []
    if record.get("entry_bytes"):
        return standing(file, pages, visible, int(record["entry_bytes"]))
    if file.size_bytes == int(record["size_after"]) and is_there(file, pages, visible):
        return [page for page in pages if page.step > int(record["visible_step"])]
    return None


def _is_torn(file: ImageFile, pages: list[Page]) -> bool:
    """Whether a crash garbled one of the pages; who changed it since leaves sound headers."""
    if PageState.TORN not in states(file, pages):
        return False
    opened = _opened(file)
    if opened is None or any(page.found for page in pages):
        return True
    try:
        opened.plan_repair()
    except ImageError:
        return False
    return True


def _judged(image: Image, pages: list[Page], record: dict[str, Any]) -> bool | None:
    """As judge(); a change of nothing but the identity is told by that alone."""
    if pages:
        return judge(image, pages)
    return bool(image.identity == record["identities"][-1])


def _settled(file: ImageFile, pages: list[Page], record: dict[str, Any]) -> bool | None:
    if pages:
        return settle(file, pages)
    image = open_image(file)
    if image.log_waits:
        image.replay_log()
    return _judged(open_image(file), pages, record)


def _recover_logged(
    roots: Roots, sidecar: Sidecar, file: ImageFile, pages: list[Page]
) -> tuple[str, str]:
    """As recover(), for a change that the disk's own log holds: replayed, or never begun."""
    path, about, record = sidecar.disk, kind_of(sidecar), sidecar.record
    try:
        image = open_image(file)
        there = _judged(image, pages, record)
    except ImageError as error:
        raise attention(path, f"the disk cannot be read ({error.message})") from error
    if there is None:
        raise attention(path, "somebody else has written to it since")
    if image.identity not in sidecar.record["identities"]:
        raise attention(path, "it has another identity now")
    with faults.stage(f"{about}.takeover"):
        journal.write(roots, sidecar)
    with faults.stage(f"{about}.settle"):
        _settled(file, pages, record)
        image = open_image(file)
        if not there:
            _cut_back(file, image, sidecar)
    with faults.stage(f"{about}.done"):
        if there:
            finished(roots, sidecar, link_of(image))
            return "finished", f"The interrupted {WORDS[about]} was completed."
        restore(roots, sidecar, sidecar.record.get("previous"))
    return "undone", f"The interrupted {WORDS[about]} had not begun; nothing was changed."


def _cut_back(file: ImageFile, image: Image, sidecar: Sidecar) -> None:
    """Take room away again that was reserved behind the file's end, if nothing refers to it.

    Whoever used the disk since may have put blocks there.
    """
    before, after = (int(sidecar.record[key]) for key in ("size_before", "size_after"))
    if before < file.stat().st_size <= after and image.end_of_use() <= before:
        put_back(file, [], before)


def attention(path: str, why: str) -> ImageError:
    return ImageError(
        "E_NEEDS_ATTENTION",
        f"{shown(path)} was left half changed by an interrupted operation, and {why}. Nothing "
        "was touched.",
        advice="Make a copy of the disk and of the sidecar beside it; the sidecar says in plain "
        "words what was being done and how to take it back by hand.",
        file=path,
    )


def _opened(file: ImageFile) -> Image | None:
    try:
        return open_image(file)
    except ImageError:
        return None
