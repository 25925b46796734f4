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

# Of each format: the content that Windows made, and which older disk the header names where.
CONTENTS = {
    "vhd": "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144",
    "vhdx": "1ef1fb5360247aa7d36a38415bc7bf6e1e52f62af5e6bd1283815e82584c7efc",
}
LOG_CONTENT = "3ba3b309425b7ff5e8e0199edceed95226250f880c53b24e8eae93865f3fad5e"


def seven_zip_hash(path: Path) -> str:
    """Of a disk beside its parent, whatever the format."""
    program = shutil.which("7zz") or shutil.which("7z")
    if program is None:
        pytest.skip("no 7-Zip: apt-get install 7zip")
    read = subprocess.run(
        [program, "x", f"-t{path.suffix[1:].upper()}", "-so", str(path)],
        check=True,
        capture_output=True,
    )
    return hashlib.sha256(read.stdout).hexdigest()


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_broken_chain_is_found_explained_mended_merged_and_compacted(
    page: Page, console: Console, storage: Path, corpus: Path, tmp_path: Path, kind: str
) -> None:
    name, view = f"windows-{kind}", f"D:\\Windows {kind}"
    expected, new_name = CONTENTS[kind], f"merged.{kind}"
    root = storage / name
    child = root / "machines" / f"ntfs-differential.{kind}"
    parent = root / "bases" / f"ntfs-parent.{kind}"
    for target in (child, parent):
        target.parent.mkdir(parents=True)
        shutil.copy(corpus / "windows-ntfs" / target.name, target)
        target.chmod(0o644)

    def content(path: Path = child) -> str:
        return steps.content_hash(console, path, "--root", str(root), "--search", str(root))

    def link() -> list[dict[str, str]]:
        found = steps.inspected(console, child, "--root", str(root))["parent"]
        return [{"identity": found["identity"]}, *found["locators"]]

    steps.add_root(page, name, windows_view=view, name=name)
    steps.scan(page, name)

    # the verdict and the trace
    steps.open_disk(page, f"machines/{child.name}")
    assert steps.health(page) == "Chain broken"
    expect(page.locator("main")).to_contain_text(f"bases/{parent.name}")
    page.get_by_role("link", name="Parent link").click()
    trace = page.get_by_role("region", name="Resolution trace")
    expect(trace).to_contain_text(f".\\{parent.name}")
    expect(trace).to_contain_text(f"C:\\Projects\\dfvfs\\test_data\\{parent.name}")
    assert content() == expected  # the search folder has the parent already

    # the pull-down
    page.locator("#tabs").get_by_role("link", name="Update parent path").click()
    choose = page.get_by_label("From the catalog, best first")
    best = choose.locator("option").nth(1).inner_text()
    assert best.startswith(f"bases/{parent.name}")
    assert best.endswith("identity matches")
    choose.select_option(index=1)
    changes = page.get_by_role("region", name="What changes")
    expect(changes).to_contain_text(f"..\\bases\\{parent.name}")
    before, link_before = child.read_bytes(), link()
    page.get_by_role("button", name="Update parent path").click()
    expect(page.locator("h1 .badge")).to_contain_text("Healthy")
    assert content() == expected

    # undo
    page.get_by_role("link", name="Undo last update").click()
    page.get_by_role("button", name="Undo the update").click()
    expect(page.locator("h1 .badge")).to_contain_text("Chain broken")
    assert link() == link_before
    if kind == "vhd":  # footer copy and header, byte by byte; a VHDX's headers only go on
        assert child.read_bytes()[:1536] == before[:1536]
    assert content() == expected

    # a typed Windows path
    page.locator("#tabs").get_by_role("link", name="Update parent path").click()
    page.get_by_label("Or a full path, Windows or local").fill(f"{view}\\bases\\{parent.name}")
    page.get_by_label("Or a full path, Windows or local").press("Tab")
    expect(changes).to_contain_text(f"{view}\\bases\\{parent.name}")
    page.get_by_role("button", name="Update parent path").click()
    expect(page.locator("h1 .badge")).to_contain_text("Healthy")
    assert content() == expected
    linked = steps.inspected(console, child, "--root", str(root))["parent"]
    assert linked["status"] == "found"
    assert linked["path"] == str(parent)

    # another reader, with the repaired child beside its parent: it follows no `..`
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(child, beside / child.name)
    shutil.copy(parent, beside / parent.name)
    console.manage(
        "disk",
        "update-parent",
        str(beside / child.name),
        "--parent",
        str(beside / parent.name),
        "--offline",
    )
    assert seven_zip_hash(beside / child.name) == expected

    # merge to a new dynamic disk
    page.get_by_role("link", name="Merge", exact=True).click()
    page.get_by_label("A new disk").check()
    page.locator("input[name=name]:visible").wait_for()
    page.locator("input[name=folder]:visible").fill("bases")
    page.locator("input[name=folder]:visible").press("Tab")  # the plan is drawn anew
    expect(page.locator("form input[name=folder][type=hidden]")).to_have_value("bases")
    page.locator("input[name=name]:visible").fill(new_name)
    page.get_by_role("button", name="Show what will happen").click()
    expect(page.get_by_role("heading", name="What will happen")).to_be_visible()
    page.get_by_role("button", name=f"Merge 2 disks into {new_name}").click()
    steps.wait_for_job(page)
    merged = root / "bases" / new_name
    assert content(merged) == expected
    assert seven_zip_hash(merged) == expected
    made = steps.inspected(console, merged)
    assert (made["format"], made["type"]) == (kind, "dynamic")
    assert content() == expected

    # compact it
    steps.open_disk(page, f"bases/{new_name}")
    page.get_by_role("link", name="Compact", exact=True).click()
    page.get_by_role("button", name=f"Compact {new_name}").click()
    steps.wait_for_job(page)
    assert content(merged) == expected
    assert seven_zip_hash(merged) == expected


def test_a_log_that_windows_left_is_replayed_and_nothing_else_changes(
    page: Page, console: Console, storage: Path, corpus: Path
) -> None:
    """Other tools read this disk as zeros, or refuse it."""
    disk = storage / "unplugged" / "left.vhdx"
    disk.parent.mkdir()
    shutil.copy(next(corpus.rglob("vhdx-log-replay.vhdx")), disk)
    disk.chmod(0o644)
    steps.add_root(page, "unplugged", windows_view="D:\\Unplugged", name="unplugged")
    steps.scan(page, "unplugged")
    steps.open_disk(page, "left.vhdx")
    assert steps.health(page) == "Look at this"
    expect(page.locator(".vd-sentence").first).to_contain_text("The log waits to be replayed")
    expect(page.locator("#why-compact")).to_contain_text("replay it first")
    identity = steps.inspected(console, disk)["identity"]
    assert steps.content_hash(console, disk) == LOG_CONTENT
    page.locator(".page-head").get_by_role("link", name="Replay log").click()
    changes = page.get_by_role("region", name="What changes")
    expect(changes).to_contain_text("2 entries with 2 updates, 8,192 bytes")
    page.get_by_role("button", name="Replay log").click()
    steps.wait_for_job(page)
    assert steps.content_hash(console, disk) == seven_zip_hash(disk) == LOG_CONTENT
    assert steps.inspected(console, disk)["identity"] == identity
    steps.open_disk(page, "left.vhdx")
    assert steps.health(page) == "Healthy"
    expect(page.get_by_role("link", name="Replay log")).to_have_count(0)
