"""A small world for engine tests: places to look for parents, and a watched examination."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from disks.engine import formats
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, storage_error
from disks.engine.findings import Finding
from disks.engine.images import Image


def open_file(path: Path | str, *, writable: bool = False) -> ImageFile:
    flags = os.O_RDWR if writable else os.O_RDONLY
    return ImageFile(os.open(path, flags), str(path), writable=writable)


def create_file(path: Path | str) -> ImageFile:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    return ImageFile(fd, str(path), writable=True)


@dataclass
class World:
    """Implements `Places` below one folder; windows maps `C:\\VMs` to a folder's path."""

    root: Path
    windows: Mapping[str, str] = field(default_factory=dict)
    identities: Mapping[str, list[str]] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def open(self, path: str) -> ImageFile:
        normal = os.path.normpath(path)
        if not normal.startswith(f"{self.root}/"):
            raise ImageError("E_OUTSIDE_ROOTS", f"{path} is outside.", file=path)
        self.opened.append(normal)
        if os.path.isdir(normal):
            raise ImageError("E_NOT_A_FILE", f"{path} is a folder.", file=path)
        try:
            return open_file(normal)
        except OSError as error:
            raise storage_error(error, path) from error

    def beside(self, child_path: str, text: str) -> str:
        if "\0" in text or ":" in text or text.startswith("{"):
            raise ImageError("E_NAME", f"{text} is no name.", file=child_path)
        path = os.path.normpath(os.path.join(os.path.dirname(child_path), text.replace("\\", "/")))
        if not path.startswith(f"{self.root}/"):
            raise ImageError("E_OUTSIDE_ROOTS", f"{text} leads outside.", file=child_path)
        return path

    def from_windows(self, text: str) -> list[str]:
        found = []
        for view, folder in self.windows.items():
            if text.lower().startswith(view.lower() + "\\"):
                found.append(folder + text[len(view) :].replace("\\", "/"))
        return found

    def find_identity(self, identity: str) -> list[str]:
        return self.identities.get(identity, [])


class CountingFile(ImageFile):
    """Counts what is read."""

    bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        data = super().read_at(offset, length)
        self.bytes_read += len(data)
        return data


@dataclass
class Examination:
    """What opening and checking a file gave."""

    error: ImageError | None
    image: Image | None
    findings: list[Finding]

    @property
    def code(self) -> str | None:
        return self.error.code if self.error is not None else None

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in self.findings}

    @property
    def errors(self) -> set[str]:
        return {finding.code for finding in self.findings if finding.level == "error"}

    def finding(self, code: str) -> Finding:
        return next(finding for finding in self.findings if finding.code == code)


PIECE_BYTES = 64 * 1024  # larger ones take fresh memory each time


def digest(path: Path | str) -> str | None:
    """A hash of a file's bytes; None for large ones, which are sparse and of no interest."""
    if os.path.getsize(path) > 64 * 1024 * 1024:
        return None
    found = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()


def examine(path: Path | str, *, deep: bool = True) -> Examination:
    """Open and check a file within the bounds that hold for every bad input.

    Only typed errors; at most 2 seconds of CPU and 64 MiB read; the file stays as it is.
    """
    before = digest(path)
    started = time.process_time()
    file = CountingFile(os.open(path, os.O_RDONLY), str(path))
    error: ImageError | None = None
    image: Image | None = None
    try:
        image = formats.open_image(file)
        image.blocks_allocated()
        _ = image.parent
        image.properties()
        image.raw_regions()
    except ImageError as failure:
        error = failure
    findings = check_image(file, deep=deep)
    if error is not None and image is None:
        assert error.file == str(path)
    assert time.process_time() - started < 2
    assert file.bytes_read <= 64 * 1024 * 1024
    if image is None:
        file.close()
    assert digest(path) == before
    return Examination(error, image, findings)
