"""Reading a disk through its parents, sector by sector as the images say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from disks.engine import formats
from disks.engine.check import pair_errors
from disks.engine.errors import ImageError, ParentMissing, require_inside, unreadable
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.images import Extent, Image, Source
from disks.engine.resolution import find_parent
from disks.engine.resolution.outcome import Resolution
from disks.engine.resolution.places import Places
from disks.engine.units import MIB, SECTOR_BYTES
from disks.engine.walk import Report, unreported

LIMIT = 256
LONG_CHAIN = 30  # more levels than any manager makes on purpose
_PIECE_BYTES = 1 * MIB
_REPORT_BYTES = 4 * MIB
_WINDOW_SECTORS = 64 * MIB // SECTOR_BYTES  # looked up at once, however little of it is stored


class ChainExtent(NamedTuple):
    """A run of sectors from one place.

    level        index into the view's images (0 is its leaf); None unless source is DATA
    file_offset  bytes, in that image's file; None unless source is DATA
    source       ZERO: reads as zeros; PARENT: below the levels of a partial view
    """

    first_sector: int
    count_sectors: int
    level: int | None
    file_offset: int | None
    source: Source


class ChainView:
    """Some neighbouring levels of a chain, leaf first. Does not own the images."""

    def __init__(self, images: Sequence[Image], paths: Sequence[str]) -> None:
        self.images = list(images)
        self.paths = list(paths)
        self.virtual_size_bytes = images[0].virtual_size_bytes

    @property
    def sectors(self) -> int:
        return self.virtual_size_bytes // SECTOR_BYTES

    def extents(self, first_sector: int, count_sectors: int) -> Iterator[ChainExtent]:
        """Cut a range by where its data lies, ascending and without gaps; joined where possible.

        A level asks the next one only for what it does not hold. Past the end of a smaller
        ancestor there are zeros. Raises OutOfRange past this view's size, and what damaged
        images raise.
        """
        require_inside(first_sector, count_sectors, self.sectors, self.paths[0])
        return self._joined(first_sector, count_sectors)

    def _joined(self, first: int, count: int) -> Iterator[ChainExtent]:
        last: ChainExtent | None = None
        for extent in self._overlay(first, count):
            if last is None:
                last = extent
                continue
            start, length, level, offset, source = last
            if (
                source is extent[4]
                and level == extent[2]
                and (offset is None or offset + length * SECTOR_BYTES == extent[3])
            ):
                last = ChainExtent(start, length + extent[1], level, offset, source)
            else:
                yield last
                last = extent
        if last is not None:
            yield last

    def _overlay(self, first: int, count: int) -> Iterator[ChainExtent]:
        """Depth first with a stack of our own: a chain of any depth needs no recursion."""
        images = self.images
        depth = len(images)
        sizes = [image.virtual_size_bytes // SECTOR_BYTES for image in images]
        data, zero, parent = Source.DATA, Source.ZERO, Source.PARENT
        stack: list[Iterator[Extent]] = []
        todo: tuple[int, int] | None = (first, count)
        while True:
            if todo is not None:
                # Ask the level below the ones on the stack for a hole of theirs.
                start, length = todo
                todo = None
                level = len(stack)
                if level == depth:
                    yield ChainExtent(start, length, None, None, parent)
                    continue
                held = min(length, sizes[level] - start)
                if held <= 0:
                    # Past the end of this ancestor: zeros, whatever lies below it.
                    yield ChainExtent(start, length, None, None, zero)
                    continue
                extents = images[level].extents(start, held)
                if held < length:
                    extents = _followed_by(extents, Extent(start + held, length - held, zero))
                stack.append(extents)
            if not stack:
                return
            level = len(stack) - 1
            for extent in stack[-1]:  # goes on where it was left
                source = extent.source
                if source is data:
                    yield ChainExtent(
                        extent.first_sector,
                        extent.count_sectors,
                        level,
                        extent.file_offset,
                        source,
                    )
                elif source is zero:
                    yield ChainExtent(extent.first_sector, extent.count_sectors, None, None, source)
                else:
                    todo = (extent.first_sector, extent.count_sectors)
                    break
            else:
                stack.pop()

    def read_into(self, extent: ChainExtent, buffer: memoryview, done_sectors: int = 0) -> None:
        """Fill buffer with an extent's bytes, done_sectors into it. Errors name the LBA."""
        if extent.source is Source.ZERO:
            buffer[:] = bytes(len(buffer))
            return
        if extent.level is None or extent.file_offset is None:
            raise ParentMissing(
                "E_PARENT_MISSING",
                f"Sector (LBA) {extent.first_sector + done_sectors:,} is in a parent that was "
                "not opened.",
                file=self.paths[-1],
                field="parent",
                value=extent.first_sector + done_sectors,
            )
        offset = extent.file_offset + done_sectors * SECTOR_BYTES
        try:
            self.images[extent.level].file.read_into(offset, buffer)
        except ImageError as error:
            raise unreadable(error, extent.first_sector, extent.file_offset) from error

    def read(self, first_sector: int, count_sectors: int) -> bytes:
        """Whole sectors of the virtual disk, exactly count_sectors * 512 bytes."""
        extents = self.extents(first_sector, count_sectors)
        data = bytearray(count_sectors * SECTOR_BYTES)
        view = memoryview(data)
        for extent in extents:
            if extent.source is not Source.ZERO:
                start = (extent.first_sector - first_sector) * SECTOR_BYTES
                self.read_into(extent, view[start : start + extent.count_sectors * SECTOR_BYTES])
        return bytes(data)

    def sha256(self, report: Report = unreported) -> str:
        """SHA-256 over all bytes of the virtual disk, as lower-case hex.

        report(done_bytes, total_bytes) is called every few MiB and may raise to stop.
        """
        import hashlib  # brings OpenSSL with it, which inspecting does not need

        digest = hashlib.sha256()
        total = self.virtual_size_bytes
        buffer = memoryview(bytearray(_PIECE_BYTES))
        zeros = memoryview(bytes(_PIECE_BYTES))
        piece_sectors = _PIECE_BYTES // SECTOR_BYTES
        done = reported = 0
        for extent in self._in_windows():
            for sector in range(0, extent.count_sectors, piece_sectors):
                size = min(piece_sectors, extent.count_sectors - sector) * SECTOR_BYTES
                if extent.source is Source.ZERO:
                    digest.update(zeros[:size])
                else:
                    self.read_into(extent, buffer[:size], sector)
                    digest.update(buffer[:size])
                done += size
                if done - reported >= _REPORT_BYTES:
                    reported = done
                    report(done, total)
        report(done, total)
        return digest.hexdigest()

    def _in_windows(self) -> Iterator[ChainExtent]:
        """All extents, cut so that none takes long to find: a terabyte of gaps would."""
        for first in range(0, self.sectors, _WINDOW_SECTORS):
            yield from self.extents(first, min(_WINDOW_SECTORS, self.sectors - first))


