"""Disks made by Windows read as other readers agreed that they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.engine import chain
from disks.engine.check import check_image, check_link
from disks.tests.builders import seven_zip, seven_zip_sha256
from disks.tests.engine.world import World, open_file

CONTENT = {
    "ntfs-differential.vhd": "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144",
    "ntfs-dynamic.vhd": "8b10b52e3d1e76075d05a5101a6536b9fa8376a5b8f7c22f502d0987d165c876",
    "ntfs-fixed.vhd": "cd81fade3878f1b2957f1ece168201876bdf4e90c9b30f60c2f232eba5fea76c",
}


@pytest.mark.parametrize("name", CONTENT)
def test_content_is_what_other_readers_read(corpus: Path, name: str) -> None:
    folder = corpus / "windows-ntfs"
    reports: list[tuple[int, int]] = []
    with chain.open_chain(str(folder / name), World(folder)) as opened:
        assert opened.sha256(lambda done, total: reports.append((done, total))) == CONTENT[name]
        assert reports[-1] == (opened.virtual_size_bytes, opened.virtual_size_bytes)


def test_parent_view_equals_the_parent(corpus: Path) -> None:
    folder = corpus / "windows-ntfs"
    with (
        chain.open_chain(str(folder / "ntfs-differential.vhd"), World(folder)) as child,
        chain.open_chain(str(folder / "ntfs-parent.vhd"), World(folder)) as parent,
    ):
        assert child.levels(1, 1).sha256() == parent.sha256()
        assert check_link(child.images[0], parent.images[0]) == []


@pytest.mark.parametrize("name", [*CONTENT, "ntfs-parent.vhd"])
def test_windows_disks_are_without_findings(corpus: Path, name: str) -> None:
    with open_file(corpus / "windows-ntfs" / name) as file:
        assert check_image(file, deep=True) == []


@pytest.mark.parametrize("name", [*CONTENT, "ntfs-parent.vhd"])
def test_seven_zip_agrees(corpus: Path, name: str) -> None:
    if seven_zip() is None:
        pytest.skip("7-Zip is not installed")
    folder = corpus / "windows-ntfs"
    with chain.open_chain(str(folder / name), World(folder)) as opened:
        assert opened.sha256() == seven_zip_sha256(folder / name)


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
