"""What a plan saw of a file, and whether the file is still that one."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, ImageFile
from disks.engine.formats import by_name, identify
from disks.engine.images import Image
from disks.operations.paths import Roots
from disks.operations.windows import shown


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which file this is, and what its metadata says (crash-safety R6).

    header  "" for a plain image, which has none
    """

    file: FileIdentity
    header: str

    @classmethod
    def of(cls, file: ImageFile) -> Fingerprint:
        header = identify(file).header_bytes(file)
        return cls(file.identity(), hashlib.sha256(header).hexdigest())

    @classmethod
    def of_plain(cls, file: ImageFile) -> Fingerprint:
        return cls(file.identity(), "")

    def as_dict(self) -> dict[str, Any]:
        return {"file": self.file.as_dict(), "header": self.header}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Fingerprint:
        return cls(FileIdentity.from_dict(row["file"]), str(row["header"]))


def changed(path: str, what: str = "was changed") -> ImageError:
    """E_CHANGED: a file is not what the plan saw, so nothing is done to it.

    what: the middle of a sentence, like "got another header".
    """
    return ImageError(
        "E_CHANGED",
        f"{shown(path)} {what} since the plan was made. Nothing was changed.",
        file=path,
    )


def require_unchanged(roots: Roots, path: str, seen: Fingerprint) -> None:
    """Raises E_CHANGED if the file of this name is not the one that was seen, as it was."""
    with _still_there(roots, path) as file:
        now = Fingerprint.of(file) if seen.header else Fingerprint.of_plain(file)
    _compare(path, now.file, seen.file)
    if now.header != seen.header:
        raise changed(path, "got another header")


def require_same_file(roots: Roots, path: str, seen: FileIdentity) -> None:
    """The same by the file alone, for whoever reads and compares its headers, too."""
    with _still_there(roots, path) as file:
        now = file.identity()
    _compare(path, now, seen)


@contextlib.contextmanager
def _still_there(roots: Roots, path: str) -> Iterator[ImageFile]:
    try:
        with roots.open(path) as file:
            yield file
    except ImageError as error:
        raise changed(path, f"can no longer be read ({error.code})") from error


def _compare(path: str, now: FileIdentity, seen: FileIdentity) -> None:
    if (now.device, now.inode) != (seen.device, seen.inode):
        raise changed(path, "was replaced by another file")
    if now.size_bytes != seen.size_bytes:
        raise changed(path, "got another size")
    if now != seen:
        raise changed(path, "was written, or its rights were changed,")


def of_plan(file: ImageFile, image: Image, rest: Iterable[Any]) -> str:
    """Of the file as it is (crash-safety R6), its metadata, and what shall be written."""
    header = by_name(image.format_name).header_bytes(file)
    known = [file.identity().as_dict(), hashlib.sha256(header).hexdigest(), *map(repr, rest)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