class Chain(ChainView):
    """An opened chain from leaf to base; close() closes every file."""

    def __init__(
        self, images: Sequence[Image], paths: Sequence[str], resolutions: Sequence[Resolution]
    ) -> None:
        super().__init__(images, paths)
        self.resolutions = list(resolutions)  # one less than images: link n leads to n + 1

    @property
    def findings(self) -> list[Finding]:
        """What the chain as a whole shows, apart from its images."""
        if len(self.images) <= LONG_CHAIN:
            return []
        return [
            Finding(
                Level.WARNING,
                "W_CHAIN_DEPTH",
                f"The chain has {len(self.images)} levels; every read may look through all of "
                "them.",
                value=len(self.images),
            )
        ]

    def levels(self, first: int, last: int) -> ChainView:
        """The levels first to last (inclusive, 0 is the leaf) as a disk of their own.

        What none of them holds is Source.PARENT, unless last is the base.
        """
        if not 0 <= first <= last < len(self.images):
            raise ValueError(f"levels {first} to {last} of a chain of {len(self.images)}")
        return ChainView(self.images[first : last + 1], self.paths[first : last + 1])

    def close(self) -> None:
        for image in self.images:
            image.close()

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _followed_by(extents: Iterator[Extent], tail: Extent) -> Iterator[Extent]:
    yield from extents
    yield tail


