"""An opened VHDX: what its headers and items say, and what can be read and planned by them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
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
from disks.engine.units import MIB, SECTOR_BYTES
from disks.engine.vhdx import bat, extents, headers, log, metadata, parent_locator, regions
from disks.engine.vhdx.bat import BlockAllocationTable, Geometry, offset_of, state_of
from disks.engine.vhdx.guid import guid_text
from disks.engine.vhdx.parent_locator import ParentLocator

_CREATOR_AT = len(headers.SIGNATURE)


class VhdxImage:
    """Implements `Image` for VHDX. A log that waits is replayed in memory before all reading."""

    format_name = "vhdx"
    created: datetime | None = None  # not stored in a VHDX
    hidden = False
    states_zeros = True

    def __init__(self, file: ImageFile) -> None:
        """Raises ImageError where the structures are not sound enough to read the disk.

        `E_VHDX_HEADER`, `E_VERSION`, `E_VHDX_LOG`, `E_VHDX_REGION`, `E_VHDX_METADATA`,
        `E_SIZE`, `E_BLOCK_SIZE`, `E_TYPE_CONFLICT`, `E_VHDX_BAT`, `E_TRUNCATED`.
        """
        self.stored_file = file  # as it is; `file` reads as it will be once the log is replayed
        self.findings: list[Finding] = []
        self.headers = headers.read_headers(file)
        header = self.headers.header
        self.findings += headers.findings(self.headers)
        self.updates: log.Updates | None = None
        self.file: ImageFile = file
        self.log_problem = headers.log_problem(self.headers, file.size_bytes)
        if header.has_log:
            self._replay(file)
        elif self.log_problem is not None:
            self.findings.append(Finding.from_error(self.log_problem))
        log_range = self.headers.log_range(self.log_problem)
        self.table = regions.read_table(self.file, log_range)
        self.findings += regions.findings(self.table)
        self.metadata = found = metadata.read_metadata(self.file, self.table.metadata)
        self.findings += metadata.findings(found)
        self.virtual_size_bytes = found.virtual_bytes
        self.logical_sector_bytes = found.logical_sector_bytes
        self.block_size_bytes = found.block_bytes
        self.identity = guid_text(header.data_write_guid)
        self.virtual_disk_id: str | None = guid_text(found.virtual_disk_id)
        self.file_write_guid: str | None = guid_text(header.file_write_guid)
        self.creator = _creator(file)
        self.disk_type = DiskType.DYNAMIC
        self.locator: ParentLocator | None = None
        if found.locator is not None:
            self.disk_type = DiskType.DIFFERENCING
            self.locator = parent_locator.parse(*found.locator)
        elif found.leaves_blocks_allocated:
            self.disk_type = DiskType.FIXED
        self.geometry = self._geometry()
        self.blocks_total = self.geometry.blocks
        self.sectors_per_block = found.block_bytes // SECTOR_BYTES
        self.bat = BlockAllocationTable(self.file, self.table.bat.offset, self.geometry)
        taken = [(region.offset, region.end) for region in self.table.regions]
        self.taken = sorted([*taken, log_range])  # disjoint, as the table was judged
        self.runs_known = RunCache()
        self.write_refusal: ImageError | None = self._write_refusal()

    def _replay(self, file: ImageFile) -> None:
        if self.log_problem is not None:
            self.log_problem.file = file.path
            raise self.log_problem
        self.updates = log.find_updates(file, self.headers.header)
        self.file = log.Replayed(file, self.updates)
        count = len(self.updates.entries)
        waits = (
            "it holds 1 entry of changes" if count == 1 else f"it holds {count} entries of changes"
        )
        self.findings.append(
            Finding(
                Level.WARNING,
                "W_LOG",
                f"The log waits to be replayed: {waits} that whoever wrote the disk last did not "
                "bring to their places. The disk is read as if they were there; nothing is written "
                "to it before the log is replayed.",
                "log_guid",
                self.headers.current.offset + headers.FIELDS["log_guid"][0],
                guid_text(self.headers.header.log_guid),
            )
        )

    def _geometry(self) -> Geometry:
        found = self.metadata
        geometry = Geometry.of(
            found.virtual_bytes, found.block_bytes, found.logical_sector_bytes, found.has_parent
        )
        if geometry.entries * bat.ENTRY_BYTES > self.table.bat.length:
            raise ImageError(
                "E_VHDX_BAT",
                f"The block allocation table has {self.table.bat.length:,} bytes, too few for "
                f"the {geometry.entries:,} entries that the disk's size needs.",
                file=self.file.path,
                field="block_allocation_table",
                offset=self.table.bat.offset,
                value=geometry.entries,
            )
        return geometry

    def _write_refusal(self) -> ImageError | None:
        """Why nothing may be written: first what is decided and not done, then what is broken."""
        path = self.file.path
        if self.updates is not None:
            return ImageError(
                "E_LOG",
                "The disk's log holds changes that are not in their place yet; until then "
                "nothing is written to the disk.",
                file=path,
                field="log_guid",
                offset=self.headers.current.offset + headers.FIELDS["log_guid"][0],
            )
        for finding in self.findings:
            if finding.code in ("E_VHDX_HEADER", "E_VHDX_LOG"):
                return ImageError(
                    finding.code,
                    finding.message,
                    file=path,
                    field=finding.field,
                    offset=finding.offset,
                    value=finding.value,
                )
        return None

    # The parent link

    @property
    def parent(self) -> ParentReference | None:
        """What the parent locator says; None without one."""
        return None if self.locator is None else parent_locator.reference(self.locator)

    def plan_parent_link(self, parent: NewParent) -> HeaderRewrite:
        """See `Image`. Raises the write refusal, `E_NAME`, `E_NOT_DIFFERENCING`."""
        from disks.engine.vhdx import link

        return link.plan_parent_link(self, parent)

    def is_linked_to(self, parent: NewParent) -> bool:
        """See `Image`."""
        from disks.engine.vhdx import link

        return link.is_linked_to(self, parent)

    def recorded_link(self) -> dict[str, Any]:
        """See `Image`."""
        from disks.engine.vhdx import link

        return link.recorded_link(self)

    def plan_recorded_link(self, recorded: dict[str, Any]) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhdx import link

        return link.plan_recorded_link(self, recorded)

    @property
    def log_waits(self) -> bool:
        """See `Image`."""
        return self.updates is not None

    def plan_replay(self) -> LogReplay:
        """See `Image`."""
        from disks.engine.vhdx import replay

        return replay.plan_replay(self)

    def replay_log(self) -> None:
        """See `Image`."""
        from disks.engine.vhdx import replay

        replay.replay(self.stored_file)

    def plan_expand(self, new_size_bytes: int, *, keeps_identity: bool = False) -> Expansion:
        """See `Image`."""
        from disks.engine.vhdx import expand

        return expand.plan_expand(self, new_size_bytes, keeps_identity=keeps_identity)

    def plan_compaction(self, absent: Collection[int], zeros: Collection[int] = ()) -> Compaction:
        """See `Image`."""
        from disks.engine.vhdx import compact

        return compact.plan_compaction(self, absent, zeros)

    def plan_round(self, round: Round) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhdx import compact

        return compact.plan_round(self, round)

    def plan_end(self) -> HeaderRewrite | None:
        """See `Image`."""
        from disks.engine.vhdx import compact

        return compact.plan_end(self)

    # Taking in what a child holds

    def plan_identity(self, identity: str) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhdx import face

        return face.plan_identity(self, identity)

    def plan_face(self, of: Image) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhdx import face

        if not isinstance(of, VhdxImage):
            raise TypeError("a VHDX takes the face of a VHDX only")
        return face.plan_face(self, of)

    def plan_parent_identity(self, identity: str) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhdx import link

        return link.plan_parent_identity(self, identity)

    def plan_hold(self, wanted: Iterator[Wanted], limits: Limits) -> HoldPlan:
        """See `Image`."""
        from disks.engine.vhdx import hold

        return hold.plan_hold(self, wanted, limits)

    def growth_bytes(self, wanted: Iterator[Wanted]) -> int:
        """See `Image`."""
        from disks.engine.vhdx import hold

        return hold.growth_bytes(self, wanted)

    def needed_bytes(self) -> int:
        """See `Image`."""
        from disks.engine.vhdx import hold

        return hold.needed_bytes(self)

    def plan_repair(self) -> HeaderRewrite:
        """See `Image`."""
        from disks.engine.vhdx import repair

        return repair.plan_repair(self)

    # Content

    def blocks_allocated(self) -> int:
        """Payload blocks with room in the file."""
        return self.bat.count_present()

    @property
    def end_of_structures(self) -> int:
        """Where the last of the log and the regions ends."""
        header = self.headers.header
        ends = [one.end for one in self.table.regions]
        return max(header.log_offset + header.log_length, *ends)

    def end_of_use(self) -> int:
        """See `Image`."""
        end = self.end_of_structures
        for index, entry in self.bat.used():
            if state_of(entry) >= bat.FULLY_PRESENT:
                length = MIB if self.geometry.is_bitmap(index) else self.block_size_bytes
                end = max(end, offset_of(entry) + length)
        return end

    def block_runs(self) -> Iterator[tuple[int, int, Source]]:
        """See `Image`; entries are told by their state, damaged ones too."""
        absent = Source.PARENT if self.disk_type is DiskType.DIFFERENCING else Source.ZERO
        return block_runs(self._used_blocks(absent), self.blocks_total, absent)

    def _used_blocks(self, absent: Source) -> Iterator[tuple[int, Source]]:
        for index, entry in self.bat.used():
            if self.geometry.is_bitmap(index):
                continue
            state = state_of(entry)
            source = Source.DATA
            if state == bat.NOT_PRESENT:
                source = absent
            elif state in bat.READ_AS_ZEROS:
                source = Source.ZERO
            yield self.geometry.block_of(index), source

    def extents(self, first_sector: int, count_sectors: int) -> Iterator[Extent]:
        """See `Image`. A damaged entry raises when its sectors are reached."""
        return extents.extents(self, first_sector, count_sectors)

    # For people

    def properties(self) -> list[tuple[str, str]]:
        """See `Image`."""
        from disks.engine.vhdx import properties

        return properties.properties(self)

    def stored_headers(self) -> bytes:
        """Headers, region table and items as opened: what a change of metadata changes."""
        pieces = [copy.raw for copy in self.headers.copies]
        pieces += [self.table.chosen.raw[: 16 + 32 * len(self.table.regions)]]
        pieces += [self.metadata.table_raw]
        if self.metadata.locator is not None:
            pieces.append(self.metadata.locator[1])
        return b"".join(pieces)

    def raw_regions(self) -> list[RawRegion]:
        """See `Image`."""
        from disks.engine.vhdx import raw_view

        return raw_view.raw_regions(self.stored_file)

    def copy_traits(self) -> dict[str, Any]:
        """See `Image`: the id that all disks of a chain share, and the sector sizes."""
        return {
            "virtual_disk_id": self.virtual_disk_id,
            "logical_sector_bytes": self.logical_sector_bytes,
            "physical_sector_bytes": self.metadata.physical_sector_bytes,
            "metadata_items": self._unknown_items(),
        }

    def child_traits(self) -> dict[str, Any]:
        """See `Image`. Of the items that are not known, those of the virtual disk."""
        items = self._unknown_items()
        of_disk = tuple(item for item in items if item[1] & metadata.IS_VIRTUAL_DISK)
        return self.copy_traits() | {"metadata_items": of_disk}

    def _unknown_items(self) -> tuple[tuple[bytes, int, bytes], ...]:
        """GUID, flags and value of items that copies keep without knowing what they are."""
        start = self.table.metadata.offset
        return tuple(
            (item.guid, item.flags, self.file.read_at(start + item.offset, item.length))
            for item in self.metadata.items
            if item.guid not in metadata.KNOWN or item.flags & metadata.IS_USER
        )

    def close(self) -> None:
        self.file.close()


def _creator(file: ImageFile) -> str:
    """The text of the file type identifier: diagnostic, and from outside."""
    raw = file.read_at(_CREATOR_AT, headers.CREATOR_BYTES)
    text = raw.decode("utf-16-le", "replace").partition("\0")[0]
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text).strip()
