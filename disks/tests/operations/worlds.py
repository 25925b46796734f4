"""Small chains in a folder of their own, and what must be true of them."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import xxhash

from disks.engine.chain import Chain, open_chain
from disks.engine.check import check_image
from disks.engine.files import ImageFile
from disks.engine.findings import Level
from disks.engine.images import Source
from disks.engine.vhd.bat import BlockAllocationTable
from disks.engine.vhd.dynamic_header import HEADER_BYTES, DynamicHeader
from disks.operations.beneath import open_beneath
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root
from disks.tests.builders import MIB, SECTOR, VHD, Built, Family
from disks.tests.operations.frozen import PIECE_BYTES, data_in, extents

T = TypeVar("T")

BLOCK = 16 * 1024
KIB = 1024
_ZEROS = bytes(PIECE_BYTES)
_FLOCK = "hhqqi4x"
HAS, DENIES = 100, 200  # the byte ranges of qemu (block/file-posix.c)


def noise(seed: int, sectors: int) -> bytes:
    return random.Random(seed).randbytes(sectors * SECTOR)


def zeros(sectors: int) -> bytes:
    return bytes(sectors * SECTOR)


def roots_of(folder: Path, **options: object) -> Roots:
    return Roots([Root(str(folder), windows_views=("C:\\VMs",), **options)])  # type: ignore[arg-type]


@dataclass
class World:
    """A chain base ← middle ← leaf and what the leaf must read as."""

    folder: Path
    base: Built
    middle: Built
    leaf: Built
    grandchild: Built | None = None
    before: dict[str, str] = field(default_factory=dict)

    @property
    def roots(self) -> Roots:
        return roots_of(self.folder)

    def path(self, name: str) -> str:
        return str(self.folder / name)


def chain(
    folder: Path,
    *,
    family: Family = VHD,
    base_type: str = "dynamic",
    size: int | None = None,
    middle_size: int | None = None,
    leaf_size: int | None = None,
    block: int | None = None,
    middle_block: int | None = None,
    leaf_block: int | None = None,
    leaf_more: Iterable[tuple[int, bytes]] = (),
    grandchild: bool = False,
) -> World:
    """Runs that overlap, hide one another with zeros, and end at odd sectors.

    leaf_more: what the leaf holds beside them
    Of a VHDX some blocks state zeros: they hide what their ancestors have there.
    """
    folder.mkdir(exist_ok=True)
    shape = _SHAPES[family.name]
    block = block or shape.block
    size = size or shape.size
    build_base = family.fixed if base_type == "fixed" else family.dynamic
    options: dict[str, object] = (
        {} if base_type == "fixed" and family is VHD else {"block_size": block}
    )
    base = build_base(folder, family.file("base"), size=size, content=shape.base, **options)
    middle = family.differencing(
        folder,
        family.file("middle"),
        base,
        size=middle_size or size,
        block_size=middle_block or block,
        content=shape.middle,
        **shape.middle_options,
    )
    leaf = family.differencing(
        folder,
        family.file("leaf"),
        middle,
        size=leaf_size or middle_size or size,
        block_size=leaf_block or middle_block or block,
        content=[*leaf_more, *shape.leaf],
        **shape.leaf_options,
    )
    below = None
    if grandchild:
        below = family.differencing(folder, family.file("below"), leaf, content=[(8, noise(9, 3))])
    return World(folder, base, middle, leaf, below)


@dataclass(frozen=True)
class _Shape:
    """Sizes in bytes and the content of a chain's levels, for one format."""

    size: int
    block: int
    base: list[tuple[int, bytes]]
    middle: list[tuple[int, bytes]]
    leaf: list[tuple[int, bytes]]
    middle_options: dict[str, object] = field(default_factory=dict)
    leaf_options: dict[str, object] = field(default_factory=dict)


