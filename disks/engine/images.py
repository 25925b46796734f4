"""An opened image, whatever its format: the words that chain, merge and inspect are written in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from disks.engine.changes import Compaction, Expansion, HeaderRewrite, LogReplay, Round
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Finding
from disks.engine.holding import HoldPlan, Limits, Wanted
from disks.engine.parent_link import NewParent, ParentReference


class DiskType(StrEnum):
    FIXED = "fixed"
    DYNAMIC = "dynamic"
    DIFFERENCING = "differencing"


class Source(StrEnum):
    """Where an image says that a run of sectors comes from."""

    DATA = "data"  # in this file, at file_offset
    ZERO = "zero"  # reads as zeros, nothing stored; in a differencing disk it hides the parent
    PARENT = "parent"  # ask the parent


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of virtual sectors of one source; file_offset in bytes, only for DATA."""

    first_sector: int
    count_sectors: int
    source: Source
    file_offset: int | None = None


class Image(Protocol):
    """An opened image whose metadata passed its checksums and bounds."""

    format_name: str
    file: ImageFile
    disk_type: DiskType
    virtual_size_bytes: int
    logical_sector_bytes: int
    block_size_bytes: int  # 0 for a disk without blocks
    blocks_total: int  # 0 for a disk without blocks
    identity: str  # what children refer to; lower case with hyphens
    virtual_disk_id: str | None  # shared by all disks of one chain, where the format has it
    file_write_guid: str | None  # another one after every opening for writing, where it has it
    creator: str
    created: datetime | None
    states_zeros: bool  # a block of zeros can be said to be one without being stored
    findings: list[Finding]  # what opening noticed: degraded footers, quirks
    write_refusal: ImageError | None  # why nothing may be written to it, for now

    @property
    def parent(self) -> ParentReference | None:
        """What the header of a differencing disk says about its parent, else None."""
        ...

    @property
    def hidden(self) -> bool:
        """Marked by its creator as an inner node that no machine uses (blktap)."""
        ...

    def blocks_allocated(self) -> int:
        """Count BAT entries in use (reads the BAT in pieces)."""
        ...

    def extents(self, first_sector: int, count_sectors: int) -> Iterator[Extent]:
        """Cut a range of the virtual disk by source, in ascending order, without gaps.

        Neighbouring runs that continue each other in file and source are joined
        where this costs nothing. Raises OutOfRange past virtual_size_bytes.
        """
        ...

    def block_runs(self) -> Iterator[tuple[int, int, Source]]:
        """(first block, blocks, source) by the block table alone, ascending, without gaps.

        DATA: some or all of the sectors are here; sector bitmaps are not read.
        """
        ...

    def end_of_use(self) -> int:
        """Where in the file the last thing ends that anything in it refers to, in bytes."""
        ...

    def properties(self) -> list[tuple[str, str]]:
        """Format-specific facts for people, label and value (geometry, features…)."""
        ...

    def stored_headers(self) -> bytes:
        """The metadata as it was read at opening; its hash stands for "unchanged headers"."""
        ...

    def raw_regions(self) -> list[RawRegion]:
        """The structures worth a hex view, with field labels."""
        ...

    def plan_parent_link(self, parent: NewParent) -> HeaderRewrite:
        """The writes that make parent this differencing disk's parent."""
        ...

    def is_linked_to(self, parent: NewParent) -> bool:
        """Whether the link says all of this already, and nothing else."""
        ...

    def recorded_link(self) -> dict[str, Any]:
        """The link exactly as stored (JSON-able), enough for plan_recorded_link."""
        ...

    def plan_recorded_link(self, recorded: dict[str, Any]) -> HeaderRewrite:
        """The writes that bring a link back that recorded_link() once returned."""
        ...

    @property
    def log_waits(self) -> bool:
        """Whether the format's own log holds changes that are not in their place yet."""
        ...

    def plan_replay(self) -> LogReplay:
        """What replay_log() will do. Raises E_NOTHING_TO_REPLAY, and what keeps it from it."""
        ...

    def replay_log(self) -> None:
        """Bring what waits in the log to its place; the file must be open for writing.

        Content, identity and link read as before. An interruption leaves the log waiting: this
        may be repeated. The image itself is stale afterwards. Raises E_NOTHING_TO_REPLAY.
        """
        ...

    def plan_repair(self) -> HeaderRewrite:
        """The writes that put the sound copy of a header in place of its damaged one.

        Content, identity and link stay; no byte that could be data is overwritten or cut off.
        Raises E_NOTHING_TO_REPAIR where no copy is damaged (or none exists), and what
        makes it unclear which copy is right or shows that data is lost.
        """
        ...

    def plan_expand(self, new_size_bytes: int, *, keeps_identity: bool = False) -> Expansion:
        """The writes that give the disk a larger virtual size, a multiple of its sectors.

        Content stays, and identity where the format lets it; the grown area reads zeros (or
        the parent's bytes, where that is larger: the caller sees to it that it is not).
        keeps_identity: in every format, for a disk that nobody but the caller knows by it.
        Raises the write refusal, E_TOO_LARGE past what the format holds, E_BLOCK_SIZE where
        its blocks are too small.
        """
        ...

    def plan_compaction(self, absent: Collection[int], zeros: Collection[int] = ()) -> Compaction:
        """How the disk becomes dense without these blocks; writes nothing.

        absent  blocks whose content is the same without them
        zeros   blocks to be said to be zeros, where the format states_zeros
        Raises the write refusal, and what its block table shows to be damaged.
        """
        ...

    def plan_round(self, round: Round) -> HeaderRewrite:
        """The writes of one round of a compaction. E_CHANGED if the table is another by now."""
        ...

    def plan_end(self) -> HeaderRewrite | None:
        """The writes that cut off what lies behind all that is used; None if nothing does."""
        ...

    def plan_identity(self, identity: str) -> HeaderRewrite:
        """The writes that give the disk another identity; content and link stay."""
        ...

    def plan_face(self, of: Image) -> HeaderRewrite:
        """The writes that make a disk, which has another's content by now, say what that one says.

        Identity, geometry, creator, times, the items of the virtual disk; of is of the same
        format and size. Type, place of the headers and parent link stay.
        """
        ...

    def plan_parent_identity(self, identity: str) -> HeaderRewrite:
        """The writes that make a differencing disk expect this identity of its parent.

        Where the parent lies stays said as it is.
        """
        ...

    def plan_hold(self, wanted: Iterator[Wanted], limits: Limits) -> HoldPlan:
        """How the disk is made to hold sectors (ascending), as far as one batch goes.

        Sectors of which the disk held nothing are held for themselves alone: those beside them
        read as before, from the parent where there is one. Writes nothing.
        """
        ...

    def growth_bytes(self, wanted: Iterator[Wanted]) -> int:
        """What the file grows by at most when it is made to hold these sectors (ascending).

        Raises E_TOO_LARGE where the format cannot reach so far.
        """
        ...

    def needed_bytes(self) -> int:
        """Where the last of what the block table names ends in the file."""
        ...

    def copy_traits(self) -> dict[str, Any]:
        """NewImage keywords that make a copy keep creator, geometry, creation time."""
        ...

    def child_traits(self) -> dict[str, Any]:
        """NewImage keywords that all disks of a chain have in common."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RawField:
    name: str
    offset: int
    length: int
    value: str


@dataclass(frozen=True, slots=True)
class RawRegion:
    """A labelled piece of the file for the hex view; data is at most 4 KiB."""

    name: str
    offset: int
    data: bytes
    fields: Sequence[RawField] = field(default_factory=tuple)