class _Seen:
    """Files and identities met on the way, to notice a ring."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._files: dict[tuple[int, int], int] = {}
        self._identities: dict[str, int] = {}

    def add(self, image: Image, path: str) -> ImageError | None:
        """Remember an image; the error if it was met before, with the ring listed."""
        stat = image.file.stat()
        file = (stat.st_dev, stat.st_ino)
        before = self._files.get(file, self._identities.get(image.identity))
        if before is not None:
            ring = [*self.paths[before:], path]
            return ImageError(
                "E_CYCLE",
                f"The chain leads in a circle: {' → '.join(ring)}.",
                file=self.paths[0],
                field="parent",
                value=" → ".join(ring),
            )
        self._files[file] = self._identities[image.identity] = len(self.paths)
        self.paths.append(path)
        return None


def _too_deep(limit: int, leaf: str) -> ImageError:
    return ImageError(
        "E_CHAIN_DEPTH",
        f"The chain has more than {limit} levels; it was not followed further.",
        file=leaf,
        field="parent",
        value=limit,
    )


def open_file(file: ImageFile) -> Image:
    """Open an image and close its file if that fails."""
    try:
        return formats.open_image(file)
    except BaseException:
        file.close()
        raise


def open_chain(path: str, places: Places, *, limit: int = LIMIT) -> Chain:
    """Open a disk and all of its ancestors for reading.

    Raises ParentMissing (`E_PARENT_MISSING`), `E_PARENT_IDENTITY`, `E_PARENT_AMBIGUOUS`,
    `E_PARENT_UNREADABLE`, `E_RAW_PARENT`, `E_NO_PARENT_NAME`, `E_IN_USE`, `E_OUTSIDE_ROOTS`,
    `E_PARENT_FORMAT`, `E_PARENT_SECTOR_SIZE`, `E_CYCLE` with the ring, `E_CHAIN_DEPTH` above
    limit images, and what opening raises. Nothing stays open then.
    """
    images: list[Image] = []
    paths: list[str] = []
    resolutions: list[Resolution] = []
    seen = _Seen()
    try:
        image, at = open_file(places.open(path)), path
        while True:
            images.append(image)
            paths.append(at)
            ring = seen.add(image, at)
            if ring is not None:
                raise ring
            if image.parent is None:
                return Chain(images, paths, resolutions)
            if len(images) >= limit:
                raise _too_deep(limit, path)
            resolution, parent = find_parent(image, at, places, only_first=True)
            if parent is None or resolution.path is None:
                # Stopping at a match saved nothing here: the reason names all places.
                raise resolution.error(at)
            resolutions.append(resolution)
            refusal = next(pair_errors(image, parent), None)
            image, at = parent, resolution.path
            if refusal is not None:
                image.close()
                raise refusal
    except BaseException:
        for one in images:
            one.close()
        raise


class Link(NamedTuple):
    """One step of a walk. image is None where error says why it cannot be opened.

    resolution says where the next link is; None for a disk without parent and for errors.
    """

    path: str
    image: Image | None
    error: ImageError | None
    resolution: Resolution | None


def walk(path: str, places: Places, *, limit: int = LIMIT) -> Iterator[Link]:
    """The links from leaf to base as far as they can be followed; raises nothing for damage.

    Each image is closed when the next link is asked for. A ring or a chain of more than limit
    images ends with a Link that has only a path and an error.
    """
    seen = _Seen()
    at: str | None = path
    count = 0
    while at is not None:
        if count >= limit:
            yield Link(at, None, _too_deep(limit, path), None)
            return
        count += 1
        try:
            image = open_file(places.open(at))
        except ImageError as error:
            yield Link(at, None, error, None)
            return
        try:
            ring = seen.add(image, at)
            if ring is not None:
                yield Link(at, None, ring, None)
                return
            from disks.engine.resolution import resolve

            resolution = resolve(image, at, places) if image.parent is not None else None
            yield Link(at, image, None, resolution)
            at = resolution.path if resolution is not None else None
        finally:
            image.close()
