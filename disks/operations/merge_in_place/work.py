"""One merge in place as its sidecar `.P.vdmerge` keeps it: all that finishing it takes."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from disks.engine.files import FileIdentity
from disks.operations import journal, steps
from disks.operations.journal import MERGE, Sidecar
from disks.operations.paths import Roots
from disks.operations.trash import manifests

BEGUN = "begun"  # identities are changing; nothing was moved yet: it is taken back
MERGING = "merging"  # batch after batch: it goes on
ENDING = "ending"  # all is moved; names and links follow


@dataclass(frozen=True)
class Work:
    """base: the disk merged into; levels: what is merged into it, leaf first, host paths.

    surviving      the path that the merged disk gets: base, or the leaf's
    base_parent    of a differencing base: where its parent lies
    relink         children of the leaf that need a new parent path
    inodes         of the levels, then of base
    old_identity   of base before; old_link: of the level above it, as stored
    identity       that base gets for the time of the merge, and the level above it is told
    position       sectors before it are moved; batch: the last one that is known complete
    seen           of the levels, as they were when they were last begun with: batches.seen()
    file           base after the last batch of a merge that was stopped between two
    header         of base then: as_left.header_of(); None: not known, of an older record
    stopped        somebody stopped it, or it said why it cannot go on: it waits to be resumed
    garbled        offsets in base of pages that a crash garbled and that are being put back
    """

    base: str
    levels: tuple[str, ...]
    surviving: str
    job: str
    token: int
    manifest: manifests.Manifest
    inodes: tuple[int, ...]
    old_identity: str
    old_link: dict[str, Any]
    size_bytes: int
    base_parent: str = ""
    relink: tuple[str, ...] = ()
    state: str = BEGUN
    position: int = 0
    batch: int = 0
    identity: str = ""
    seen: tuple[tuple[int, ...], ...] = ()
    file: FileIdentity | None = None
    header: int | None = None
    stopped: bool = False
    garbled: tuple[int, ...] = ()
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def leaf(self) -> str:
        return self.levels[0]

    @property
    def above(self) -> str:
        """The disk whose parent base is."""
        return self.levels[-1]

    @property
    def others(self) -> list[str]:
        return [*self.levels, *self.relink]

    @property
    def pages_path(self) -> str:
        """Where the old pages of the batch at hand are kept."""
        return journal.sidecar_path(self.base, "pages")

    def at(self, state: str, **changes: Any) -> Work:
        return replace(self, state=state, **changes)

    def sidecar(self) -> Sidecar:
        folder = os.path.dirname(self.base)

        def below(path: str) -> str:
            return os.path.relpath(path, folder) if path else ""

        return Sidecar(
            kind=MERGE,
            disk=self.base,
            state=self.state,
            job=self.job,
            token=self.token,
            neighbours=tuple(self.others),
            record={
                "levels": [below(path) for path in self.levels],
                "surviving": below(self.surviving),
                "base_parent": below(self.base_parent),
                "relink": [below(path) for path in self.relink],
                "trash": below(self.manifest.primary),
                "manifest": self.manifest.stored(self.manifest.primary),
                "inodes": list(self.inodes),
                "old_identity": self.old_identity,
                "old_link": self.old_link,
                "size": self.size_bytes,
                "position": self.position,
                "batch": self.batch,
                "identity": self.identity,
                "seen": [list(row) for row in self.seen],
                "file": self.file.as_dict() if self.file else None,
                "header": self.header,
                "stopped": self.stopped,
                "garbled": list(self.garbled),
                "result": self.result,
            },
            help=_help(self),
        )

    @classmethod
    def from_sidecar(cls, sidecar: Sidecar) -> Work:
        """Raises E_SIDECAR if the record is not one of these."""
        folder, record = os.path.dirname(sidecar.disk), sidecar.record

        def above(name: Any) -> str:
            return journal.path_of(folder, name) if name else ""

        try:
            work = cls(
                base=sidecar.disk,
                levels=tuple(above(name) for name in record["levels"]),
                surviving=above(record["surviving"]),
                job=sidecar.job,
                token=sidecar.token,
                manifest=manifests.Manifest.from_stored(record["manifest"], above(record["trash"])),
                inodes=tuple(int(inode) for inode in record["inodes"]),
                old_identity=str(record["old_identity"]),
                old_link=dict(record["old_link"]),
                size_bytes=int(record["size"]),
                base_parent=above(record["base_parent"]),
                relink=tuple(above(name) for name in record["relink"]),
                state=sidecar.state,
                position=int(record["position"]),
                batch=int(record["batch"]),
                identity=str(record["identity"]),
                seen=tuple(tuple(int(part) for part in row) for row in record["seen"]),
                file=FileIdentity.from_dict(record["file"]) if record["file"] else None,
                header=None if record.get("header") is None else int(record["header"]),
                # Before it had a word of its own, a stop was known by the file.
                stopped=bool(record.get("stopped", record["file"])),
                garbled=tuple(int(offset) for offset in record.get("garbled", ())),
                result=journal.result_of(record),
            )
            if (
                not work.levels
                or "" in (*work.levels, *work.relink)
                or len(work.inodes) != len(work.levels) + 1
                or work.surviving not in (work.base, work.leaf)
                or not work.manifest.is_believable
                or [entry.original for entry in work.manifest.entries] != list(work.levels)
                or work.position < 0
                or not 0 <= work.batch < 2**63
            ):
                raise ValueError("no such merge could have written it")
        except journal.UNREADABLE as error:
            raise journal.not_understood(sidecar) from error
        return work


def write(roots: Roots, work: Work) -> None:
    journal.write(roots, work.sidecar())


def key(work: Work) -> int:
    """Tells this merge's old pages from those of any other on the same disk."""
    told = f"{work.job} {work.inodes} {work.old_identity}"
    return zlib.crc32(told.encode(errors="backslashreplace"))


def pointers(work: Work) -> list[Sidecar]:
    """One sidecar in every other folder whose disks the merge touches (R10)."""
    return steps.pointers(work.base, work.others, job=work.job, token=work.token, kind=MERGE)


def _help(work: Work) -> str:
    merged = " + ".join(os.path.basename(path) for path in reversed(work.levels))
    return "\n".join(
        [
            f"vdadmin: a merge in place of {merged} into {os.path.basename(work.base)}.",
            "",
            f"Finish it with:  manage.py disk recover {os.path.dirname(work.base)}",
            "",
            f"Until then {os.path.basename(work.leaf)} reads as it always did and may be used.",
            f"Do not open {os.path.basename(work.base)} or the disks between by themselves, and",
            "delete nothing: what was moved already cannot be taken back, only finished.",
            "",
        ]
    )
