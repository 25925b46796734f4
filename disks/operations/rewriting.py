"""A header rewrite that a crash cannot leave half done (crash-safety §1).

The sidecar with every page before and after is durable before the first byte changes.
An error puts the old pages back at once; a crash leaves the sidecar, and recovery does.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from disks.engine import faults
from disks.engine.changes import Fill, HeaderRewrite, Write
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, ImageFile, storage_error
from disks.engine.findings import Finding, Level
from disks.engine.formats import by_name, open_image
from disks.engine.images import DiskType, Image
from disks.operations import filling, fingerprints, journal
from disks.operations.journal import DONE, UNDO, Sidecar
from disks.operations.pages import (
    Page,
    PageState,
    as_found,
    changed_writes,
    is_there,
    put_back,
    put_forward,
    standing,
    states,
)
from disks.operations.paths import Roots
from disks.operations.progress import Lost, Progress
from disks.operations.rollback import quietly
from disks.operations.settling import judge, settle
from disks.operations.windows import shown

PREPARED = "prepared"
RECENT_SECONDS = 300
_MOST_EARLIER = 8

# What a change is about; the prefix of its fault points, and a word of its sidecar.
LINK = "relink"
REPAIR = "repair"
EXPAND = "expand"
MAKE_ROOM = "make-room"
COMPACT = "compact"
IDENTITY = "identity"
FACE = "face"
_WORDS = {
    LINK: "change of its parent link",
    REPAIR: "repair of its headers",
    EXPAND: "expansion",
    MAKE_ROOM: "move of blocks that makes room for its expansion",
    COMPACT: "step of its compaction",
    IDENTITY: "change of its identity, or of the one that it knows its parent by",
    FACE: "change of its identity at the end of a merge",
}

_LINK_HELP = """\
The header of the disk {disk} was being changed by vdadmin when this was written, or the
change is done and this is kept so that it can be taken back.

With vdadmin:  manage.py disk recover FOLDER        (if the change was interrupted)
               manage.py disk undo-update DISK      (if it is done, to take it back)

"""
_REPAIR_HELP = """\
The headers of the disk {disk} were being repaired by vdadmin when this was written.

With vdadmin:  manage.py disk recover FOLDER

"""
_LOGGED_HELP = """\
Without it: the change goes through the disk's own log. Whoever opens the disk for writing next,
Windows for example, finds it done or not begun; nothing has to be put back.
"""
_EXPAND_HELP = """\
The disk {disk} was being made larger by vdadmin when this was written.

With vdadmin:  manage.py disk recover FOLDER

"""
_MAKE_ROOM_HELP = """\
Blocks of the disk {disk} were being moved by vdadmin when this was written, to make room for
an expansion. Its size and content are the same before and after that.

With vdadmin:  manage.py disk recover FOLDER

"""
_COMPACT_HELP = """\
The disk {disk} was being compacted in place by vdadmin when this was written. Its content is
the same before and after every step of that, and it may be compacted again at any time.

With vdadmin:  manage.py disk recover FOLDER

"""
_MERGE_HELP = """\
What the disk {disk} says about itself, or about the identity of its parent, was being changed
by vdadmin when this was written: a step of a merge in place.

With vdadmin:  manage.py disk recover FOLDER

"""
_HELP = {
    IDENTITY: _MERGE_HELP,
    FACE: _MERGE_HELP,
    LINK: _LINK_HELP,
    REPAIR: _REPAIR_HELP,
    EXPAND: _EXPAND_HELP,
    MAKE_ROOM: _MAKE_ROOM_HELP,
    COMPACT: _COMPACT_HELP,
}
_BY_HAND = """\
Without it, only while "state" below is "prepared", with the disk closed everywhere: every
entry of "x_pages" holds, in base64, what stood at "offset" before ("old"). Put it back, then
cut the file to "x_size_before" bytes. With Python, in this folder (SIDECAR is this file):

  python3 -c "import base64,json,sys; t=open(sys.argv[1],'rb').read(); \
r=json.loads(t[t.rindex(b'\\n'+bytes([123]))+1:]); d=open(r['name'],'r+b'); \
[(d.seek(p['offset']),d.write(base64.b64decode(p['old']))) for p in r['x_pages']]; \
d.truncate(r['x_size_before'])" SIDECAR
"""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to one header.

    build       the rewrite, computed on the freshly opened image
    check       called after the writes with the reopened image; raising undoes everything
    about       LINK; with any other the link stays, and nothing is kept to take it back with
    keep_mtime  put the modification time back: a child stores exactly that one
    is_undo     the change takes an earlier one back
    neighbours  other disks that this concerns
    progress    told while room is filled; Cancelled out of it takes everything back
    """

    build: Callable[[Image], HeaderRewrite]
    check: Callable[[Image], None]
    about: str = LINK
    keep_mtime: bool = False
    is_undo: bool = False
    neighbours: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Progress)


