"""Content decides what a file is; two answers are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from disks.engine import formats
from disks.engine.check import check_image
from disks.engine.errors import ImageError, NotAnImage
from disks.tests.builders import (
    FAMILIES,
    MIB,
    Family,
    build_dynamic,
    build_dynamic_vhdx,
    build_fixed,
    footer_fields,
    pack_footer,
)
from disks.tests.engine.world import examine, open_file


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"QFI\xfb", "qcow2"),
        (b"KDMV", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
        (bytes(0x40) + b"\x7f\x10\xda\xbe", "VDI"),
        (bytes(0x8001) + b"CD001", "ISO 9660"),
    ],
)
def test_strangers_are_named(tmp_path: Path, head: bytes, name: str) -> None:
    """bad-input C50, what concerns VHD: the extension says nothing."""
    path = tmp_path / "a.vhd"
    path.write_bytes(head.ljust(64 * 1024, b"\0"))
    with open_file(path) as file, pytest.raises(NotAnImage) as caught:
        formats.open_image(file)
    assert caught.value.code == "E_NO_FOOTER"
    assert name in caught.value.message
    with open_file(path) as file:
        assert [finding.code for finding in check_image(file)] == ["E_NO_FOOTER"]


@pytest.mark.parametrize("head", [b"vhdxfile", b"QFI\xfb", b"KDMV"])
def test_two_formats_at_once_are_refused(tmp_path: Path, head: bytes) -> None:
    """bad-input C50: a VHD footer at the end of another format's file."""
    built = build_fixed(tmp_path, "a.vhd", content=[(0, head.ljust(512, b"\0"))])
    result = examine(built.path)
    assert result.code == "E_AMBIGUOUS_FORMAT"
    assert result.codes == {"E_AMBIGUOUS_FORMAT"}


@pytest.mark.parametrize(
    ("offset", "signature", "name"), [(0x40, b"\x7f\x10\xda\xbe", "VDI"), (0x8001, b"CD001", "ISO")]
)
def test_a_vhdx_with_another_formats_signature_is_refused(
    tmp_path: Path, offset: int, signature: bytes, name: str
) -> None:
    """bad-input C50: both lie where nothing of a VHDX is looked at."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx")
    built.patch(offset, signature)
    result = examine(built.path)
    assert (result.code, result.codes) == ("E_AMBIGUOUS_FORMAT", {"E_AMBIGUOUS_FORMAT"})
    assert result.error is not None
    assert name in result.error.message


def test_a_vhdx_with_the_footer_of_a_vhd_is_refused(tmp_path: Path) -> None:
    """bad-input C50: whoever looks at the end sees another disk than who looks at the start."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * 4 * MIB)])
    assert examine(built.path).error is None
    built.patch(built.path.stat().st_size - 512, pack_footer(footer_fields(MIB, 2, b"x" * 16, 0)))
    result = examine(built.path)
    assert (result.code, result.codes) == ("E_AMBIGUOUS_FORMAT", {"E_AMBIGUOUS_FORMAT"})


@pytest.mark.parametrize("size", [8, 511])
def test_the_start_of_a_vhdx_is_too_small(tmp_path: Path, size: int) -> None:
    """bad-input A1, for VHDX."""
    path = tmp_path / "a.vhdx"
    path.write_bytes(b"vhdxfile".ljust(size, b"\0"))
    assert (examine(path).code, examine(path).codes) == ("E_TOO_SMALL", {"E_TOO_SMALL"})


def test_a_fixed_disk_may_hold_an_iso(tmp_path: Path) -> None:
    built = build_fixed(tmp_path, "a.vhd", content=[(64, b"\0CD001".ljust(512, b"\0"))], size=MIB)
    assert examine(built.path).error is None


def test_any_extension_opens(tmp_path: Path, family: Family) -> None:
    """bad-input C50: also that of the other format."""
    (other,) = (one for one in FAMILIES if one is not family)
    for name in ("picture.jpeg", other.file("a")):
        built = family.dynamic(tmp_path, name, content=[(0, b"\1" * 512)])
        with open_file(built.path) as file:
            assert formats.identify(file).name == family.name
        assert examine(built.path).errors == set()


def test_formats_by_name() -> None:
    assert [formats.by_name(one.name) for one in FAMILIES] == list(formats.FORMATS)
    with pytest.raises(KeyError):
        formats.by_name("vmdk")


def test_the_engine_imports_nothing_slow() -> None:
    """`disk inspect` as a process has a quarter of a second for everything."""
    code = (
        "import sys; import disks.engine.chain, disks.engine.check, disks.engine.codes; "
        "import disks.engine.vhd.image, disks.engine.vhd.writer, disks.engine.vhd.check; "
        "import disks.engine.vhdx.image, disks.engine.vhdx.writer, disks.engine.vhdx.check; "
        "slow = {'numpy', 'xxhash', 'django', 'uuid', 'asyncio', 'ssl'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(slow)) or 0)"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_errors_carry_what_a_page_needs(tmp_path: Path) -> None:
    built = build_dynamic(tmp_path, "a.vhd", header_checksum="wrong")
    with open_file(built.path) as file, pytest.raises(ImageError) as caught:
        formats.open_image(file)
    row = caught.value.as_dict()
    assert row["file"] == str(built.path)
    assert (row["code"], row["field"], row["offset"]) == ("E_HEADER_CHECKSUM", "checksum", 548)
    assert isinstance(row["value"], int)