_SHAPES = {
    "vhd": _Shape(
        160 * KIB,
        BLOCK,
        base=[
            (0, noise(1, 70)),
            (96, zeros(32)),
            (130, noise(2, 7)),
            (200, noise(3, 40)),
            (256, zeros(32)),
        ],
        middle=[(3, noise(4, 5)), (31, zeros(3)), (100, noise(5, 1)), (210, zeros(9))],
        leaf=[(5, noise(6, 1)), (101, zeros(1)), (215, noise(7, 30)), (300, noise(8, 20))],
    ),
    # Six blocks of 2,048 sectors; the base's third is stored zeros, its last is cut short.
    "vhdx": _Shape(
        5 * MIB + 64 * KIB,
        MIB,
        base=[
            (0, noise(1, 70)),
            (2040, noise(2, 30)),
            (4096, zeros(2048)),
            (6200, noise(3, 400)),
            (8192, noise(10, 50)),
            (10240, noise(11, 128)),
        ],
        middle=[(3, noise(4, 5)), (2047, zeros(3)), (6300, noise(5, 1)), (6400, zeros(9))],
        leaf=[(5, noise(6, 1)), (2049, zeros(1)), (6405, noise(7, 30)), (10250, noise(8, 20))],
        middle_options={"states": {4: 2}},
        leaf_options={"states": {2: 3}},
    ),
}


_known: dict[tuple[str, ...], Any] | None = None


@contextmanager
def remembering() -> Iterator[None]:
    """Within, what follows from the bytes of files is worked out once for the same bytes.

    Meant for who asks thousands of times; what is known is forgotten with the block.
    """
    global _known
    before, _known = _known, {}
    try:
        yield
    finally:
        _known = before


def _of_bytes(question: str, paths: Iterable[str], answer: Callable[[], T]) -> T:
    """answer(), which depends on the bytes of these files alone."""
    if _known is None:
        return answer()
    key = (question, *(_hash(path) for path in paths))
    if key not in _known:
        _known[key] = answer()
    return cast(T, _known[key])


def content_of(path: str | os.PathLike[str], roots: Roots | None = None) -> str:
    """SHA-256 of the virtual content through the whole chain."""
    text = os.fspath(path)
    with open_chain(text, roots or roots_of(Path(text).parent)) as opened:
        return _of_bytes("content", opened.paths, opened.sha256)


def parent_of(path: str | os.PathLike[str], roots: Roots) -> str:
    """The path at which a disk's parent is found."""
    with open_chain(os.fspath(path), roots) as opened:
        return opened.paths[1]


def essence_of(path: str | os.PathLike[str], roots: Roots | None = None) -> str:
    """As content_of, but quick where there is little but zeros, for what is asked often."""
    text = os.fspath(path)
    with open_chain(text, roots or roots_of(Path(text).parent)) as opened:
        return _of_bytes("essence", opened.paths, lambda: _essence_of(opened))


def essence_of_bytes(content: bytes) -> str:
    """essence_of a disk of this content."""

    def read(at: int) -> bytes:
        return content[at : at + PIECE_BYTES]

    return _essence(len(content), [(0, len(content))], read)


