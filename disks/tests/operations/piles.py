"""Piles of checkpoints for tests, in every format that has a builder."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disks.operations.paths import Root, Roots
from disks.tests.builders import Built, build_differencing, build_dynamic
from disks.tests.operations.worlds import BLOCK, noise, zeros

SIZE = 20 * BLOCK
SECTORS = SIZE // 512


@dataclass(frozen=True)
class Kind:
    """How a format's disks are built and called."""

    base: Callable[..., Built]
    child: Callable[..., Built]
    base_ending: str
    checkpoint_ending: str


KINDS = {"vhd": Kind(build_dynamic, build_differencing, ".vhd", ".avhd")}
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
        built = self.kind.base(
            self.folder,
            name + self.kind.base_ending,
            **{
                "size": SIZE,
                "block_size": BLOCK,
                "content": [(0, noise(1, 90)), (200, noise(2, 70))],
            }
            | options,
        )
        self.disks[name] = built
        return built

    def child(self, name: str, parent: str, **options: Any) -> Built:
        """Some sectors of its own, at places that follow from its name; zeros among them."""
        chance = random.Random(os.fsencode(name))
        content = []
        for _ in range(4):
            first = chance.randrange(SECTORS - 40)
            content.append((first, noise(chance.randrange(1 << 30), chance.randrange(1, 40))))
            content.append((first + 3, zeros(1)))
        built = self.kind.child(
            options.pop("folder", self.folder),
            options.pop("file_name", name + self.kind.checkpoint_ending),
            self.disks[parent],
            **{"content": content} | options,
        )
        self.disks[name] = built
        return built

    def tower(self, *names: str, on: str = "vm") -> None:
        """Children one on the other."""
        for name in names:
            self.child(name, on)
            on = name

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
    pile.disks["b"] = Built(folder / ("b" + pile.kind.checkpoint_ending), other, bytearray(SIZE),
                            BLOCK)  # fmt: skip
    pile.child("a", "b", unique_id=one)
    pile.child("b", "a", unique_id=other)
    return pile
