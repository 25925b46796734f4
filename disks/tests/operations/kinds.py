"""The formats that convert and expand are tested with; a new one is a line of KINDS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from disks.tests.builders import (
    build_differencing,
    build_dynamic,
    build_fixed,
    seven_zip,
    seven_zip_sha256,
)

needs_7z = pytest.mark.skipif(seven_zip() is None, reason="7-Zip is not installed")
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


@dataclass(frozen=True)
class Kind:
    """How tests make disks of a format, and how others read it.

    qemu  what follows `--image-opts` in front of the file's name
    """

    name: str
    extension: str
    fixed: Callable[..., Any]
    dynamic: Callable[..., Any]
    differencing: Callable[..., Any]
    seven_zip_sha256: Callable[[Path | str], str]
    qemu: str


KINDS = [
    Kind(
        "vhd",
        ".vhd",
        build_fixed,
        build_dynamic,
        build_differencing,
        seven_zip_sha256,
        "driver=vpc,force_size_calc=current_size,file.filename=",
    )
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def qemu_agrees(kind: Kind, path: Path | str, model: bytes, scratch: Path) -> bool:
    """Whether qemu reads a disk without parents as the model says, to the last byte."""
    raw = scratch / "model.of-qemu"
    raw.write_bytes(model)
    opened = [f"{kind.qemu}{path}", f"driver=raw,file.filename={raw}"]
    run = subprocess.run(
        ["qemu-img", "compare", "--image-opts", *opened], capture_output=True, check=False
    )
    raw.unlink()
    return run.returncode == 0
