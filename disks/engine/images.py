"""What every format offers: the words that chain, merge, compact and inspect are written in.

A format is a folder beside this file (`vhd/`) and one line in `formats.py`.
Nothing above the engine knows which format it works on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Finding

if TYPE_CHECKING:
    from disks.engine.holding import HoldPlan, Limits, Wanted

Report = Callable[[int, int], None]
"""Long functions call it as (done_bytes, total_bytes), every few MiB at least and only
while every file is consistent; it may raise to stop them."""


def unreported(done_bytes: int, total_bytes: int) -> None:
    """The Report of who does not ask for one."""


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


class LocatorRole(StrEnum):
    """What a locator's text is for."""

    RELATIVE = "relative"  # a path seen from the child's folder: looked at first
    PATH = "path"  # any other path
    OTHER = "other"  # no path: an identity


_ROLES = {
    "W2ru": LocatorRole.RELATIVE,
    "relative_path": LocatorRole.RELATIVE,
    "parent_linkage": LocatorRole.OTHER,
    "parent_linkage2": LocatorRole.OTHER,
}


class Locator(NamedTuple):
    """One parent locator as found: text to show, never a path to open.

    path     decoded text, undecodable units escaped (`\\ud800`); None if unreadable
    problem  why it cannot be used, a sentence; None if usable
    """

    code: str
    path: str | None
    raw: bytes
    offset: int
    data_space: int
    problem: str | None = None

    @property
    def role(self) -> LocatorRole:
        return _ROLES.get(self.code, LocatorRole.PATH)


@dataclass(frozen=True, slots=True)
class ParentReference:
    """What a differencing disk's header says about its parent."""

    identity: str
    name: str | None
    timestamp: datetime | None
    locators: tuple[Locator, ...]
    name_problem: str | None = None


@dataclass(frozen=True, slots=True)
class NewParent:
    """A parent link to be written.

    relative_path, windows_path: Windows syntax; None leaves that locator out.
    timestamp: the parent file's modification time, None writes 0.
    """

    identity: str
    name: str
    relative_path: str | None
    windows_path: str | None
    timestamp: datetime | None = None


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A row of a plan: one header field, before and after, and where its bytes go."""

    field: str
    now: str | None
    after: str | None
    offset: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Write:
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fill:
    """Content for room that holds nothing: behind the file's end or the disk's, or a gap.

    What lay there is neither kept nor put back when the change is taken back.

    byte     what all of it becomes
    copy_of  instead of that: where in the same file the bytes lie that come there
    """

    offset: int
    length: int
    byte: int = 0
    copy_of: int | None = None


@dataclass(frozen=True, slots=True)
class HeaderRewrite:
    """A metadata change as ordered steps; every step is made durable before the next.

    size_after_bytes is the file's size when all is done; where it is smaller, the file is cut
    off there after the last step, which must leave it valid at either size. No page of 4 KiB
    that a Fill covers whole is written to by anything else; the last step has no Fill.

    visible_step: the one that makes the change visible. From then on somebody may have gone
    on with what is new: a change that broke off is completed, whatever lies in pages of earlier
    steps, and never taken back. None: nobody goes on with it; it is taken back if not whole.

    entry_bytes: where the visible step changes entries of a table of which each stands for
    itself, old or new: how long they are. Whichever is there after an interruption stays.

    logged_step: the step whose writes the format's own log holds. An interruption then needs
    no old bytes: the log is replayed, and that step is there whole or not at all.

    identity_after: where the change gives the disk another one.
    """

    steps: tuple[tuple[Write | Fill, ...], ...]
    size_after_bytes: int
    changes: tuple[FieldChange, ...]
    _: KW_ONLY
    logged_step: int | None = None
    identity_after: str | None = None
    visible_step: int | None = None
    entry_bytes: int = 0


class Drop(NamedTuple):
    """An entry of a block table, by number, and what it becomes: without a place in the file."""

    number: int
    entry: int


class Move(NamedTuple):
    """What an entry of a block table leads to, moved down: offsets and length in bytes.

    room_bytes  what it takes there; behind length it is filled with zeros
    """

    number: int
    source: int
    target: int
    length: int
    room_bytes: int


@dataclass(frozen=True, slots=True)
class Round:
    """One change of a compaction in place: drops, or moves; the disk is the same after it."""

    drops: tuple[Drop, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def bytes_moved(self) -> int:
        return sum(move.length for move in self.moves)


@dataclass(frozen=True, slots=True)
class Compaction:
    """How a disk of blocks becomes dense where it lies.

    rounds            one after the other; each leaves a valid disk with the same content
    size_after_bytes  of the file, once `plan_end` was carried out as well
    """

    rounds: tuple[Round, ...]
    size_after_bytes: int

    @property
    def moves(self) -> int:
        return sum(len(one.moves) for one in self.rounds)

    @property
    def bytes_moved(self) -> int:
        return sum(one.bytes_moved for one in self.rounds)


@dataclass(frozen=True, slots=True)
class Expansion:
    """How a disk becomes larger in place.

    rewrite           what is to be done next
    makes_room        True: it only moves some of what is in the way, so that size and content
                      stay; when it is done, plan again
    changes           rows for people: of this rewrite and of what follows it
    size_after_bytes  of the file when all is done
    warnings          what a person should know of the result
    children_break    why children of the disk cannot use it any more, half a sentence
    """

    rewrite: HeaderRewrite
    makes_room: bool
    changes: tuple[FieldChange, ...]
    size_after_bytes: int
    warnings: tuple[str, ...]
    children_break: str


@dataclass(frozen=True, slots=True)
class LogReplay:
    """What brings a format's own log to its place.

    entries, updates   that wait in the log; bytes_written: of all updates together
    size_after_bytes   the file's size when all is done (never smaller)
    key                stands for what waits: the same until somebody else writes the disk, also
                       while an interrupted replay waits to be repeated
    """

    entries: int
    updates: int
    bytes_written: int
    size_after_bytes: int
    changes: tuple[FieldChange, ...]
    key: str


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
        """What the file grows by at most when it is made to hold these sectors (ascending)."""
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


class Format(Target, Protocol):
    """One disk format. All functions read the content, never the extension."""

    choices: Choices

    def matches(self, file: ImageFile) -> bool:
        """True if the content claims this format, sound or damaged."""
        ...

    def open(self, file: ImageFile) -> Image: ...

    def check(
        self, file: ImageFile, *, deep: bool = False, report: Report = unreported
    ) -> list[Finding]:
        """Every invariant that this one file can break; goes on after the first.

        report's bytes are places in the file, up to its size.
        """
        ...

    def check_opened(self, image: Image) -> list[Finding]:
        """As check(), not deep, for an image of this format that was opened already."""
        ...

    def named_parent(self, file: ImageFile) -> str | None:
        """What a file that does not open as a disk still says about its parent.

        Its identity; "" where it surely has none, or is nothing of this format; None where
        that cannot be told.
        """
        ...

    def header_bytes(self, file: ImageFile) -> bytes:
        """The metadata whose hash stands for "this file is unchanged" (footer and headers)."""
        ...

    def raw_regions(self, file: ImageFile) -> list[RawRegion]:
        """As `Image.raw_regions`, of a file that may be too damaged to open."""
        ...
