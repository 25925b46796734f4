"""Small disks written byte by byte, without the engine: the side that tests compare it with."""

from disks.tests.builders.common import (
    MIB,
    SECTOR,
    Built,
    SparseModel,
    seven_zip,
    seven_zip_pieces,
    seven_zip_sha256,
)
from disks.tests.builders.families import FAMILIES, VHD, VHDX, Family
from disks.tests.builders.vhd import (
    BuiltVhd,
    build_differencing,
    build_dynamic,
    build_fixed,
    checksum,
    chs,
    footer_fields,
    pack_footer,
)
from disks.tests.builders.vhdx import (
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
)

__all__ = [
    "FAMILIES",
    "MIB",
    "SECTOR",
    "VHD",
    "VHDX",
    "Built",
    "BuiltVhd",
    "BuiltVhdx",
    "Family",
    "SparseModel",
    "build_differencing",
    "build_differencing_vhdx",
    "build_dynamic",
    "build_dynamic_vhdx",
    "build_fixed",
    "build_fixed_vhdx",
    "checksum",
    "chs",
    "footer_fields",
    "pack_footer",
    "seven_zip",
    "seven_zip_pieces",
    "seven_zip_sha256",
]
