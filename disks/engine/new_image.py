"""New images: what can be chosen, what is asked for, and what writes them, in any format."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from disks.engine.files import ImageFile
from disks.engine.images import DiskType
from disks.engine.parent_link import NewParent


@dataclass(frozen=True, slots=True)
class Choices:
    """What can be chosen for a new disk of a format; the usual one comes first.

    block_bytes        of dynamic disks, as Windows makes them first
    other_block_bytes  of fixed and differencing disks; nobody needs to choose it
    sector_bytes       logical sector sizes
    largest_bytes      virtual size that the format can hold
    """

    block_bytes: tuple[int, ...]
    other_block_bytes: int
    sector_bytes: tuple[int, ...]
    largest_bytes: int


@dataclass(frozen=True, slots=True)
class NewImage:
    """What a new image shall be. None: a fresh one, or computed.

    What a format does not store (geometry, sector sizes, the chain's virtual disk id) it
    leaves alone.
    """

    disk_type: DiskType
    virtual_size_bytes: int
    block_size_bytes: int = 2 * 1024 * 1024
    identity: str | None = None
    parent: NewParent | None = None
    creator: tuple[bytes, int, bytes] | None = None  # application, version, host OS as stored
    created: datetime | None = None
    geometry: tuple[int, int, int] | None = None
    virtual_disk_id: str | None = None
    file_write_guid: str | None = None
    logical_sector_bytes: int = 512
    physical_sector_bytes: int = 4096
    metadata_items: tuple[tuple[bytes, int, bytes], ...] = ()  # VHDX: GUID, flags, value


class ImageWriter(Protocol):
    """Streams a new image into an empty file, ascending; nothing is valid before finish()."""

    def write(self, first_sector: int, data: bytes | bytearray | memoryview) -> None:
        """Store whole sectors; in a differencing disk they are marked as held."""
        ...

    def place(self, first_sector: int, count_sectors: int) -> list[tuple[int, int]]:
        """As write(), for a caller who copies by himself (`os.copy_file_range`).

        Marks the sectors as held and returns (file_offset, length_bytes) pieces, in order,
        that the caller has to fill before finish().
        """
        ...

    def hold_zeros(self, first_sector: int, count_sectors: int) -> None:
        """As write() of zeros, without data: in a differencing disk they hide the parent's."""
        ...

    def finish(self) -> None:
        """Write metadata, in an order that leaves a half-written file unrecognisable; fsync."""
        ...


@dataclass(frozen=True, slots=True)
class Holding:
    """How a new differencing image stores what it holds.

    states_zeros    a block whose sectors are all held, and zeros, is a state and takes no room
    bitmap_sectors  how many sectors share a sector bitmap that takes room of its own, wherever
                    a block among them is held in part; 0: bitmaps are parts of the blocks
    """

    states_zeros: bool
    bitmap_sectors: int


class Target(Protocol):
    """What a copy can be written as: a disk format, or plain bytes (`raw.py`)."""

    name: str  # "vhd"
    extensions: tuple[str, ...]  # (".vhd", ".avhd"), for new names and wording only

    def predicted_size_bytes(self, new: NewImage, blocks: int, bitmaps: int | None = None) -> int:
        """File size of a new image with that many allocated blocks.

        bitmaps: how many sector bitmaps that take room of their own, see `Holding`; None: as
        many as so many blocks can need.

        Raises what the format cannot hold: E_SIZE, E_BLOCK_SIZE, E_TOO_LARGE.
        """
        ...

    def holding(self, new: NewImage) -> Holding | None:
        """None unless it is a differencing image."""
        ...

    def writer(self, file: ImageFile, new: NewImage, *, blocks: int) -> ImageWriter:
        """blocks: an upper bound of the blocks that will be written."""
        ...
