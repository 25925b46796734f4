"""Two hundred children of one base that was moved: one job mends them, one takes it back."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from disks.tests import builders
from disks.tests.browser import steps

pytestmark = pytest.mark.slow

COUNT = 200
PATIENCE_MS = 4 * steps.WITHIN_A_MINUTE_MS  # hundreds of synced writes on a busy machine


def headers(folder: Path) -> dict[str, str]:
    """What each child's header says; bytes after it are none of a link's business."""
    return {
        path.name: hashlib.sha256(path.read_bytes()[512:1536]).hexdigest()
        for path in sorted(folder.glob("*.vhd"))
    }


def test_two_hundred_children_are_mended_by_one_job_and_put_back_by_another(
    page: Page, storage: Path
) -> None:
    root = storage / "school"
    (root / "bases").mkdir(parents=True)
    children = root / "pupils"
    children.mkdir()
    base = builders.build_dynamic(root / "bases", "class.vhd", size=4 * builders.MIB)
    os.utime(base.path, (1_000_000_000, 1_000_000_000))  # long before its children were made
    for number in range(COUNT):
        builders.build_differencing(children, f"pupil-{number:03}.vhd", parent=base)
    before = headers(children)

    steps.add_root(page, "school", windows_view="E:\\School", name="school")
    steps.scan(page, "school")
    page.goto("/")
    expect(page.locator("main")).to_contain_text(f"{COUNT} disks")
    group = page.locator("li.panel", has_text=f"{COUNT} disks")
    group.get_by_role("link", name="Repair").first.click()
    expect(page.locator("tbody input[type=checkbox][name=row]:checked")).to_have_count(COUNT)
    choose_all = page.get_by_role("checkbox", name="Select all of this cause")
    expect(choose_all).to_be_checked()
    page.locator("tbody input[name=row]").first.uncheck()
    expect(choose_all).to_be_checked(indeterminate=True)
    choose_all.check()
    expect(page.locator("tbody input[type=checkbox][name=row]:checked")).to_have_count(COUNT)
    page.get_by_role("button", name="Update the chosen parent paths").click()
    repair = steps.wait_for_job(page, timeout=PATIENCE_MS)
    expect(page.locator("main tbody tr", has_text="Done")).to_have_count(COUNT)
    repaired = headers(children)
    assert all(repaired[name] != before[name] for name in before)
    steps.open_disk(page, "pupils/pupil-137.vhd")
    assert steps.health(page) == "Healthy"

    page.goto(f"/jobs/{repair}")
    page.get_by_role("link", name="Undo all").click()
    page.get_by_role("button", name=f"Undo {COUNT} updates").click()
    undo = steps.wait_for_job(page, timeout=PATIENCE_MS)
    assert undo != repair
    assert headers(children) == before
    steps.open_disk(page, "pupils/pupil-137.vhd")
    assert steps.health(page) == "Chain broken"
