"""A proven copy in a temporary file: what merge, compact and create have in common.

The new image grows in `.NAME.<job>-<token>.vdtmp` beside its final name. It is reserved
first, written, made durable, read again from the storage and compared (crash-safety §4).
Only then may it take a name; until then every other file is as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from disks.engine import faults
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, storage_error
from disks.engine.findings import Level
from disks.engine.formats import open_image
from disks.engine.images import DiskType
from disks.engine.new_image import NewImage, Target
from disks.engine.raw import RAW
from disks.engine.units import size_text
from disks.operations import durable, space
from disks.operations.content import ImageContent, PlainContent, View
from disks.operations.counting import Amount
from disks.operations.journal import Sidecar
from disks.operations.output_blocks import PIECE_BYTES
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.streaming import Streamed, Verdict, stream

_LONGEST_NAME_BYTES = 255
_JOB_CHARACTERS = re.compile(r"[^A-Za-z0-9_]+")


def recover(sidecar: Sidecar, roots: Roots) -> dict[str, Any]:
    """Finish or undo the job of a `.vdjob` sidecar: of the one that it points to, or its own.

    See `replacing.recover`. E_LOCKED while disks in another folder are in other hands.
    """
    from disks.operations import relocating, replacing, steps  # they stand on this module

    if sidecar.state == steps.ELSEWHERE:
        return steps.follow(sidecar, roots, recover)
    if sidecar.record.get("kind") in relocating.KINDS:
        return relocating.recover(sidecar, roots)
    return replacing.recover(sidecar, roots)


def job_name(job: str) -> str:
    """The job's name in locks and sidecars; a fresh one for the command line, which has none."""
    return job or f"cli-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"


def job_word(job: str) -> str:
    """A job's name as it stands in the names of temporary files and trash folders."""
    word = _JOB_CHARACTERS.sub("-", job).strip("-")[:40]
    return f"job-{word}" if word.isdigit() else word


def temp_name(name: str, job: str, token: int) -> str:
    """`.NAME.<job>-<token>.vdtmp`; a hash stands for a NAME that would be too long."""
    tail = f".{job}-{token}.vdtmp"
    if len(os.fsencode(name)) + len(tail) + 1 > _LONGEST_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}{tail}"


