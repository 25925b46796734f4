"""Piles of checkpoints for tests, in every format that has a builder."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disks.operations.paths import Roots
from disks.operations.storage_roots import Root
from disks.tests.builders import FAMILIES, MIB, SECTOR, Built, Family
from disks.tests.operations.worlds import BLOCK, KIB, noise, zeros

ZERO = 2  # the state of a VHDX payload block that hides the parent's


@dataclass(frozen=True)
class Kind:
    """A format with sizes that suit it, and how its disks are called.

    block, blocks  bytes of a block, and how many of them a disk has
    signature      what begins a file of the format, however damaged the rest is
    keystones      offsets (negative: from the end) of the sectors without which it does not open
    """

    family: Family
    block: int
    blocks: int
    signature: bytes
    keystones: Sequence[int]

    @property
    def base_ending(self) -> str:
        return f".{self.family.name}"

    @property
    def checkpoint_ending(self) -> str:
        return f".a{self.family.name}"

    @property
    def size(self) -> int:
        return self.block * self.blocks

    @property
    def per_block(self) -> int:
        return self.block // SECTOR

    @property
    def base_content(self) -> list[tuple[int, bytes]]:
        return [(0, noise(1, 90)), (6 * self.per_block + 8, noise(2, 70))]

    def child_content(self, chance: random.Random) -> dict[str, Any]:
        """Some sectors around borders of blocks, zeros among them; of a VHDX a whole block, too."""
        content = []
        for _ in range(4):
            border = chance.randrange(1, self.blocks) * self.per_block
            first = min(border + chance.randrange(-20, 20), self.size // SECTOR - 40)
            content.append((first, noise(chance.randrange(1 << 30), chance.randrange(1, 40))))
            content.append((first + 3, zeros(1)))
        if self.family.name == "vhd":
            return {"content": content}
        return {"content": content, "states": {chance.randrange(self.blocks): ZERO}}


_SIZES = {
    "vhd": (BLOCK, 20, b"conectix", (0, -SECTOR)),
    "vhdx": (MIB, 8, b"vhdxfile", (64 * KIB, 128 * KIB)),
}
KINDS = {family.name: Kind(family, *_SIZES[family.name]) for family in FAMILIES}
FORMATS = list(KINDS)


def roots_of(folder: Path, *more: Root) -> Roots:
    """As the command line makes them: what a header does not lead to is found by identity."""
    root = Root(str(folder), windows_views=("C:\\VMs",))
    search = [str(folder), *(one.path for one in more)]
    return Roots([root, *more], search=search, identity_leads=True)


class Pile:
    """Disks in a folder, built one on the other. disks: by the name they were built with."""

    def __init__(self, folder: Path, format: str = "vhd") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.kind = KINDS[format]
        self.disks: dict[str, Built] = {}

    def base(self, name: str = "vm", **options: Any) -> Built:
        kind = self.kind
        shape = {"size": kind.size, "block_size": kind.block, "content": kind.base_content}
        built = kind.family.dynamic(self.folder, name + kind.base_ending, **shape | options)
        self.disks[name] = built
        return built

    def child(self, name: str, parent: str, **options: Any) -> Built:
        """Content of its own, which follows from its name."""
        built = self.kind.family.differencing(
            options.pop("folder", self.folder),
            options.pop("file_name", name + self.kind.checkpoint_ending),
            self.disks[parent],
            **self.kind.child_content(random.Random(os.fsencode(name))) | options,
        )
        self.disks[name] = built
        return built

    def tower(self, *names: str, on: str = "vm") -> None:
        """Children one on the other."""
        for name in names:
            self.child(name, on)
            on = name

    def damaged(self, stem: str = "damaged", folder: Path | None = None) -> Path:
        """A file of which no more can be read than that it is a disk of the format."""
        path = (folder or self.folder) / (stem + self.kind.base_ending)
        path.write_bytes(self.kind.signature + bytes(4096))
        return path

    def tear(self, name: str) -> None:
        """The disk does not open any more; what names its parent is still there."""
        built = self.disks.pop(name)
        size = built.path.stat().st_size
        for offset in self.kind.keystones:
            built.patch(offset % size, bytes(SECTOR))

    def path(self, name: str) -> str:
        return str(self.disks[name].path)

    def paths(self, *names: str) -> list[str]:
        return [self.path(name) for name in names]

    def shuffle(self, seed: int) -> None:
        """Each disk gets the file name of another one, and times that tell the wrong order."""
        chance = random.Random(seed)
        olds = [built.path for built in self.disks.values()]
        news = olds[:]
        while any(old == new for old, new in zip(olds, news, strict=True)):
            chance.shuffle(news)
        for path in olds:
            path.rename(path.with_name(path.name + ".moving"))
        for old, new, built in zip(olds, news, self.disks.values(), strict=True):
            old.with_name(old.name + ".moving").rename(new)
            built.path = new
        for day, built in enumerate(reversed(self.disks.values())):
            written = 1_700_000_000 + 86_400 * day
            os.utime(built.path, (written, written))


def make(folder: Path, format: str = "vhd", names: Sequence[str] = "abcde") -> Pile:
    """A base and a tower of checkpoints."""
    pile = Pile(folder, format)
    pile.base()
    pile.tower(*names)
    return pile


def ring(folder: Path, format: str) -> Pile:
    """Two disks that name each other as parent."""
    pile = Pile(folder, format)
    one, other = uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes
    kind = pile.kind
    pile.disks["b"] = kind.family.built(
        folder / f"b{kind.checkpoint_ending}", other, bytearray(kind.size), kind.block
    )
    pile.child("a", "b", unique_id=one)
    pile.child("b", "a", unique_id=other)
    return pile