def rewrite(
    roots: Roots,
    path: str,
    change: Change,
    *,
    expected: FileIdentity,
    job: str = "",
    token: int = 0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change the header of a disk that the caller has locked; returns both recorded links.

    expected: the file as it was when the plan was checked. On any error the file is put
    back as it was and the error raised; if even that fails, the sidecar stays for recovery.
    """
    previous = _previous(roots, path)
    with roots.open(path, writable=True) as file:
        if file.identity() != expected:
            raise fingerprints.changed(path)
        image = open_image(file)
        before = _link_of(image)
        planned = change.build(image)
        steps, pages = changed_writes(file, planned)
        if not steps and planned.size_after_bytes >= file.size_bytes:
            return before, before
        logged = planned.logged_step is not None
        if logged:
            pages = [page for page in pages if page.step == planned.logged_step]
        sidecar = Sidecar(
            UNDO,
            path,
            PREPARED,
            job=job,
            token=token or (previous.token + 1 if previous else 1),
            neighbours=change.neighbours,
            help=_help(path, change.about, logged=logged),
            record={
                "about": change.about,
                "pages": [page.as_dict() for page in pages],
                "size_before": file.size_bytes,
                "size_after": planned.size_after_bytes,
                "logged": logged,
                "file": expected.as_dict(),
                "identity": image.identity,
                "identities": [image.identity, planned.identity_after or image.identity],
                "keep_mtime": change.keep_mtime,
                "is_undo": change.is_undo,
                "visible_step": planned.visible_step,
                "visible": _visible(planned),
                "entry_bytes": planned.entry_bytes,
                "link_before": before,
                "link_after": None,
                "previous": _without_pages(previous),
            },
        )
        with faults.stage(f"{change.about}.sidecar"):
            journal.write(roots, sidecar)
        try:
            with faults.stage(f"{change.about}.header"):
                write_steps(file, steps, planned.size_after_bytes, change.progress)
                if planned.size_after_bytes < file.size_bytes:
                    file.truncate(planned.size_after_bytes)
                    file.sync()
            after = _check(roots, path, change)
            if change.keep_mtime:
                set_mtime(file, expected.mtime_ns)
        except Lost:
            raise  # whose it is now finds the sidecar
        except BaseException as error:
            with faults.stage(f"{change.about}.rollback"):
                # Killed here, recovery does the same.
                taken_back = quietly(lambda: roll_back(roots, sidecar, file), path)
            if isinstance(error, Unverified):
                raise error.with_outcome(taken_back=taken_back, logged=logged) from error
            raise
    with faults.stage(f"{change.about}.done"):
        finished(roots, sidecar, after)
    return before, after


def write_steps(
    file: ImageFile,
    steps: Sequence[Sequence[Write | Fill]],
    size_after_bytes: int,
    progress: Progress,
) -> None:
    """Each step is durable before the next begins, each copy read again.

    All room that the file grows by is durable with the first step, after whose writes it is
    reserved: a VHD's begin with a footer at the new end, so that every prefix ends with one.
    Until the last room is there and filled it can be cancelled; then it only takes a moment.
    """
    grown_from = file.size_bytes
    last_room = 0 if size_after_bytes > grown_from else -1
    for number, step in enumerate(steps):
        if any(isinstance(piece, Fill) for piece in step):
            last_room = number
    for number, step in enumerate(steps):
        if number == last_room + 1:
            progress.commit_starts()
        rooms = [piece for piece in step if isinstance(piece, Fill)]
        filling.fill(file, rooms, progress)
        for piece in step:
            if isinstance(piece, Write):
                file.write_at(piece.offset, piece.data)
        if number == 0 and size_after_bytes > grown_from:
            filling.reserve(file, grown_from, size_after_bytes, progress)
        file.sync()
        began = time.monotonic()
        filling.require_filled(file, rooms)
        progress.proved(time.monotonic() - began)


def write_straight(file: ImageFile, planned: HeaderRewrite) -> None:
    """All of a change, of a file that needs no old bytes kept: nobody knows it yet, say."""
    write_steps(file, changed_writes(file, planned)[0], planned.size_after_bytes, Progress())


def _visible(planned: HeaderRewrite) -> list[tuple[int, int]]:
    """Where the step writes that makes the change visible: (offset, length) within one page."""
    if planned.visible_step is None:
        return []
    step = planned.steps[planned.visible_step]
    return [(piece.offset, len(piece.data)) for piece in step if isinstance(piece, Write)]


def finished(roots: Roots, sidecar: Sidecar, link_after: dict[str, Any]) -> None:
    """The header is as planned and checked: keep what an undo needs, forget the pages.

    After an undo the record of the update before the undone one comes back, if that is
    what made the link as it is again; else nothing is left to take back. After any other
    change the record of the last update comes back as it was: the link has not changed.
    """
    if _about(sidecar) != LINK:
        _restore(roots, sidecar, sidecar.record.get("previous"))
        return
    if not sidecar.record["is_undo"]:
        record = sidecar.record | {"link_after": link_after, "pages": []}
        journal.write(roots, replace(sidecar, state=DONE, record=record))
        return
    undone = sidecar.record.get("previous")
    earlier = undone["record"].get("previous") if undone else None
    if earlier and same_link(earlier["record"].get("link_after"), link_after):
        record = earlier["record"] | {"link_after": link_after}
        _restore(roots, sidecar, earlier | {"record": record})
    else:
        journal.remove(roots, sidecar)


def roll_back(roots: Roots, sidecar: Sidecar, file: ImageFile) -> None:
    """Old pages, old size, old modification time; then the record before this one.

    What went through the disk's own log is taken back by a second such change, and only by the
    process that made the first: raw bytes of headers are never put back, sequence numbers only
    grow.
    """
    record = sidecar.record
    if file.stat().st_size == int(record["size_after"]) < int(record["size_before"]):
        _restore(roots, sidecar, record.get("previous"))  # cut off is cut off, and whole
        return
    if record.get("logged"):
        if not _take_back(file, sidecar):
            put_back(file, [], int(record["size_before"]))  # room that nothing refers to yet
        _restore(roots, sidecar, record.get("previous"))
        return
    put_back(file, [Page.from_dict(row) for row in record["pages"]], int(record["size_before"]))
    set_mtime(file, int(record["file"]["mtime_ns"]))
    _restore(roots, sidecar, record.get("previous"))


def _take_back(file: ImageFile, sidecar: Sidecar) -> bool:
    """Whatever of a logged change is there goes through the log again, back to the old link.

    False: nothing of it was there. E_NEEDS_ATTENTION where the disk is neither as before nor
    as planned.
    """
    record = sidecar.record
    pages = [Page.from_dict(row) for row in record["pages"]]
    there = _settled(file, pages, record)
    if there is None or (there and _about(sidecar) != LINK):
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
        about = _about(sidecar)
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
                finished(roots, sidecar, _link_of(opened))
            return "finished", f"The interrupted {_WORDS[about]} was completed."
        with faults.stage(f"{about}.rollback"):
            roll_back(roots, sidecar, file)
    return "undone", f"The interrupted {_WORDS[about]} was taken back."


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
    path, about, record = sidecar.disk, _about(sidecar), sidecar.record
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
            finished(roots, sidecar, _link_of(image))
            return "finished", f"The interrupted {_WORDS[about]} was completed."
        _restore(roots, sidecar, sidecar.record.get("previous"))
    return "undone", f"The interrupted {_WORDS[about]} had not begun; nothing was changed."


def _cut_back(file: ImageFile, image: Image, sidecar: Sidecar) -> None:
    """Take room away again that was reserved behind the file's end, if nothing refers to it.

    Whoever used the disk since may have put blocks there.
    """
    before, after = (int(sidecar.record[key]) for key in ("size_before", "size_after"))
    if before < file.stat().st_size <= after and image.end_of_use() <= before:
        put_back(file, [], before)


def require_one_name(file: ImageFile) -> None:
    """E_HARD_LINKS: what is written in place changes under every name of the file."""
    links = file.stat().st_nlink
    if links > 1:
        raise ImageError(
            "E_HARD_LINKS",
            f"{shown(file.path)} has {links} names (hard links). Its header is not changed, "
            "because it would change under the other name too. Make a copy of its own first.",
            file=file.path,
            field="links",
            value=links,
        )


def recent_write(file: ImageFile) -> Iterator[Finding]:
    """A warning where the disk was written a moment ago: perhaps a machine runs on it."""
    seconds = time.time() - file.stat().st_mtime
    if 0 <= seconds < RECENT_SECONDS:
        number, unit = (seconds, "second") if seconds < 120 else (seconds / 60, "minute")
        words = f"{int(number)} {unit}{'' if int(number) == 1 else 's'}"
        yield Finding(
            Level.WARNING,
            "W_RECENT_WRITE",
            f"The disk was written {words} ago. Make sure that nobody has it open.",
            "mtime",
            None,
            int(seconds),
        )


def is_recorded(mtime_ns: int, timestamps: Iterable[datetime | None]) -> bool:
    """Whether one of the times that children store is exactly this modification time."""
    seconds = mtime_ns // 1_000_000_000
    return any(when is not None and int(when.timestamp()) == seconds for when in timestamps)


def fingerprint(file: ImageFile, image: Image, rest: Iterable[Any]) -> str:
    """Of the file as it is (crash-safety R6), its metadata, and what shall be written."""
    header = by_name(image.format_name).header_bytes(file)
    known = [file.identity().as_dict(), hashlib.sha256(header).hexdigest(), *map(repr, rest)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


class Unverified(ImageError):
    """E_VERIFY, raised by the check of a change; rewrite() adds what became of the change."""

    def with_outcome(self, *, taken_back: bool, logged: bool) -> ImageError:
        if taken_back:
            outcome = "The change was taken back."
        elif logged:
            outcome = (
                "The change went through the disk's own log, and is there: recovery completes "
                "it and does not take it back. Check the disk before anybody uses it."
            )
        else:
            outcome = "It could not be taken back; recovery does that."
        return ImageError(self.code, f"{self.message} {outcome}", file=self.file)


def unverified(path: str, why: str) -> Unverified:
    return Unverified(
        "E_VERIFY", f"After the change {shown(path)} was opened again, and {why}.", file=path
    )


def same_link(one: Any, other: Any) -> bool:
    """Whether two recorded links say the same, wherever in the file their strings lie."""
    return bool(one) and _without_places(one) == _without_places(other)


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key for key in value if not key.endswith(("_offset", "_space"))}
        return {key: _without_places(value[key]) for key in kept}
    if isinstance(value, list):
        return [_without_places(one) for one in value]
    return value


def set_mtime(file: ImageFile, mtime_ns: int) -> None:
    """Durably; the access time becomes now."""
    now = os.stat(file.fd).st_atime_ns
    try:
        faults.reached("utime", file.path)
        os.utime(file.fd, ns=(now, mtime_ns))
    except OSError as error:
        raise storage_error(error, file.path, verb="utime") from error
    file.sync()


def attention(path: str, why: str) -> ImageError:
    return ImageError(
        "E_NEEDS_ATTENTION",
        f"{shown(path)} was left half changed by an interrupted operation, and {why}. Nothing "
        "was touched. Make a copy of the disk and of the sidecar beside it; the sidecar says "
        "in plain words what was being done and how to take it back by hand.",
        file=path,
    )


def _check(roots: Roots, path: str, change: Change) -> dict[str, Any]:
    """Open the disk again as anybody would, and let the caller judge it."""
    with roots.open(path) as file:
        image = open_image(file)
        change.check(image)
        return _link_of(image)


def _link_of(image: Image) -> dict[str, Any]:
    """The recorded link; nothing for a disk that has none."""
    return image.recorded_link() if image.disk_type is DiskType.DIFFERENCING else {}


def _about(sidecar: Sidecar) -> str:
    about = sidecar.record.get("about")
    return about if about in _WORDS else LINK


def _help(path: str, about: str, *, logged: bool) -> str:
    """The sidecar's plain text."""
    text = _HELP[about] + (_LOGGED_HELP if logged else _BY_HAND)
    return text.format(disk=shown(os.path.basename(path)))


def _opened(file: ImageFile) -> Image | None:
    try:
        return open_image(file)
    except ImageError:
        return None


def _previous(roots: Roots, path: str) -> Sidecar | None:
    found = journal.of(roots, path, UNDO)
    return found if found is not None and not found.unfinished else None


def _without_pages(sidecar: Sidecar | None) -> dict[str, Any] | None:
    """An earlier, finished record inside the next one; the oldest of many are forgotten."""
    if sidecar is None:
        return None
    record = {**sidecar.record, "pages": []}
    level = record
    for _ in range(_MOST_EARLIER):
        if not level.get("previous"):
            break
        level = level["previous"]["record"]
    level["previous"] = None
    return {"job": sidecar.job, "token": sidecar.token, "record": record}


def _restore(roots: Roots, sidecar: Sidecar, previous: dict[str, Any] | None) -> None:
    if previous is None:
        journal.remove(roots, sidecar)
        return
    journal.write(
        roots,
        replace(
            sidecar,
            state=DONE,
            help=_help(sidecar.disk, LINK, logged=bool(previous["record"].get("logged"))),
            job=str(previous["job"]),
            token=int(previous["token"]),
            record=previous["record"],
        ),
    )
