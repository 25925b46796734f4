"""What a person does on the pages, as verbs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from disks.tests.console import Console

WITHIN_A_MINUTE_MS = 60_000


def add_root(page: Page, folder: str, *, windows_view: str, name: str) -> None:
    """Declare a root that nobody else opens and that may be written to."""
    page.goto("/roots/add")
    page.get_by_label("Folder", exact=True).fill(folder)
    page.get_by_label("Name on these pages").fill(name)
    page.get_by_label("Who opens its disks").select_option("nobody")
    page.get_by_label("The console may change disks here").check()
    page.get_by_label("How Windows sees this folder").fill(windows_view)
    page.get_by_role("button", name="Add this storage root").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)


def scan(page: Page, name: str) -> None:
    """Scan a root from its page and wait for the job."""
    page.goto("/roots")
    page.get_by_role("link", name=name, exact=True).click()
    url = page.url
    at_it = page.get_by_role("link", name=re.compile(r"^(Being scanned|Scan \w+): job \d+$"))
    if at_it.count():  # the first scan, which nobody asks for
        at_it.click()
        wait_for_job(page)
        page.goto(url)
    page.get_by_role("button", name="Scan now").click()
    wait_for_job(page)


def wait_for_job(page: Page, state: str = "Done", timeout: float = WITHIN_A_MINUTE_MS) -> int:
    """On a job's page: until it is in a state; the job's number."""
    expect(page).to_have_url(re.compile(r"/jobs/\d+$"))
    expect(page.locator("#job-progress .job-state .badge").first).to_contain_text(
        state, timeout=timeout
    )
    return job_number(page)


def job_number(page: Page) -> int:
    found = re.search(r"/jobs/(\d+)$", page.url)
    assert found, page.url
    return int(found[1])


def open_disk(page: Page, path: str) -> None:
    """Find a disk by its path below the root with the search box, and open its page."""
    page.goto("/disks")
    box = page.get_by_role("searchbox").first
    box.fill(path.rsplit("/", 1)[-1])
    box.press("Enter")
    row = page.locator("tbody tr", has_text=path)
    # Other tests' disks are listed as well, whose names may end like this one's.
    row.get_by_role("link", name=path.rsplit("/", 1)[-1], exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(path.rsplit("/", 1)[-1])


def health(page: Page) -> str:
    """The badge beside the title of a disk's page."""
    return page.locator("h1 .badge").inner_text().strip()


def content_hash(console: Console, path: Path, *options: str) -> str:
    """`disk hash`: SHA-256 of the virtual content through the whole chain."""
    answer = console.manage("disk", "hash", str(path), "--json", *options)
    return str(json.loads(answer)["sha256"])


def inspected(console: Console, path: Path, *options: str) -> dict[str, Any]:
    return dict(json.loads(console.manage("disk", "inspect", str(path), "--json", *options)))


def job_row(console: Console, number: int) -> dict[str, Any]:
    return dict(json.loads(console.manage("job", "show", str(number))))


def until(condition: Any, seconds: float = 20.0) -> Any:
    """As `eventually`, for conditions that need the browser's own loop to go on."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return value
