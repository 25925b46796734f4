"""The formats that convert and expand are tested with, and other programs that read them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from disks.tests.builders import MIB, SECTOR, VHD, VHDX, Built, Family, seven_zip, seven_zip_sha256
from disks.tests.operations.worlds import noise

KIB = 1024

needs_7z = pytest.mark.skipif(seven_zip() is None, reason="7-Zip is not installed")
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


@dataclass(frozen=True)
class Kind:
    """A format with sizes that suit it: small, and ending inside of a block.

    qemu  the driver and its options, as --image-opts takes them
    """

    family: Family
    block: int
    size: int
    smaller: int
    qemu: str

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def extension(self) -> str:
        return f".{self.family.name}"

    @property
    def content(self) -> list[tuple[int, bytes]]:
        """Runs at both ends, zeros that are written, and gaps."""
        last = self.size // SECTOR - 10
        return [
            (0, noise(1, 70)),
            (96, bytes(32 * SECTOR)),
            (130, noise(2, 7)),
            (last, noise(3, 10)),
        ]

    def make(self, folder: Path, shape: str, **options: Any) -> Built:
        """`source.vhd`, …: fixed, dynamic, or a chain's leaf whose parent is smaller."""
        name = f"source{self.extension}"
        if shape == "fixed":
            return self.family.fixed(folder, name, size=self.size, content=self.content, **options)
        values: Mapping[str, Any] = {"size": self.size, "block_size": self.block}
        if shape == "dynamic":
            return self.family.dynamic(folder, name, content=self.content, **values, **options)
        parent = self.family.dynamic(
            folder,
            f"parent{self.extension}",
            size=self.smaller,
            block_size=self.block,
            content=self.content[:3],
        )
        content = [(5, noise(6, 1)), (96, noise(7, 8))]
        return self.family.differencing(folder, name, parent, content=content, **values, **options)


KINDS = [
    Kind(VHD, 16 * KIB, 200 * KIB, 160 * KIB, "driver=vpc,force_size_calc=current_size"),
    Kind(VHDX, MIB, 3 * MIB + 100 * KIB, 2 * MIB, "driver=vhdx"),
]
KIND_OF = {kind.name: kind for kind in KINDS}
IDS = [kind.name for kind in KINDS]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=IDS)


def readers(kind: Kind, path: Path, model: bytes, *, has_parent: bool = False) -> set[str]:
    """Which other programs read exactly this content: 7-Zip, and qemu what has no parent."""
    agree = set()
    try:
        if seven_zip_sha256(path) == hashlib.sha256(model).hexdigest():
            agree.add("7-Zip")
    except AssertionError:
        pass  # it refuses the file
    if not has_parent and _qemu_agrees(kind, path, model):
        agree.add("qemu")
    return agree


def _qemu_agrees(kind: Kind, path: Path, model: bytes) -> bool:
    raw = path.with_name("model.of-qemu")
    raw.write_bytes(model)
    opened = [f"{kind.qemu},file.filename={path}", f"driver=raw,file.filename={raw}"]
    run = subprocess.run(
        ["qemu-img", "compare", "--image-opts", *opened], capture_output=True, check=False
    )
    raw.unlink()
    return run.returncode == 0