def _essence_of(opened: Chain) -> str:
    held = (
        (one.first_sector * SECTOR, (one.first_sector + one.count_sectors) * SECTOR)
        for one in opened.extents(0, opened.sectors)
        if one.source is not Source.ZERO
    )

    def read(at: int) -> bytes:
        sector = at // SECTOR
        return opened.read(sector, min(PIECE_BYTES // SECTOR, opened.sectors - sector))

    return _essence(opened.sectors * SECTOR, held, read)


def _essence(size: int, held: Iterable[tuple[int, int]], read: Callable[[int], bytes]) -> str:
    """A hash of all of the content, in which it makes no difference what its zeros are.

    held: (start, end) of all that may be something else, in order
    read: the piece at a place, shorter where the content ends
    """
    digest = xxhash.xxh3_128(b"%d" % size)
    next_piece = 0
    for start, end in held:
        for at in range(max(next_piece, start // PIECE_BYTES * PIECE_BYTES), end, PIECE_BYTES):
            data = read(at)
            if data != _ZEROS[: len(data)]:
                digest.update(b"%d:" % at)
                digest.update(data)
            next_piece = at + PIECE_BYTES
    return digest.hexdigest()


def errors_in(path: str | os.PathLike[str]) -> list[str]:
    text = os.fspath(path)
    with roots_of(Path(text).parent).open(text) as file:
        findings = _of_bytes(f"errors {text}", [text], lambda: check_image(file, deep=True))
    return [str(finding) for finding in findings if finding.level is Level.ERROR]


def let_two_blocks_share_a_place(path: Path) -> None:
    """Make the second allocated block's entry that of the first."""
    with roots_of(path.parent).open(str(path)) as file:
        bat = BlockAllocationTable(file, *_table_of(file))
        (_, first), (second, _) = itertools.islice(bat.allocated(), 2)
    with path.open("r+b") as raw:
        raw.seek(bat.offset + second * 4)
        raw.write(first.to_bytes(4))


def _table_of(file: ImageFile) -> tuple[int, int]:
    header = DynamicHeader.parse(file.read_at(SECTOR, HEADER_BYTES))
    return header.table_offset, header.max_table_entries


def close_to_us(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Files and folders of these names are there but cannot be opened, whoever runs the tests."""

    def refusing(folder_fd: int, relative: str, flags: int, mode: int = 0) -> int:
        if os.path.basename(relative) in names:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_beneath(folder_fd, relative, flags, mode)

    for module in ("disks.operations.root_folders", "disks.services.walking"):
        monkeypatch.setattr(f"{module}.open_beneath", refusing)


@contextmanager
def machine(path: str | os.PathLike[str], *, writes: bool = True) -> Iterator[None]:
    """Hold a disk open as a virtual machine of qemu does: one that writes, or only reads."""
    fd = os.open(path, os.O_RDONLY)
    try:
        for byte in [HAS, *range(HAS + 1, HAS + 4)] if writes else [HAS]:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, 0, byte, 1, 0))
        for byte in (DENIES + 1, DENIES + 3):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, 0, byte, 1, 0))
        yield
    finally:
        os.close(fd)


def names_in(folder: Path) -> Iterator[str]:
    """Every file below folder; lock files left out."""
    for current, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".vdlock"]
        below = "" if current == str(folder) else f"{os.path.relpath(current, folder)}/"
        yield from (below + name for name in names)


def snapshot(folder: Path) -> dict[str, str]:
    """names_in() with a hash of each one's size and bytes, in which zeros are as good as holes."""
    return {name: _hash(os.path.join(folder, name)) for name in names_in(folder)}


def _hash(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        return _essence(size, data_in(fd, size), lambda at: os.pread(fd, PIECE_BYTES, at))


def strays(folder: Path) -> list[str]:
    """Files of ours that should be gone; undo records are meant to stay."""
    return [
        name
        for name in names_in(folder)
        if os.path.basename(name).startswith(".vd") or name.endswith((".vdtmp", ".vdjob"))
    ]


def copy_tree(source: Path, target: Path) -> None:
    """A folder of disks with their holes, hidden files too; times as they are."""
    target.mkdir()
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            copy_tree(entry, target / entry.name)
            continue
        with entry.open("rb") as old, (target / entry.name).open("wb") as new:
            size = os.fstat(old.fileno()).st_size
            os.truncate(new.fileno(), size)
            for at, data in extents(old.fileno(), size):
                os.pwrite(new.fileno(), data, at)
        shutil.copystat(entry, target / entry.name)
    shutil.copystat(source, target)


def same(found: Iterable[str], wanted: Iterable[str]) -> bool:
    return sorted(found) == sorted(wanted)