class Draft:
    """The temporary file of a new image. Gone at the end of `with`, unless it got its name.

    path is the final one, in whose folder the draft lies as temp_path. mode: the rights that
    it begins with; those of what is copied come with the name, never earlier.
    """

    def __init__(self, roots: Roots, path: str, *, job: str, token: int, mode: int = 0o600) -> None:
        self._roots, self._mode = roots, mode
        self.path = path
        self.folder, self.name = os.path.split(path)
        self.temp_path = os.path.join(self.folder, temp_name(self.name, job_word(job), token))
        self._file: ImageFile | None = None
        self._ours = True

    def __enter__(self) -> Draft:
        with in_words(self.temp_path, "create"):
            faults.reached("create", self.temp_path)
        self._file = self._roots.open(self.temp_path, create=True, mode=self._mode)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self._ours:
            with contextlib.suppress(ImageError):  # `recover` sweeps what stays behind
                durable.unlink(self._roots, self.temp_path, missing_ok=True)

    @property
    def file(self) -> ImageFile:
        assert self._file is not None, "used outside of its with block"  # noqa: S101
        return self._file

    def set_mode(self, mode: int) -> None:
        """Who may use the file, once it has its name; only permission bits count."""
        with in_words(self.temp_path, "chmod"):
            faults.reached("chmod", self.temp_path)
            os.fchmod(self.file.fd, mode & 0o777)

    def space(self) -> space.Space:
        """The room on the file system that the draft lies on."""
        folder = self._roots.open_folder(self.folder)
        try:
            with in_words(self.folder, "statvfs"):
                return space.space_of(folder)
        finally:
            os.close(folder)

    def reopened(self) -> ImageFile:
        """The same file through a descriptor of its own, for reading."""
        return self._roots.open(self.temp_path)

    def handed_over(self) -> None:
        """From here the temporary file belongs to a sidecar, which finishes or removes it."""
        self._ours = False

    def publish(self) -> None:
        """Give the file its name. Raises E_EXISTS if somebody took it meanwhile."""
        durable.rename(self._roots, self.temp_path, self.path, replace=False)
        self._ours = False


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy came to. seconds are wall time; the proof is not part of copy_seconds."""

    streamed: Streamed
    size_bytes: int
    copy_seconds: float
    proof_seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "file_size_after_bytes": self.size_bytes,
            "bytes_written": self.streamed.stored_bytes,
            "blocks_written": self.streamed.blocks,
            "blocks_left_out": self.streamed.zero_blocks,
            "seconds": round(self.copy_seconds + self.proof_seconds, 3),
            "copy_seconds": round(self.copy_seconds, 3),
            "proof_seconds": round(self.proof_seconds, 3),
            "content_sha256": None,
            "proof": self.streamed.digest,
        }


def unit_bytes(new: NewImage) -> int:
    """The block size that a copy into this image works in; see streaming.PIECE_BYTES."""
    if new.disk_type is DiskType.FIXED:
        return PIECE_BYTES
    return min(new.block_size_bytes, PIECE_BYTES)


def copy(
    view: View,
    draft: Draft,
    target: Target,
    new: NewImage,
    expected: Amount,
    *,
    keep: Verdict | None = None,
    complete: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Copied:
    """Write the view into the draft, make it durable, and prove it by reading it again.

    expected is what `counting.count` said for unit_bytes(new): blocks is the upper bound
    that space is reserved for. complete is called between writing and proof.

    Raises E_NOSPC before the first byte when that does not fit beside the reserve, and
    E_PROOF when the new file does not read as it was written.
    """
    progress = progress or Progress()
    file = draft.file
    file.pass_once()
    predicted = target.predicted_size_bytes(new, expected.blocks)
    short = space.shortage(predicted, draft.space(), draft.path)
    if short is not None:
        raise short
    progress.step("copy", f"Copying {size_text(expected.held_bytes)} into {draft.name}")
    started = time.monotonic()
    writer = target.writer(file, new, blocks=expected.blocks)
    streamed = stream(
        view,
        unit_bytes(new),
        holding=target.holding(new),
        writer=writer,
        keep=keep,
        progress=progress,
        expected=expected,
    )
    writer.finish()
    if complete is not None:
        complete()
    copied = time.monotonic()
    progress.step("proof", f"Reading {draft.name} again from the storage")
    prove(draft, target, new, streamed, progress)
    proven = time.monotonic()
    size = file.stat().st_size
    return Copied(streamed, size, copied - started, proven - copied)


def prove(
    draft: Draft, target: Target, new: NewImage, written: Streamed, progress: Progress
) -> None:
    """Read the new file from the storage, not from memory, and compare with what was sent.

    Raises E_PROOF with what differs.
    """
    with draft.reopened() as file:
        file.pass_once()
        again = stream(
            _as_written(draft, target, new, file),
            unit_bytes(new),
            holding=target.holding(new),
            progress=progress,
            expected=Amount(written.blocks, written.kept_bytes),
            verb="proving",
        )
    if again.digest != written.digest:
        raise unproven(draft, "its content differs")


def _as_written(draft: Draft, target: Target, new: NewImage, file: ImageFile) -> View:
    """The new file opened as anybody would. E_PROOF if it is not what was asked for."""
    if target is RAW:
        if file.size_bytes != new.virtual_size_bytes:
            raise unproven(draft, f"it has {file.size_bytes:,} bytes")
        return PlainContent(file)
    for finding in check_image(file):
        if finding.level is Level.ERROR:
            raise unproven(draft, f"its structure is damaged: {finding.message}")
    image = open_image(file)
    if image.virtual_size_bytes != new.virtual_size_bytes or (
        new.identity is not None and image.identity != new.identity
    ):
        raise unproven(draft, "its header is not the one that was written")
    return ImageContent(image)


def unproven(draft: Draft, what: str) -> ImageError:
    return ImageError(
        "E_PROOF",
        f"The new {draft.name} was read again and is not what was written: {what}. "
        "It was thrown away, and nothing was replaced. The storage may be failing.",
        file=draft.path,
    )


@contextlib.contextmanager
def in_words(path: str, verb: str) -> Iterator[None]:
    """Turn an OSError on the way into an ImageError about path."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path, verb=verb) from error
