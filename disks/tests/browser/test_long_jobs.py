"""Jobs over a chain of more than 1 GiB: progress, cancel, and a killed worker."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from disks.tests.browser import steps
from disks.tests.browser.disks_in_code import write_disk
from disks.tests.console import Console

pytestmark = pytest.mark.slow

VIRTUAL_MIB = 2048


@pytest.fixture(scope="module")
def big_chain(storage: Path) -> Path:
    """Base, middle and leaf hold 1.25 GiB; the whole merge copies as much."""
    folder = storage / "big"
    base = write_disk(folder / "base.vhd", virtual_mib=VIRTUAL_MIB, filled_mib=range(800))
    middle = write_disk(
        folder / "middle.vhd",
        virtual_mib=VIRTUAL_MIB,
        filled_mib=range(700, 1100),
        parent=base,
        windows_folder="D:\\Big",
    )
    write_disk(
        folder / "leaf.vhd",
        virtual_mib=VIRTUAL_MIB,
        filled_mib=range(1080, 1280),
        parent=middle,
        windows_folder="D:\\Big",
    )
    return folder


@pytest.fixture(scope="module")
def content(big_chain: Path, console: Console) -> str:
    return steps.content_hash(console, big_chain / "leaf.vhd")


@pytest.fixture
def ready(page: Page, big_chain: Path, console: Console) -> Page:
    """The chain is catalogued; the page is signed in."""
    page.goto("/roots")
    if not page.get_by_role("link", name="big", exact=True).count():
        steps.add_root(page, "big", windows_view="D:\\Big", name="big")
        steps.scan(page, "big")
    return page


def start_merge_to(page: Page, name: str) -> int:
    """Ask for the whole chain in a new disk; the page is then the job's."""
    steps.open_disk(page, "leaf.vhd")
    page.get_by_role("link", name="Merge", exact=True).click()
    page.get_by_label("A new disk").check()
    page.locator("input[name=name]:visible").fill(name)
    page.get_by_role("button", name="Show what will happen").click()
    expect(page.locator("form input[name=name][type=hidden]")).to_have_value(name)
    page.get_by_role("button", name=f"Merge 3 disks into {name}").click()
    expect(page).to_have_url(re.compile(r"/jobs/\d+$"))
    return steps.job_number(page)


def wait_until_copying(page: Page) -> None:
    """The bar moves: some of it is done, and not all."""
    bar = page.locator("#job-progress progress[value]")
    expect(bar).to_be_visible()
    expect(bar).not_to_have_attribute("value", "0")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, hidden ones too; locks aside."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and ".vdlock" not in path.parts
    }


def test_progress_is_shown_and_the_merged_disk_is_the_same(
    ready: Page, big_chain: Path, console: Console, content: str
) -> None:
    with console.slowed():
        start_merge_to(ready, "merged.vhd")
        wait_until_copying(ready)
        expect(ready.locator(".job-pace")).to_contain_text("GB")
    steps.wait_for_job(ready)
    expect(ready.locator("main")).to_contain_text("merged.vhd")
    assert steps.content_hash(console, big_chain / "merged.vhd") == content
    (big_chain / "merged.vhd").unlink()


def test_cancel_answers_within_seconds_and_leaves_every_file_as_it_was(
    ready: Page, big_chain: Path, console: Console
) -> None:
    before = snapshot(big_chain)
    with console.slowed():
        number = start_merge_to(ready, "cancelled.vhd")
        wait_until_copying(ready)
        began = time.monotonic()
        ready.get_by_role("button", name="Cancel").click()
        expect(ready.locator("#job-progress .job-state .badge").first).to_contain_text(
            "Cancelled", timeout=10_000
        )
    assert time.monotonic() - began < 6  # the page asks every two seconds
    row = steps.job_row(console, number)
    assert row["status"] == "cancelled"
    assert snapshot(big_chain) == before


def test_a_killed_worker_loses_nothing_and_the_job_says_how_it_ended(
    ready: Page, big_chain: Path, console: Console, content: str
) -> None:
    before = snapshot(big_chain)
    with console.slowed():
        number = start_merge_to(ready, "killed.vhd")
        wait_until_copying(ready)
    killed = console.kill("worker")
    began = time.monotonic()
    expect(ready.locator("#job-progress .job-state .badge").first).to_contain_text(
        re.compile("Done|Failed"), timeout=steps.WITHIN_A_MINUTE_MS
    )
    assert time.monotonic() - began < 60
    row = steps.job_row(console, number)
    after = snapshot(big_chain)
    if row["status"] == "succeeded":  # started again by itself, or past its commit
        assert steps.content_hash(console, big_chain / "killed.vhd") == content
        after.pop("killed.vhd")
        (big_chain / "killed.vhd").unlink()
    assert after == before
    steps.until(lambda: console.pid("worker") != killed)
    os.kill(console.pid("worker"), 0)
    assert f"worker was ended by {signal.SIGKILL.name}; it starts again" in console.text()


def test_a_merge_in_place_is_stopped_and_resumed(
    ready: Page, big_chain: Path, console: Console, content: str
) -> None:
    """The last of this file: afterwards the chain is shorter."""
    steps.open_disk(ready, "leaf.vhd")
    ready.get_by_role("link", name="Merge", exact=True).click()
    expect(ready.get_by_role("link", name="In place")).to_have_attribute("aria-current", "true")
    ready.get_by_role("link", name="By copy").click()
    expect(ready.locator("main")).to_contain_text("To the trash")
    ready.get_by_role("link", name="In place").click()
    ready.get_by_text("When and how fast").click()
    ready.get_by_label("At most", exact=True).check()
    ready.locator("input[name=limit_mb]").fill("40")  # else it is done before anybody can stop it
    expect(ready.locator("#time-guess")).to_contain_text("at 40 MB/s")  # the plan's time follows
    ready.get_by_role("button", name="Merge leaf.vhd into middle.vhd").click()
    expect(ready).to_have_url(re.compile(r"/jobs/\d+$"))
    wait_until_copying(ready)
    expect(ready.locator(".job-pace")).to_contain_text("limit 40 MB/s, proof counted")
    ready.get_by_role("button", name="Stop").click()
    expect(ready.locator("#job-progress .job-state .badge").first).to_contain_text(
        "Paused", timeout=20_000
    )
    expect(ready.locator("main")).to_contain_text("Do not open middle.vhd by itself")
    ready.get_by_role("button", name="Resume").click()
    steps.wait_for_job(ready)
    expect(ready.locator("main")).to_contain_text("each batch read back, and the same")
    assert steps.content_hash(console, big_chain / "middle.vhd") == content
    assert not (big_chain / "leaf.vhd").exists()
