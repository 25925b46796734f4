"""How the catalog answers where a link leads, of folders that it knows only in part."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks.operations.root_folders import Entry
from disks.operations.storage_roots import Root
from disks.services.places import CatalogPlaces, Index


def test_a_parent_is_sought_in_a_crowded_folder_without_keeping_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all children that ask; of another spelling, as Windows finds it."""
    listed: list[str] = []

    def entries(self: CatalogPlaces, folder: str) -> Iterator[Entry]:
        listed.append(folder)
        yield Entry("Base.VHDX", True, False)
        for number in range(20_000):
            yield Entry(f"page-{number}.html", True, False)

    monkeypatch.setattr(CatalogPlaces, "entries", entries)
    places = CatalogPlaces([Root(str(tmp_path))], Index())
    tracemalloc.start()
    try:
        answers = [places.actual(str(tmp_path / f"{name}.vhdx")) for name in ("gone", "base")]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answers == [str(tmp_path / "gone.vhdx"), str(tmp_path / "Base.VHDX")]
    assert listed == [str(tmp_path)]
    assert peak_bytes < 500_000
