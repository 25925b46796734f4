"""What is fuzzed: everything that reads bytes which somebody else may have written.

A target takes a fuzzer's bytes and does what console and command line do with such a file.
Only a typed error may come out of it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from disks.engine import formats
from disks.engine.chain import open_chain
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.holding import Limits, Wanted
from disks.engine.images import DiskType, Image
from disks.engine.parent_link import NewParent
from disks.engine.units import SECTOR_BYTES
from disks.operations import journal, windows
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root
from disks.operations.trash import manifests
from disks.tests.builders import VHD, VHDX
from disks.tests.engine.world import World, open_file
from disks.tests.fuzz.damage import Bytes, Template, damaged, templates
from disks.tests.fuzz.records import Left, all_left

Target = Callable[[bytes], None]
_LOOKED_AT_SECTORS = 9000
_IDENTITY = "5eed5eed-0000-4000-8000-000000000001"


def all_targets(folder: Path) -> dict[str, Target]:
    """Targets by name. folder: empty, for their files; it may be in memory."""
    disks = templates(folder)
    places = World(folder, windows={"C:\\VMs": str(folder)})
    roots = Roots([Root(str(folder), windows_views=("C:\\VMs",))])
    left = functools.cache(lambda: all_left(folder / "left", VHD))
    left_logged = functools.cache(lambda: all_left(folder / "left", VHDX))
    return {
        "vhd": lambda data: _disk([one for one in disks if _is(one, ".vhd")], places, data),
        "vhdx": lambda data: _disk([one for one in disks if _is(one, ".vhdx")], places, data),
        "any-file": lambda data: _any_file(folder / "any.vhd", places, data),
        "sidecar": lambda data: _sidecar(folder, roots, data),
        "recovery": lambda data: _recovery(left(), data),
        "recovery-vhdx": lambda data: _recovery(left_logged(), data),
        "manifest": lambda data: _manifest(folder, roots, data),
        "windows-path": lambda data: _windows_path(folder, roots, data),
    }


def starting_points(folder: Path) -> dict[str, list[bytes]]:
    """Inputs to begin with, for targets whose bytes are a whole file."""
    templates(folder)
    roots = Roots([Root(str(folder))])
    disk = str(folder / "base.vhd")
    record = {"pages": [], "size_before": 1, "file": {}}
    journal.write(roots, journal.Sidecar(journal.UNDO, disk, "prepared", record=record, help="x"))
    sidecar = (folder / ".base.vhd.vdundo").read_bytes()
    with open_file(disk) as file:
        entry = manifests.Entry(
            disk, f"{folder}/.vdtrash/7/base.vhd", file.identity(), "a", "merged"
        )
    manifest = manifests.Manifest(
        f"{folder}/.vdtrash/7",
        job="7",
        kind="merge",
        summary="",
        created="",
        primary=f"{folder}/.vdtrash/7",
        entries=[entry],
    )
    paths = ["C:\\VMs\\a.vhd", ".\\a.vhd", "\\\\?\\Volume{0}\\a.vhd", "\\\\host\\share\\a.vhd"]
    return {
        "any-file": [path.read_bytes() for path in folder.glob("*.vhd")],
        "sidecar": [b"\0" + sidecar, b"\1" + sidecar.split(b"\n", 1)[1]],
        "manifest": [json.dumps(manifest.stored(manifest.folder)).encode()],
        "windows-path": [text.encode("utf-16-le") for text in paths],
    }


def _is(template: Template, extension: str) -> bool:
    return template.built.path.suffix == extension


def _disk(disks: list[Template], places: World, data: bytes) -> None:
    """A disk with fields changed and, mostly, right checksums."""
    source = Bytes(data)
    template = disks[source.number() % len(disks)]
    with damaged(template, source) as path:
        _look(path, places)


def _any_file(path: Path, places: World, data: bytes) -> None:
    """A file of these very bytes."""
    path.write_bytes(data)
    _look(path, places)
    path.unlink()


def _look(path: Path, places: World) -> None:
    places.opened.clear()
    with open_file(path) as file, contextlib.suppress(ImageError):
        image = formats.open_image(file)
        _ask(image)
    with open_file(path) as file:
        check_image(file, deep=True)
    with contextlib.suppress(ImageError), open_chain(str(path), places) as chain:
        chain.read(0, min(64, chain.sectors))


def _ask(image: Image) -> None:
    """Everything that can be asked of an opened disk without writing to it."""
    size = image.file.size_bytes
    sectors = image.virtual_size_bytes // SECTOR_BYTES
    plans: list[Callable[[], object]] = [
        image.blocks_allocated,
        image.properties,
        image.raw_regions,
        image.copy_traits,
        image.child_traits,
        image.plan_repair,
        image.plan_replay,
        lambda: image.plan_expand(image.virtual_size_bytes + 1024 * 1024),
        lambda: image.plan_parent_link(NewParent(image.identity, "b", ".\\b", "D:\\b")),
        image.needed_bytes,
        image.stored_headers,
        lambda: image.end_of_use,
        lambda: image.plan_identity(_IDENTITY),
        lambda: image.plan_face(image),
        lambda: image.growth_bytes(_wanted(sectors)),
        lambda: _hold(image, sectors),
    ]
    if image.disk_type is not DiskType.FIXED:
        plans += [
            image.plan_end,
            lambda: image.plan_compaction([]),
            lambda: image.plan_compaction([0], [1] if image.states_zeros else []),
        ]
    if image.disk_type is DiskType.DIFFERENCING:
        plans += [
            lambda: image.parent,
            lambda: image.plan_recorded_link(image.recorded_link()),
            lambda: image.plan_parent_identity(_IDENTITY),
        ]
    for plan in plans:
        with contextlib.suppress(ImageError):
            plan()
    for first in {0, max(0, sectors - _LOOKED_AT_SECTORS)}:
        with contextlib.suppress(ImageError):
            for extent in image.extents(first, min(_LOOKED_AT_SECTORS, sectors - first)):
                if extent.file_offset is not None:
                    end = extent.file_offset + extent.count_sectors * SECTOR_BYTES
                    assert 0 <= extent.file_offset < end <= size
    with contextlib.suppress(ImageError):
        for _ in zip(image.block_runs(), range(1000), strict=False):
            pass


def _wanted(sectors: int) -> Iterator[Wanted]:
    """What a merge moves into a disk: at its beginning, and at its end."""
    for first, zeros in ((0, False), (max(8, sectors - 8), True)):
        if first + 8 <= sectors:
            yield Wanted(first, 8, zeros)


def _hold(image: Image, sectors: int) -> None:
    held = image.plan_hold(_wanted(sectors), Limits(1024 * 1024, 1000))
    for place in held.places:
        end = place.file_offset + place.count_sectors * SECTOR_BYTES
        assert 0 <= place.file_offset < end <= held.size_after_bytes


def _sidecar(folder: Path, roots: Roots, data: bytes) -> None:
    """A record beside a disk: any bytes, or any record behind a right checksum."""
    source = Bytes(data)
    sealed = source.number() & 1
    rest = data[1:]
    if sealed:
        rest = b"VDADMIN-SIDECAR 1 undo %08x\n" % zlib.crc32(rest) + rest
    path = folder / ".base.vhd.vdundo"
    path.write_bytes(rest)
    for _ in journal.sidecars_in(roots, str(folder)):
        pass
    with contextlib.suppress(ImageError):
        journal.require_settled(roots, [str(folder / "base.vhd")])
    path.unlink()


def _recovery(left: list[Left], data: bytes) -> None:
    """What an interrupted operation left, with other values in its record or its old pages."""
    source = Bytes(data)
    left[source.number() % len(left)].recover(source)


def _manifest(folder: Path, roots: Roots, data: bytes) -> None:
    job = folder / ".vdtrash" / "7"
    os.makedirs(job, exist_ok=True)
    (job / manifests.MANIFEST).write_bytes(data)
    with contextlib.suppress(ImageError):
        manifests.read(roots, str(job))


def _windows_path(folder: Path, roots: Roots, data: bytes) -> None:
    """A path as it stands in a locator; it may never lead out of the root."""
    text = data.decode("utf-16-le" if len(data) % 2 == 0 else "utf-8", "replace")
    with contextlib.suppress(ImageError):
        windows.parse_absolute(text)
    with contextlib.suppress(ImageError):
        found = roots.beside(str(folder / "child.vhd"), text)
        assert found.startswith(f"{folder}/") or found == str(folder)
    with contextlib.suppress(ImageError):
        for found in roots.from_windows(text):
            assert found.startswith(str(folder))
