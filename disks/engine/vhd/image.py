"""An opened VHD: what its headers say, and what can be read and planned by them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from disks.engine.block_runs import block_runs
from disks.engine.changes import Compaction, Expansion, HeaderRewrite, LogReplay, Round
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.holding import HoldPlan, Limits, Wanted
from disks.engine.images import DiskType, Extent, Image, RawRegion, Source
from disks.engine.parent_link import NewParent, ParentReference
from disks.engine.sector_bitmap import RunCache
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhd import (
    dynamic_header,
    extents,
    footer,
    footer_copies,
    footer_findings,
    link,
    raw_view,
    repair,
)
from disks.engine.vhd.bat import BlockAllocationTable
from disks.engine.vhd.dynamic_header import HEADER_BYTES, DynamicHeader
from disks.engine.vhd.footer import Footer
from disks.engine.vhd.footer_copies import Footers
from disks.engine.vhd.parent_locator import (
    FREE,
    LocatorEntry,
    ReadLocator,
    decode_name,
    parse_entries,
    read_locators,
)
from disks.engine.vhd.text import EPOCH, identity_text, moment

_TYPES = {
    footer.FIXED: DiskType.FIXED,
    footer.DYNAMIC: DiskType.DYNAMIC,
    footer.DIFFERENCING: DiskType.DIFFERENCING,
}
_REFUSING = (
    "E_FOREIGN_JOURNAL",
    "E_FOOTERS_DIFFER",
    "E_TRUNCATED",
    "E_FOOTER_END",
    "E_FOOTER_FRONT",
    "E_RAW_PARENT",
)


_EPOCH_SECONDS = int(EPOCH.timestamp())


def now_timestamp() -> int:
    """This moment as VHD fields store it."""
    return int(time.time()) - _EPOCH_SECONDS


def as_error(finding: Finding, path: str) -> ImageError:
    return ImageError(
        finding.code,
        finding.message,
        file=path,
        field=finding.field,
        offset=finding.offset,
        value=finding.value,
    )


class VhdImage:
    """Implements `Image` for VHD. Opening reads about 17 KiB and believes only sound headers."""

    format_name = "vhd"
    virtual_disk_id: str | None = None
    file_write_guid: str | None = None
    logical_sector_bytes = SECTOR_BYTES
    states_zeros = False  # absent blocks are the parent's

    def __init__(self, file: ImageFile) -> None:
        """Raises ImageError where the headers are not sound enough to read the disk."""
        self.file = file
        self.findings: list[Finding] = []
        self.footers: Footers = footer_copies.read_footers(file)
        chosen = self.footers.chosen
        if chosen is None or chosen.footer is None:
            raise footer_copies.unusable(self.footers, file.path)
        self.footer: Footer = chosen.footer
        self.footer_offset = chosen.offset
        self.end_is_footer = chosen is self.footers.end
        self.data_end = self.footers.end.offset if self.end_is_footer else file.size_bytes
        self._note(footer_copies.copy_findings(self.footers), frozenset())
        self._note(
            footer_findings.field_findings(self.footer, chosen.offset, now_timestamp()),
            footer_findings.FATAL,
        )
        self.disk_type = _TYPES[self.footer.disk_type]
        self.virtual_size_bytes = self.footer.current_size
        self.identity = identity_text(self.footer.unique_id)
        self.creator = self.footer.creator
        self.created: datetime | None = moment(self.footer.timestamp)
        self.block_size_bytes = 0
        self.blocks_total = 0
        self.header: DynamicHeader | None = None
        self._parent: ParentReference | None = None
        self._locators: list[ReadLocator] | None = None
        self._allocated: int | None = None
        self.is_truncated = False  # blocks reach past the end of the file
        self.runs_known = RunCache()
        if self.disk_type is DiskType.FIXED:
            self._open_fixed()
        else:
            self._open_dynamic()
        self.write_refusal: ImageError | None = self.refusal_apart_from(frozenset())
        self.read_refusal: ImageError | None = None
        if self.footers.front.is_poisoned or self.footers.end.is_poisoned:
            self.read_refusal = self.write_refusal

    def _note(self, findings: Iterator[Finding], fatal: frozenset[str]) -> None:
        for finding in findings:
            if finding.code in fatal:
                raise as_error(finding, self.file.path)
            self.findings.append(finding)

    def _open_fixed(self) -> None:
        size = self.virtual_size_bytes
        front = self.footers.front
        if front.is_right and self.footers.head[512:520] == dynamic_header.COOKIE:
            front_footer = front.footer
            if front_footer is not None and front_footer.unique_id == self.footer.unique_id:
                raise ImageError(
                    "E_TYPE_CONFLICT",
                    "The footer at the end says fixed disk, but the file begins like a dynamic "
                    "or differencing one.",
                    file=self.file.path,
                    field="disk_type",
                    offset=self.footer_offset + footer.OFFSETS["disk_type"][0],
                    value=self.footer.disk_type,
                )
        if self.data_end < size:
            lost = self.data_end // SECTOR_BYTES
            self.findings.append(
                Finding(
                    Level.ERROR,
                    "E_TRUNCATED",
                    f"The file holds {self.data_end:,} bytes of data, the disk has {size:,}; "
                    f"the first lost sector (LBA) is {lost:,}.",
                    "current_size",
                    self.data_end,
                    lost,
                )
            )
        elif self.data_end > size:
            self.findings.append(
                Finding(
                    Level.WARNING,
                    "W_FILE_SIZE",
                    f"The file holds {self.data_end - size:,} bytes more than the disk needs.",
                    "current_size",
                    size,
                    self.data_end,
                )
            )

    def _open_dynamic(self) -> None:
        offset = self.footer.data_offset
        problem = dynamic_header.offset_finding(offset, self.data_end)
        if problem is not None:
            raise as_error(problem, self.file.path)
        head = self.footers.head
        if offset + HEADER_BYTES <= len(head):
            data = head[offset : offset + HEADER_BYTES]
        else:
            data = self.file.read_at(offset, HEADER_BYTES)
        for finding in dynamic_header.checksum_findings(data, offset):
            raise as_error(finding, self.file.path)
        self.header_bytes = data
        self.header = header = DynamicHeader.parse(data)
        self._note(
            dynamic_header.field_findings(
                header, offset, self.virtual_size_bytes, self.data_end, self.end_is_footer
            ),
            # A table that the file's end cut off leaves nothing to go by.
            dynamic_header.FATAL | {"E_TRUNCATED"},
        )
        self.block_size_bytes = header.block_size
        self.blocks_total = -(-self.virtual_size_bytes // header.block_size)
        self.sectors_per_block = header.block_size // SECTOR_BYTES
        self.bitmap_bytes = dynamic_header.bitmap_bytes(header.block_size)
        self.bitmap_used_bytes = -(-self.sectors_per_block // 8)
        self.bat = BlockAllocationTable(self.file, header.table_offset, self.blocks_total, head)
        self.metadata_end = max(
            footer.FOOTER_BYTES,
            offset + HEADER_BYTES,
        )
        self.table_end = header.table_offset + dynamic_header.table_bytes(header.max_table_entries)
        if not self.end_is_footer:
            self._look_for_truncation()
        if self.disk_type is DiskType.DIFFERENCING and not any(header.parent_unique_id):
            self.findings.append(
                Finding(
                    Level.ERROR,
                    "E_RAW_PARENT",
                    "The disk names no identity of its parent: blktap's sign for a raw file as "
                    "parent, which cannot be proven to be the right one.",
                    "parent_unique_id",
                    offset + dynamic_header.OFFSETS["parent_unique_id"][0],
                )
            )

    def _look_for_truncation(self) -> None:
        """Without a footer at its end the file may be cut: see whether all blocks are there."""
        lost: int | None = None
        for block, entry in self.bat.allocated():
            if entry * SECTOR_BYTES + self.block_bytes(block) > self.data_end:
                lost = self.first_lost_sector(block, entry)
                break
        if lost is not None:
            self.is_truncated = True
            self.findings.append(
                Finding(
                    Level.ERROR,
                    "E_TRUNCATED",
                    f"The file was cut off; the first lost sector (LBA) is {lost:,}.",
                    "footer",
                    self.data_end,
                    lost,
                )
            )

    def first_lost_sector(self, block: int, entry: int) -> int:
        inside = (self.data_end - entry * SECTOR_BYTES - self.bitmap_bytes) // SECTOR_BYTES
        return block * self.sectors_per_block + max(0, inside)

    def block_bytes(self, block: int) -> int:
        """Bytes that a block needs in the file: bitmap and the data inside the virtual size."""
        start = block * self.block_size_bytes
        return self.bitmap_bytes + min(self.block_size_bytes, self.virtual_size_bytes - start)

    def refusal_apart_from(self, ignored: Collection[str]) -> ImageError | None:
        """Why nothing may be written, when these codes do not stand in the way; None if it may."""
        codes = {finding.code: finding for finding in reversed(self.findings)}
        for code in _REFUSING:
            if code in codes and code not in ignored:
                return as_error(codes[code], self.file.path)
        if self.footer.saved_state and "E_SAVED_STATE" not in ignored:
            return ImageError(
                "E_SAVED_STATE",
                "A virtual machine was saved while using this disk; changing the disk would "
                "damage the machine when it is resumed.",
                file=self.file.path,
                field="saved_state",
                offset=self.footer_offset + footer.OFFSETS["saved_state"][0],
                value=self.footer.saved_state,
            )
        return None

    # The parent link

    @property
    def parent(self) -> ParentReference | None:
        """What the header says about the parent; read at the first question."""
        if self.disk_type is not DiskType.DIFFERENCING or self.header is None:
            return None
        if self._parent is None:
            name, problem = decode_name(self.header.parent_unicode_name)
            timestamp = self.header.parent_timestamp
            self._parent = ParentReference(
                identity_text(self.header.parent_unique_id),
                name,
                moment(timestamp) if timestamp else None,
                tuple(read.locator for read in self.read_locators()),
                problem,
            )
        return self._parent

    @cached_property
    def locator_entries(self) -> list[LocatorEntry]:
        """The header's locator slots as stored, free ones too."""
        return [] if self.header is None else parse_entries(self.header.parent_locators)

    def read_locators(self) -> list[ReadLocator]:
        """Every locator slot in use, with its data judged and decoded; read once."""
        if self._locators is None:
            self._locators = self._read_locators()
        return self._locators

    def _read_locators(self) -> list[ReadLocator]:
        header = self.header
        if header is None:
            return []
        entries = self.locator_entries
        used = [entry for entry in entries if entry != FREE and not entry.is_free]
        if not used:
            return []
        taken = [(header.table_offset, header.table_offset + header.max_table_entries * 4)]
        # Data behind blocks is legal, data inside one is the guest's.
        wanted = [
            (one.platform_data_offset, one.platform_data_offset + one.platform_data_length)
            for one in used
            if one.platform_data_offset < self.data_end
        ]
        taken += self.blocks_over(wanted)
        return read_locators(
            self.file, entries, self.footers.head, self.metadata_end, self.data_end, taken
        )

    def blocks_over(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Allocated blocks, as byte ranges, that overlap one of a few ranges of the file."""
        found: list[tuple[int, int]] = []
        stride = self.bitmap_bytes + self.block_size_bytes
        if not ranges:
            return found
        highest = min(max([stop for _, stop in ranges]), self.data_end)
        for _block, entry in self.bat.below(-(-highest // SECTOR_BYTES)):
            start = entry * SECTOR_BYTES
            if any(start < stop and begin < start + stride for begin, stop in ranges):
                found.append((start, start + stride))
                if len(found) > 4096:  # a damaged BAT that names one place again and again
                    break
        return found

    def stored_headers(self) -> bytes:
        """Footers, header and locator data as opened: what a change of metadata changes."""
        pieces = [self.footers.end.raw]
        if self.header is not None:
            pieces += [self.footers.front.raw, self.header_bytes]
            pieces += [one.locator.raw for one in self.read_locators()]
        return b"".join(pieces)

    def plan_parent_link(self, parent: NewParent) -> HeaderRewrite:
        """See `Image`. Raises the write refusal, `E_NAME`, `E_NOT_DIFFERENCING`."""
        return link.plan_parent_link(self, parent)

    log_waits = False  # a VHD has no log

    def plan_replay(self) -> LogReplay:
        """See `Image`."""
        raise ImageError(
            "E_NOTHING_TO_REPLAY", "A VHD has no log to be replayed.", file=self.file.path
        )

    def replay_log(self) -> None:
        """See `Image`."""
        self.plan_replay()

    def is_linked_to(self, parent: NewParent) -> bool:
        """See `Image`."""
        return link.is_linked_to(self, parent)

    def recorded_link(self) -> dict[str, Any]:
        """See `Image`."""
        return link.recorded_link(self)

    def plan_recorded_link(self, recorded: dict[str, Any]) -> HeaderRewrite:
        """See `Image`."""
        return link.plan_recorded_link(self, recorded)

    def plan_repair(self) -> HeaderRewrite:
        """See `Image`: the footer from its copy, or the copy from the footer."""
        return repair.plan_repair(self)

    def plan_expand(self, new_size_bytes: int, *, keeps_identity: bool = False) -> Expansion:
        """See `Image`. A larger VHD is the same disk in any case."""
        from disks.engine.vhd import expand  # inspecting does not need it

        return expand.plan_expand(self, new_size_bytes)

    def plan_compaction(self, absent: Collection[int], zeros: Collection[int] = ()) -> Compaction:
        """See `Image`."""
        from disks.engine.vhd import compact

        return compact.plan_compaction(self, absent)

    def plan_round(self, round: Round) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhd import compact

        return compact.plan_round(self, round)

    def plan_end(self) -> HeaderRewrite | None:
        """See `Image`."""
        from disks.engine.vhd import compact

        return compact.plan_end(self)

    # Taking in what a child holds

    def plan_identity(self, identity: str) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhd import face

        return face.plan_identity(self, identity)

    def plan_face(self, of: Image) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhd import face

        if not isinstance(of, VhdImage):
            raise TypeError("a VHD takes the face of a VHD only")
        return face.plan_face(self, of)

    def plan_parent_identity(self, identity: str) -> HeaderRewrite:
        """See `Image`."""
        return link.plan_parent_identity(self, identity)

    def plan_hold(self, wanted: Iterator[Wanted], limits: Limits) -> HoldPlan:
        """See `Image`."""
        from disks.engine.vhd import hold

        return hold.plan_hold(self, wanted, limits)

    def growth_bytes(self, wanted: Iterator[Wanted]) -> int:
        """See `Image`."""
        from disks.engine.vhd import hold

        return hold.growth_bytes(self, wanted)

    def needed_bytes(self) -> int:
        """See `Image`."""
        if self.disk_type is DiskType.FIXED:
            return self.virtual_size_bytes + footer.FOOTER_BYTES
        ends = (
            entry * SECTOR_BYTES + self.block_bytes(block) for block, entry in self.bat.allocated()
        )
        return max(ends, default=0)

    # The blocks

    def blocks_allocated(self) -> int:
        """Blocks of the disk that are in the file, counted once; 0 for a fixed disk."""
        if self._allocated is None:
            fixed = self.disk_type is DiskType.FIXED
            self._allocated = 0 if fixed else self.bat.count_allocated()
        return self._allocated

    def block_runs(self) -> Iterator[tuple[int, int, Source]]:
        """See `Image`; none for a fixed disk."""
        if self.disk_type is DiskType.FIXED:
            return iter(())
        absent = Source.PARENT if self.disk_type is DiskType.DIFFERENCING else Source.ZERO
        used = ((block, Source.DATA) for block, _ in self.bat.allocated())
        return block_runs(used, self.blocks_total, absent)

    def end_of_use(self) -> int:
        """See `Image`: a VHD is found by its footer at the file's end."""
        return self.file.size_bytes

    def extents(self, first_sector: int, count_sectors: int) -> Iterator[Extent]:
        """See `Image`: the one loop that cuts requests at block boundaries."""
        return extents.extents(self, first_sector, count_sectors)

    # For people

    def properties(self) -> list[tuple[str, str]]:
        """See `Image`."""
        from disks.engine.vhd import properties

        return properties.properties(self)

    @property
    def hidden(self) -> bool:
        """blktap's hidden byte: the disk is an inner node that no machine uses."""
        return self.footer.hidden == 1

    def raw_regions(self) -> list[RawRegion]:
        """See `Image`."""
        return raw_view.regions(self.file)

    def copy_traits(self) -> dict[str, Any]:
        """See `Image`. blktap would look for a tdbatmap behind the BAT, which copies lack."""
        f = self.footer
        version = 1 if f.creator_application == b"tap\0" else f.creator_version
        return {
            "creator": (f.creator_application, version, f.creator_host_os),
            "created": self.created,
            "geometry": (f.cylinders, f.heads, f.sectors_per_track),
        }

    def child_traits(self) -> dict[str, Any]:
        """See `Image`."""
        f = self.footer
        return {"geometry": (f.cylinders, f.heads, f.sectors_per_track)}

    def close(self) -> None:
        self.file.close()
