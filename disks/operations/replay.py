"""Writing what waits in a disk's own log into its place.

The log is the journal: there is no sidecar. Interrupted anywhere, the disk still names its log,
reads as before, and is replayed from the beginning by the next attempt (or by Windows).
"""

from __future__ import annotations

import hashlib

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations import fingerprints, modification_times
from disks.operations.mending import Intent, Mend, Writing
from disks.operations.windows import shown


def _intend(image: Image) -> Intent:
    """Raises E_NOTHING_TO_REPLAY, E_VHDX_HEADER."""
    found = image.plan_replay()
    return Intent(
        found.changes,
        found.size_after_bytes,
        {
            "log_entries": found.entries,
            "log_updates": found.updates,
            "bytes_written": found.bytes_written,
        },
    )


def _fingerprint(file: ImageFile, image: Image, intent: Intent) -> str:
    """Of which file it is and what waits in its log: an interrupted replay is the same plan."""
    status = file.stat()
    known = f"{status.st_dev} {status.st_ino} {image.plan_replay().key}"
    return hashlib.sha256(known.encode()).hexdigest()


def _write(writing: Writing) -> None:
    path = writing.plan.path
    with writing.roots.open(path, writable=True) as file:
        if file.identity() != writing.plan.file:
            raise fingerprints.changed(path)
        with faults.stage("replay"):
            open_image(file).replay_log()
            if writing.keep_mtime:
                modification_times.set_mtime(file, writing.plan.file.mtime_ns)
    with writing.roots.open(path) as file:
        why = writing.wrong(open_image(file))
    if why:
        raise ImageError(
            "E_REPLAY",
            f"The log of {shown(path)} was replayed, and the disk does not read afterwards as it "
            f"did before: {why}.",
            file=path,
            field="log",
        )


REPLAY = Mend(
    step="replay",
    doing="replaying the log of",
    nothing="E_NOTHING_TO_REPLAY",
    intend=_intend,
    fingerprint=_fingerprint,
    write=_write,
)
