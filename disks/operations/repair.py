"""Putting the sound copy of a disk's header in place of the damaged one.

Written by the same journalled rewrite as a parent link: a crash leaves the header as it
was or repaired, never half. The content is not touched and the file never cut.
"""

from __future__ import annotations

from disks.engine.files import ImageFile
from disks.engine.images import Image
from disks.operations import fingerprints, rewriting
from disks.operations.mending import Intent, Mend, Writing
from disks.operations.rewriting import kinds


def _intend(image: Image) -> Intent:
    """Raises E_NOTHING_TO_REPAIR, E_FOOTERS_DIFFER, E_TRUNCATED, and the write refusal."""
    rewrite = image.plan_repair()
    return Intent(rewrite.changes, rewrite.size_after_bytes)


def _fingerprint(file: ImageFile, image: Image, intent: Intent) -> str:
    return fingerprints.of_plan(file, image, [intent.changes, intent.size_after_bytes])


def _write(writing: Writing) -> None:
    def check(image: Image) -> None:
        if why := writing.wrong(image):
            raise rewriting.unverified(writing.plan.path, why)

    rewriting.rewrite(
        writing.roots,
        writing.plan.path,
        rewriting.Change(
            build=lambda image: image.plan_repair(),
            check=check,
            about=kinds.REPAIR,
            keep_mtime=writing.keep_mtime,
        ),
        expected=writing.plan.file,
        job=writing.job,
        token=writing.token,
    )


REPAIR = Mend(
    step="repair",
    doing="repairing the headers of",
    nothing="E_NOTHING_TO_REPAIR",
    intend=_intend,
    fingerprint=_fingerprint,
    write=_write,
)
