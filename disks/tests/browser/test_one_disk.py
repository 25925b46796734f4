"""From a broken chain to a compact disk, with disks that Windows made, content unchanged."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from disks.tests.browser import steps
from disks.tests.console import Console

CONTENT = "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144"
CHILD, PARENT = "ntfs-differential.vhd", "ntfs-parent.vhd"


def seven_zip_hash(path: Path) -> str:
    program = shutil.which("7zz") or shutil.which("7z")
    if program is None:
        pytest.skip("no 7-Zip: apt-get install 7zip")
    read = subprocess.run(
        [program, "x", "-tVHD", "-so", str(path)], check=True, capture_output=True
    )
    return hashlib.sha256(read.stdout).hexdigest()


def test_a_broken_chain_is_found_explained_mended_merged_and_compacted(
    page: Page, console: Console, storage: Path, corpus: Path, tmp_path: Path
) -> None:
    root = storage / "windows"
    child, parent = root / "machines" / CHILD, root / "bases" / PARENT
    for target in (child, parent):
        target.parent.mkdir(parents=True)
        shutil.copy(corpus / "windows-ntfs" / target.name, target)
        target.chmod(0o644)

    def content(path: Path = child) -> str:
        return steps.content_hash(console, path, "--root", str(root), "--search", str(root))

    steps.add_root(page, "windows", windows_view="D:\\Windows disks", name="windows")
    steps.scan(page, "windows")

    # the verdict and the trace
    steps.open_disk(page, f"machines/{CHILD}")
    assert steps.health(page) == "Chain broken"
    expect(page.locator("main")).to_contain_text("bases/ntfs-parent.vhd")
    page.get_by_role("link", name="Parent link").click()
    trace = page.get_by_role("region", name="Resolution trace")
    expect(trace).to_contain_text(".\\ntfs-parent.vhd")
    expect(trace).to_contain_text("C:\\Projects\\dfvfs\\test_data\\ntfs-parent.vhd")
    assert content() == CONTENT  # the search folder has the parent already

    # the pull-down
    page.locator("#tabs").get_by_role("link", name="Update parent path").click()
    choose = page.get_by_label("From the catalog, best first")
    best = choose.locator("option").nth(1).inner_text()
    assert best.startswith("bases/ntfs-parent.vhd")
    assert best.endswith("identity matches")
    choose.select_option(index=1)
    changes = page.get_by_role("region", name="What changes")
    expect(changes).to_contain_text("..\\bases\\ntfs-parent.vhd")
    before = child.read_bytes()
    page.get_by_role("button", name="Update parent path").click()
    expect(page.locator("h1 .badge")).to_contain_text("Healthy")
    assert content() == CONTENT

    # undo
    page.get_by_role("link", name="Undo last update").click()
    page.get_by_role("button", name="Undo the update").click()
    expect(page.locator("h1 .badge")).to_contain_text("Chain broken")
    assert child.read_bytes()[:1536] == before[:1536]  # footer copy and header, as they were
    assert content() == CONTENT

    # a typed Windows path
    page.locator("#tabs").get_by_role("link", name="Update parent path").click()
    page.get_by_label("Or a full path, Windows or local").fill(
        "D:\\Windows disks\\bases\\ntfs-parent.vhd"
    )
    page.get_by_label("Or a full path, Windows or local").press("Tab")
    expect(changes).to_contain_text("D:\\Windows disks\\bases\\ntfs-parent.vhd")
    page.get_by_role("button", name="Update parent path").click()
    expect(page.locator("h1 .badge")).to_contain_text("Healthy")
    assert content() == CONTENT
    linked = steps.inspected(console, child, "--root", str(root))["parent"]
    assert linked["status"] == "found"
    assert linked["path"] == str(parent)

    # another reader, with the repaired child beside its parent: it follows no `..`
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(child, beside / CHILD)
    shutil.copy(parent, beside / PARENT)
    console.manage(
        "disk", "update-parent", str(beside / CHILD), "--parent", str(beside / PARENT), "--offline"
    )
    assert seven_zip_hash(beside / CHILD) == CONTENT

    # merge to a new dynamic disk
    page.get_by_role("link", name="Merge", exact=True).click()
    page.get_by_label("A new disk").check()
    page.locator("input[name=name]:visible").wait_for()
    page.locator("input[name=folder]:visible").fill("bases")
    page.locator("input[name=folder]:visible").press("Tab")  # the plan is drawn anew
    expect(page.locator("form input[name=folder][type=hidden]")).to_have_value("bases")
    page.locator("input[name=name]:visible").fill("merged.vhd")
    page.get_by_role("button", name="Show what will happen").click()
    expect(page.get_by_role("heading", name="What will happen")).to_be_visible()
    page.get_by_role("button", name="Merge 2 disks into merged.vhd").click()
    steps.wait_for_job(page)
    merged = root / "bases" / "merged.vhd"
    assert content(merged) == CONTENT
    assert seven_zip_hash(merged) == CONTENT
    assert steps.inspected(console, merged)["type"] == "dynamic"
    assert content() == CONTENT

    # compact it
    steps.open_disk(page, "bases/merged.vhd")
    page.get_by_role("link", name="Compact", exact=True).click()
    page.get_by_role("button", name="Compact merged.vhd").click()
    steps.wait_for_job(page)
    assert content(merged) == CONTENT
    assert seven_zip_hash(merged) == CONTENT
