"""The builders of every format under common names: for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from disks.tests.builders.common import MIB, Built
from disks.tests.builders.vhd import BuiltVhd, build_differencing, build_dynamic, build_fixed
from disks.tests.builders.vhdx import (
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
    windows_locator,
)


@dataclass(frozen=True)
class Family:
    """One format.

    built         what these return
    small, large  block sizes in bytes; several blocks of either fit into a few MiB
    cheapest      options of the smallest differencing disk there is
    relative, absolute  what its locators for such paths are called
    """

    name: str
    built: type[Built]
    fixed: Callable[..., Built]
    dynamic: Callable[..., Built]
    differencing: Callable[..., Built]
    small: int
    large: int
    cheapest: Mapping[str, Any]
    relative: str
    absolute: str

    def file(self, stem: str) -> str:
        return f"{stem}.{self.name}"

    def naming(
        self, parent: Built, relative: str | None = None, absolute: str | None = None
    ) -> dict[str, Any]:
        """Options of differencing() that make these the only paths to the parent."""
        found = {self.relative: relative, self.absolute: absolute}
        paths = [(key, text) for key, text in found.items() if text is not None]
        if self.name == "vhd":
            return {"locators": paths, "parent_name": ""}
        return {"locator": [windows_locator(parent)[0], *paths]}


VHD = Family(
    "vhd",
    BuiltVhd,
    build_fixed,
    build_dynamic,
    build_differencing,
    512 * 1024,
    2 * MIB,
    {"block_size": 4096, "layout": "packed"},
    "W2ru",
    "W2ku",
)
VHDX = Family(
    "vhdx",
    BuiltVhdx,
    build_fixed_vhdx,
    build_dynamic_vhdx,
    build_differencing_vhdx,
    MIB,
    2 * MIB,
    {"block_size": MIB},
    "relative_path",
    "absolute_win32_path",
)
FAMILIES = [VHD, VHDX]
