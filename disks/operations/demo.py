"""A storage root to try things out on: real disks with the troubles that people have.

Made by the engine's own writer, laid out and named as Windows does it, the same on every
machine. What is broken was broken the way it happens: a folder moved, a file replaced, a
few bytes overwritten. About 200 MB.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from disks.engine.files import ImageFile
from disks.engine.formats import open_image
from disks.engine.images import DiskType
from disks.engine.new_image import NewImage
from disks.engine.parent_link import NewParent
from disks.engine.units import MIB, SECTOR_BYTES
from disks.operations.paths import Roots
from disks.operations.rules import format_of_name
from disks.operations.storage_roots import Root

WINDOWS_VIEW = "C:\\VMs"
BLOCK_BYTES = 2 * MIB
SECTORS_PER_BLOCK = BLOCK_BYTES // SECTOR_BYTES
WINDOWS_10 = (b"win ", 0x000A0000, b"Wi2k")  # creator, its version, its system: as diskpart has it
FIRST_DAY = datetime(2026, 9, 1, 8, 0, tzinfo=UTC)

LAB_CHILDREN = 5
CHECKPOINTS = 5
PILE_FORMAT = "vhdx"  # of the checkpoint pile; any that `formats.py` lists
_ENDINGS = {"vhd": (".vhd", ".avhd"), "vhdx": (".vhdx", ".avhdx")}  # of a base, of a checkpoint


@dataclass(frozen=True)
class Run:
    """Sectors of one virtual disk to be filled: with noise, or with written zeros."""

    first_sector: int
    count_sectors: int
    zeros: bool = False


def blocks(*indexes: int, zeros: bool = False) -> list[Run]:
    return [Run(index * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK, zeros) for index in indexes]


def make(folder: str) -> list[str]:
    """Fill an empty folder; the paths of all files made, as they lie in the end.

    Raises FileExistsError when something is in it already, ImageError when the storage fails.
    """
    os.makedirs(folder, exist_ok=True)
    if os.listdir(folder):
        raise FileExistsError(f"{folder} is not empty")
    demo = _Demo(folder)
    demo.healthy_chain()
    demo.moved_base()
    demo.replaced_parent()
    demo.twin_in_backup()
    demo.moved_vhdx_base()
    demo.written_parent()
    demo.mostly_zeros()
    demo.checkpoint_pile()
    demo.damaged_footer()
    demo.no_disk()
    return demo.finished()


class _Demo:
    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self.roots = Roots([Root(self.folder, name="demo", windows_views=(WINDOWS_VIEW,))])
        self.made: dict[str, datetime] = {}  # path below the folder: when it was last written
        self.day = FIRST_DAY

    # --- the scenes ---

    def healthy_chain(self) -> None:
        """A base, a month of updates, today: nothing to do here but merge."""
        base = "Web server/web-base.vhd"
        self._disk(base, blocks(0, 1, 2, 3, 8), virtual_bytes=512 * MIB)
        updates = "Web server/web-updates.vhd"
        self._child(updates, base, [Run(40, 700), Run(9000, 4000), *blocks(10)])
        self._child("Web server/web-today.vhd", updates, [Run(64, 9), Run(9100, 333)])

    def moved_base(self) -> None:
        """Somebody tidied up: the base of five disks went to another folder."""
        base = "Bases/windows10.vhd"
        self._disk(base, blocks(0, 1, 2, 5), virtual_bytes=512 * MIB)
        for number in range(1, LAB_CHILDREN + 1):
            name = f"Lab/lab-{number:02}.vhd"
            self._child(name, base, [Run(100 * number, 50), Run(20480 + number * 8, 64)])
        self._move(base, "Archive 2025/windows10.vhd")

    def replaced_parent(self) -> None:
        """Restored under the old name, but from another machine: not the parent any more."""
        base = "Accounting/ledger-base.vhd"
        self._disk(base, blocks(0, 1), virtual_bytes=256 * MIB)
        self._child("Accounting/ledger.vhd", base, [Run(2048, 512)])
        os.unlink(self._host(base))
        self._disk(base, blocks(0, 3), virtual_bytes=256 * MIB, edition=2)

    def twin_in_backup(self) -> None:
        """A copy in a backup folder has the same identity; the header's path decides."""
        base = "Mail/mail-base.vhd"
        self._disk(base, blocks(0, 1), virtual_bytes=256 * MIB)
        self._child("Mail/mail.vhd", base, [Run(128, 256)])
        self._copy(base, "Backup/Monday/mail-base.vhd")

    def moved_vhdx_base(self) -> None:
        """The same trouble as today's Hyper-V has it: the base of three VHDX disks was moved."""
        base = "Bases/windows11.vhdx"
        self._disk(base, blocks(0, 1), virtual_bytes=2048 * MIB)
        for number in (1, 2):
            runs = [Run(300 * number, 80), Run(3_000, 16 * number)]
            self._child(f"Desktops/desktop-{number:02}.vhdx", base, runs)
        self._child("Desktops/desktop-02-test.vhdx", "Desktops/desktop-02.vhdx", [Run(301, 20)])
        self._move(base, "Archive 2026/windows11.vhdx")

    def written_parent(self) -> None:
        """Somebody mounted the base and wrote to it: it is the same disk with other content."""
        base = "Payroll/payroll-base.vhdx"
        self._disk(base, blocks(0, 1), virtual_bytes=1024 * MIB)
        self._child("Payroll/payroll.vhdx", base, [Run(4096, 700)])
        os.unlink(self._host(base))
        self._disk(base, blocks(0, 4), virtual_bytes=1024 * MIB, edition=2)

    def mostly_zeros(self) -> None:
        """Deleted files were wiped: two thirds of the blocks hold zeros and can be won back."""
        runs = [
            Run(index * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK, zeros=index % 3 != 0)
            for index in range(15)
        ]
        self._disk("Files/share.vhd", runs, virtual_bytes=256 * MIB)

    def checkpoint_pile(self) -> None:
        """A backup program left its checkpoints behind; Hyper-V shows none of them.

        Their names tell nothing of their order: each is called after a GUID.
        """
        whole, checkpoint = _ENDINGS[PILE_FORMAT]
        below = f"SRV01/Virtual Hard Disks/srv01{whole}"
        self._disk(below, blocks(0), virtual_bytes=512 * MIB)
        for number in range(1, CHECKPOINTS + 1):
            guid = _identity(f"srv01 checkpoint {number}").upper()
            name = f"SRV01/Virtual Hard Disks/srv01_{guid}{checkpoint}"
            self._child(name, below, [Run(600 * number, 400)])
            below = name

    def damaged_footer(self) -> None:
        """A tool wrote over the end of the file; the copy at its start is whole."""
        name = "Files/old-scans.vhd"
        self._disk(name, blocks(0), virtual_bytes=64 * MIB)
        with open(self._host(name), "r+b") as file:
            file.seek(-SECTOR_BYTES, os.SEEK_END)
            file.write(b"\xde\xad\xbe\xef" * 16)

    def no_disk(self) -> None:
        """The extension promises a disk; the content decides."""
        name = "Files/readme.vhd"
        with open(self._host(name), "w", encoding="utf-8") as file:
            file.write("Ask Petra where the scans of 2024 are. This is not a disk.\n" * 20)
        self.made[name] = self.day

    # --- files ---

    def _disk(
        self, name: str, runs: Iterable[Run], *, virtual_bytes: int, edition: int = 1
    ) -> None:
        self._write(
            name,
            runs,
            NewImage(
                DiskType.DYNAMIC,
                virtual_bytes,
                BLOCK_BYTES,
                identity=_identity(name, edition),
                creator=WINDOWS_10,
                created=self.day,
                virtual_disk_id=_identity(f"{name} and its chain"),
            ),
            seed=f"{name} {edition}",
        )

    def _child(self, name: str, parent: str, runs: Iterable[Run]) -> None:
        host, host_parent = self._host(name), self._host(parent)
        windows = self.roots.windows_path(host_parent)
        if windows is None:
            raise ValueError(f"{host_parent} has no Windows path")
        with self.roots.open(host_parent) as file:
            image = open_image(file)
            # Windows 10 stores the full path in the name field, and no time for the parent.
            link = NewParent(
                identity=image.identity,
                name=windows,
                relative_path=self.roots.relative_windows_path(host, host_parent),
                windows_path=windows,
            )
            size, traits = image.virtual_size_bytes, image.child_traits()
        new = NewImage(
            DiskType.DIFFERENCING,
            size,
            BLOCK_BYTES,
            identity=_identity(name),
            parent=link,
            creator=WINDOWS_10,
            created=self.day,
        )
        self._write(name, runs, replace(new, **traits), seed=name)

    def _write(self, name: str, runs: Iterable[Run], new: NewImage, *, seed: str) -> None:
        """The extension says of which format."""
        new = replace(new, file_write_guid=_identity(f"{seed} as written"))
        ordered = sorted(runs, key=lambda run: run.first_sector)
        touched = {
            block
            for run in ordered
            for block in range(
                run.first_sector // SECTORS_PER_BLOCK,
                (run.first_sector + run.count_sectors - 1) // SECTORS_PER_BLOCK + 1,
            )
        }
        noise = random.Random(seed)  # noqa: S311 - the same content everywhere is the point
        host = self._host(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with ImageFile(os.open(host, flags, 0o644), host, writable=True) as file:
            writer = format_of_name(name).writer(file, new, blocks=len(touched))
            for run in ordered:
                size = run.count_sectors * SECTOR_BYTES
                writer.write(run.first_sector, bytes(size) if run.zeros else noise.randbytes(size))
            writer.finish()
        self.day += timedelta(days=1)
        self.made[name] = self.day

    def _move(self, name: str, to: str) -> None:
        os.rename(self._host(name), self._host(to))
        os.rmdir(os.path.dirname(self._host(name, make_folder=False)))
        self.made[to] = self.made.pop(name)

    def _copy(self, name: str, to: str) -> None:
        with open(self._host(name), "rb") as source, open(self._host(to), "wb") as target:
            while piece := source.read(4 * MIB):
                target.write(piece)
        self.made[to] = self.made[name]

    def _host(self, name: str, *, make_folder: bool = True) -> str:
        path = os.path.join(self.folder, *name.split("/"))
        if make_folder:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def finished(self) -> list[str]:
        """Last-written times as a history would have left them, parents before children."""
        paths = []
        for name, when in sorted(self.made.items()):
            path = self._host(name)
            os.utime(path, (when.timestamp(), when.timestamp()))
            paths.append(path)
        self.roots.close()
        return paths


def _identity(name: str, edition: int = 1) -> str:
    """Stable for a name, so that every demo root is the same; looks like a random one."""
    return str(uuid.UUID(bytes=random.Random(f"{name} {edition}").randbytes(16), version=4))  # noqa: S311
