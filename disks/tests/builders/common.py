"""What the builders of every format share: a built image, its model, and 7-Zip as a judge."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
MIB = 1024 * 1024

Content = Iterable[tuple[int, bytes]]
"""Pieces of a virtual disk: first sector (of 512 bytes, in every format), data; later ones win."""


class SparseModel:
    """A `bytearray` of gigabytes, as far as builders and tests use one: slices, length."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: dict[int, bytes] = {}  # sector -> its 512 bytes

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(self.size)
        first, last = start // SECTOR, -(-stop // SECTOR)
        zeros = bytes(SECTOR)
        whole = b"".join(self.held.get(sector, zeros) for sector in range(first, last))
        return whole[start - first * SECTOR : stop - first * SECTOR]

    def __setitem__(self, place: slice, data: bytes) -> None:
        start, stop, _ = place.indices(self.size)
        if start % SECTOR or len(data) % SECTOR or stop - start != len(data):
            raise ValueError("a sparse model takes whole sectors")
        for index in range(0, len(data), SECTOR):
            self.held[(start + index) // SECTOR] = bytes(data[index : index + SECTOR])

    def copy(self) -> SparseModel:
        other = SparseModel(self.size)
        other.held = dict(self.held)
        return other


Model = bytearray | SparseModel


def new_model(size: int) -> Model:
    """Zeros; a sparse model where the bytes themselves would be a burden."""
    return bytearray(size) if size <= 1024 * MIB else SparseModel(size)


def resized(model: Model, size: int) -> Model:
    """A copy as a child of that size sees it: cut off, or zeros behind its end."""
    if isinstance(model, SparseModel) or size > 1024 * MIB:
        other = SparseModel(size)
        if isinstance(model, SparseModel):
            other.held = {at: data for at, data in model.held.items() if at * SECTOR < size}
        else:
            end = min(size, len(model))
            other[0:end] = bytes(model[:end])
        return other
    return bytearray(model[:size]) + bytearray(max(0, size - len(model)))


@dataclass
class Built:
    """A built image, where its parts lie, and what it must read as."""

    path: Path
    unique_id: bytes  # what children refer to, as stored
    model: bytearray = field(repr=False)
    block_size: int = 0
    table_offset: int = 0
    blocks: dict[int, int] = field(default_factory=dict)  # block -> offset (VHD: of its bitmap)

    @property
    def identity(self) -> str:
        return str(uuid.UUID(bytes=self.unique_id))

    @property
    def sectors(self) -> int:
        return len(self.model) // SECTOR

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model).hexdigest()

    def __fspath__(self) -> str:
        return str(self.path)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer at its end."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def patch(self, offset: int, data: bytes) -> None:
        """Overwrite bytes of the file."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)


def runs(marked: bytearray) -> list[tuple[int, int]]:
    """The runs of ones, as (first, end)."""
    found = []
    first = marked.find(1)
    while first >= 0:
        end = marked.find(0, first)
        end = len(marked) if end < 0 else end
        found.append((first, end))
        first = marked.find(1, end)
    return found


def write_sparse(path: Path, pieces: Iterable[tuple[int, bytes]], end: int) -> None:
    """Pieces that do not overlap; zeros around what they hold stay holes."""
    with path.open("wb") as file:
        os.truncate(path, end)
        for offset, data in pieces:
            kept = data.lstrip(b"\0")
            file.seek(offset + len(data) - len(kept))
            file.write(kept.rstrip(b"\0"))


def up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def seven_zip() -> str | None:
    """The 7-Zip on this machine, if any."""
    return shutil.which("7zz") or shutil.which("7z")


def seven_zip_pieces(path: os.PathLike[str] | str) -> Iterator[bytes]:
    """The virtual content as 7-Zip reads it (parents lie beside the child)."""
    program = seven_zip()
    if program is None:
        raise FileNotFoundError("7-Zip is not installed")
    with Path(path).open("rb") as file:
        kind = "VHDX" if file.read(8) == b"vhdxfile" else "VHD"
    with subprocess.Popen(
        [program, "x", f"-t{kind}", "-so", "--", os.fspath(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        while piece := run.stdout.read(MIB):
            yield piece
        said = run.stderr.read().decode()
    if run.returncode != 0:
        raise AssertionError(f"7-Zip cannot read {path}: {said[-500:]}")


def seven_zip_sha256(path: os.PathLike[str] | str) -> str:
    """SHA-256 of the virtual content as 7-Zip reads it."""
    digest = hashlib.sha256()
    for piece in seven_zip_pieces(path):
        digest.update(piece)
    return digest.hexdigest()
