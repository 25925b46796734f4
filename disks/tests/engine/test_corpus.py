"""Disks made by Windows read as other readers agreed that they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.engine import chain
from disks.engine.check import check_image, check_link
from disks.engine.images import DiskType
from disks.tests.builders import MIB, seven_zip, seven_zip_sha256
from disks.tests.engine.world import World, open_file

CONTENT = {
    "ntfs-differential.vhd": "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144",
    "ntfs-dynamic.vhd": "8b10b52e3d1e76075d05a5101a6536b9fa8376a5b8f7c22f502d0987d165c876",
    "ntfs-fixed.vhd": "cd81fade3878f1b2957f1ece168201876bdf4e90c9b30f60c2f232eba5fea76c",
    "ntfs-differential.vhdx": "1ef1fb5360247aa7d36a38415bc7bf6e1e52f62af5e6bd1283815e82584c7efc",
    "ntfs-dynamic.vhdx": "b92731f8e4bf3532418444d22a9086823a8122569500acd09cd8d2ce20eb98e9",
    "ntfs-fixed.vhdx": "5237dd895f38052344e2ef35a207fe9df08cd18d17b6ea857a1b93cc475e1f2e",
}
LOG_REPLAY = "3ba3b309425b7ff5e8e0199edceed95226250f880c53b24e8eae93865f3fad5e"
FORMATS = ["vhd", "vhdx"]


@pytest.mark.parametrize("name", CONTENT)
def test_content_is_what_other_readers_read(corpus: Path, name: str) -> None:
    folder = corpus / "windows-ntfs"
    reports: list[tuple[int, int]] = []
    with chain.open_chain(str(folder / name), World(folder)) as opened:
        assert opened.sha256(lambda done, total: reports.append((done, total))) == CONTENT[name]
        assert reports[-1] == (opened.virtual_size_bytes, opened.virtual_size_bytes)


@pytest.mark.parametrize("format_name", FORMATS)
def test_parent_view_equals_the_parent(corpus: Path, format_name: str) -> None:
    folder = corpus / "windows-ntfs"
    with (
        chain.open_chain(str(folder / f"ntfs-differential.{format_name}"), World(folder)) as child,
        chain.open_chain(str(folder / f"ntfs-parent.{format_name}"), World(folder)) as parent,
    ):
        assert child.levels(1, 1).sha256() == parent.sha256()
        assert check_link(child.images[0], parent.images[0]) == []


@pytest.mark.parametrize("name", [*CONTENT, "ntfs-parent.vhd", "ntfs-parent.vhdx"])
def test_windows_disks_are_without_findings(corpus: Path, name: str) -> None:
    with open_file(corpus / "windows-ntfs" / name) as file:
        assert check_image(file, deep=True) == []


@pytest.mark.parametrize("name", [*CONTENT, "ntfs-parent.vhd", "ntfs-parent.vhdx"])
def test_seven_zip_agrees(corpus: Path, name: str) -> None:
    if seven_zip() is None:
        pytest.skip("7-Zip is not installed")
    folder = corpus / "windows-ntfs"
    with chain.open_chain(str(folder / name), World(folder)) as opened:
        assert opened.sha256() == seven_zip_sha256(folder / name)


def test_a_dirty_log_reads_as_after_its_replay(corpus: Path) -> None:
    """bad-input C40: through a replay in memory; libvhdi and dissect read 1 GiB of zeros."""
    folder = corpus / "log-replay"
    path = folder / "vhdx-log-replay.vhdx"
    before = path.read_bytes()
    with chain.open_chain(str(path), World(folder)) as opened:
        assert opened.virtual_size_bytes == 1024 * MIB
        assert opened.sha256() == LOG_REPLAY
        refusal = opened.images[0].write_refusal
        assert refusal is not None
        assert refusal.code == "E_LOG"
    assert path.read_bytes() == before
    with open_file(path) as file:
        findings = check_image(file, deep=True)
    assert [(str(one.level), one.code) for one in findings] == [("warning", "W_LOG")]


def test_vhdx_headers_say_what_windows_wrote(corpus: Path) -> None:
    parent_guid = "7584f8fb-36d3-4091-afb5-b1afe587bfa8"
    with open_file(corpus / "windows-ntfs" / "ntfs-parent.vhdx") as file:
        image = chain.formats.open_image(file)
        assert (image.identity, image.parent) == (parent_guid, None)
        assert image.disk_type == DiskType.FIXED
    with open_file(corpus / "windows-ntfs" / "ntfs-dynamic.vhdx") as file:
        image = chain.formats.open_image(file)
        assert image.disk_type == DiskType.DYNAMIC
        assert image.block_size_bytes == 32 * MIB
        assert (image.blocks_total, image.blocks_allocated()) == (1, 1)
    with open_file(corpus / "windows-ntfs" / "ntfs-differential.vhdx") as file:
        image = chain.formats.open_image(file)
        assert image.disk_type == DiskType.DIFFERENCING
        assert image.identity == "305abbc8-cef4-45ea-aee8-42ee5c891b06"
        assert "Microsoft Windows 10.0.19041.0" in image.creator
        assert (image.virtual_size_bytes, image.logical_sector_bytes) == (4 * MIB, 512)
        assert image.block_size_bytes == 2 * MIB
        assert (image.blocks_total, image.blocks_allocated()) == (2, 2)
        parent = image.parent
        assert parent is not None
        assert (parent.identity, parent.timestamp) == (parent_guid, None)
        paths = {one.code: one.path for one in parent.locators}
        assert paths["absolute_win32_path"] == "C:\\Projects\\dfvfs\\test_data\\ntfs-parent.vhdx"
        assert paths["relative_path"] == ".\\ntfs-parent.vhdx"
        assert paths["volume_path"] == (
            "\\\\?\\Volume{9cdf8dfa-0000-0000-0000-501f00000000}"
            "\\Projects\\dfvfs\\test_data\\ntfs-parent.vhdx"
        )


def test_header_says_what_windows_wrote(corpus: Path) -> None:
    with open_file(corpus / "windows-ntfs" / "ntfs-differential.vhd") as file:
        image = chain.formats.open_image(file)
        assert image.identity == "722fa4e2-59c4-c645-8456-ddb430ac4a19"
        assert image.creator == "win  10.0"
        assert str(image.created) == "2020-10-11 11:37:55+00:00"
        assert (image.blocks_total, image.blocks_allocated()) == (2, 2)
        parent = image.parent
        assert parent is not None
        assert parent.timestamp is None
        assert [(one.code, one.path) for one in parent.locators] == [
            ("W2ku", "C:\\Projects\\dfvfs\\test_data\\ntfs-parent.vhd"),
            ("W2ru", ".\\ntfs-parent.vhd"),
        ]
        shown = dict(image.properties())
        assert shown["Unique id as Windows shows it"] == "{E2A42F72-C459-45C6-8456-DDB430AC4A19}"
