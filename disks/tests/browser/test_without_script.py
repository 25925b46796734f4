"""Everything a person does here, with JavaScript switched off: sign in, work, sign out.

One user, one storage root and one page for all of it; each test has disks of its own.
"""

from __future__ import annotations

import csv
import io
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from disks.tests import builders
from disks.tests.browser import steps
from disks.tests.browser.conftest import PATIENCE_MS, Troubles
from disks.tests.console import Console
from disks.tests.engine import watched

NAME = "plain"
PASSWORD, NEXT_PASSWORD = "eleven quiet harbours", "twelve quiet harbours"
MIB = builders.MIB


@pytest.fixture(scope="module")
def folder(storage: Path) -> Path:
    """The disks of all tests here, each below a name of its own."""
    root = storage / NAME
    (root / "moved").mkdir(parents=True)
    base = builders.build_dynamic(root, "chain-base.vhd", size=8 * MIB)
    middle = builders.build_differencing(root, "chain-middle.vhd", base, content=[(3, b"m" * 512)])
    builders.build_differencing(root, "chain-leaf.vhd", middle, content=[(9, b"l" * 512)])
    class_ = builders.build_dynamic(root, "class.vhd", size=8 * MIB)
    for number in (1, 2):
        builders.build_differencing(root, f"pupil-{number}.vhd", class_)
    os.utime(class_.path, (1_000_000_000, 1_000_000_000))  # long before its children were made
    class_.path.rename(root / "moved" / "class.vhd")
    for number in (1, 2):
        zeros = [(0, b"z" * 512), (4096, bytes(512))]
        builders.build_dynamic(root, f"zeros-{number}.vhd", size=8 * MIB, content=zeros)
    torn = builders.build_dynamic(root, "torn.vhd", size=8 * MIB, content=[(0, b"t" * 512)])
    torn.patch(torn.footer_offset, b"\xde\xad\xbe\xef" * 16)
    watched.blocks(root / "huge.vhd", 32 * 1024, empty=True)  # 64 GiB to be checked, all holes
    return root


@pytest.fixture(scope="module")
def opened(
    browser: Browser, console: Console, signed_in: dict[str, Any], folder: Path
) -> Iterator[Page]:
    """A page without script; its user was added, and has signed in and scanned, without it."""
    options: dict[str, Any] = {
        "base_url": console.address,
        "java_script_enabled": False,
        "viewport": {"width": 1280, "height": 900},
    }
    with browser.new_context(storage_state=signed_in, **options) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto("/admin/auth/user/add/")
        page.get_by_label("Username").fill(NAME)
        page.get_by_label("Password:", exact=True).fill(PASSWORD)
        page.get_by_label("Password confirmation").fill(PASSWORD)
        role = page.locator("#id_role option", has_text="Administrator")
        page.get_by_label("Role").select_option(role.get_attribute("value"))
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.locator("body")).to_contain_text("was added successfully")
    with browser.new_context(**options) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto("/disks?q=chain")
        page.get_by_label("User name").fill(NAME)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{console.address}/disks?q=chain")
        steps.add_root(page, NAME, windows_view="P:\\Plain", name=NAME)
        page.get_by_role("button", name="Scan now").click()
        done(page)
        yield page


@pytest.fixture
def page(opened: Page, troubles: Troubles) -> Page:
    return troubles.watch(opened)


def done(page: Page, state: str = "Done") -> int:
    """Follow a job's page to its end, by its link."""

    def is_there() -> bool:
        if state in page.locator("#job-progress .job-state").inner_text():
            return True
        page.get_by_role("link", name="Look again").click()
        return False

    number = steps.job_number(page)
    steps.until(is_there, seconds=40)
    expect(page.get_by_role("link", name="Look again")).to_have_count(0)
    return number


def expect_names(page: Page, *names: str) -> None:
    """These disks are in the list, in this order."""
    rows = page.locator("#disks-list tbody .vd-rowname > a:not(.vd-fold)")
    expect(rows).to_have_text(list(names))


def test_disks_are_searched_filtered_sorted_and_shown_as_chains(page: Page) -> None:
    page.goto("/disks")
    box = page.get_by_role("search", name="Filter disks")
    box.get_by_label("Search").fill("chain-")
    box.get_by_label("Type").select_option("differencing")
    box.get_by_role("button", name="Apply").click()
    expect_names(page, "chain-leaf.vhd", "chain-middle.vhd")
    page.get_by_role("link", name="Name", exact=True).click()
    expect_names(page, "chain-middle.vhd", "chain-leaf.vhd")
    page.get_by_role("link", name="Clear").click()
    page.get_by_role("searchbox", name="Search disks by name, path or identity").fill("chain-")
    page.get_by_role("searchbox", name="Search disks by name, path or identity").press("Enter")
    page.get_by_role("link", name="Chains").click()
    expect_names(page, "chain-base.vhd", "chain-middle.vhd", "chain-leaf.vhd")
    page.get_by_role("link", name="Hide what is below chain-middle.vhd").click()
    expect_names(page, "chain-base.vhd", "chain-middle.vhd")
    page.get_by_role("link", name="Show what is below chain-middle.vhd").click()
    expect_names(page, "chain-base.vhd", "chain-middle.vhd", "chain-leaf.vhd")
    expect(page.locator("[data-select-all]")).to_be_hidden()  # it would do nothing


def test_selected_disks_are_checked_and_compacted(page: Page, folder: Path) -> None:
    before = [(folder / f"zeros-{number}.vhd").stat().st_size for number in (1, 2)]
    for button in ("Check", "Compact…"):
        page.goto("/disks?q=zeros-")
        for number in (1, 2):
            page.get_by_label(f"Select zeros-{number}.vhd").check()
        page.get_by_role("button", name=button).click()
        if button == "Check":
            done(page)
            expect(page.locator("main")).to_contain_text("2 disks checked: no errors.")
    expect(page.get_by_role("heading", level=1)).to_have_text("Compact 2 disks")
    page.get_by_role("button", name="Compact 2 disks").click()
    expect(page.locator("#messages")).to_contain_text("2 jobs")
    for number in (1, 2):
        page.goto("/jobs?kind=compact")
        page.get_by_role("link", name=f"Compact zeros-{number}.vhd").click()
        done(page)
        assert (folder / f"zeros-{number}.vhd").stat().st_size < before[number - 1]


def test_every_tab_of_a_disk_is_a_link(page: Page) -> None:
    steps.open_disk(page, "chain-middle.vhd")
    shows = {
        "Parent link": "Where we looked",
        "Children": "chain-leaf.vhd",
        "Findings": "Nothing was found",
        "Layout": "One square is one block",
        "History": "No job has worked on this disk",
        "Raw": "Dynamic disk header",
    }
    for tab, words in shows.items():
        page.locator("#tabs").get_by_role("link", name=tab).click()
        expect(page.locator("#tabs [aria-current=page]")).to_contain_text(tab)
        expect(page.locator("#tabs")).to_contain_text(words)
    page.locator(".vd-chain:visible").get_by_role("link", name="chain-base.vhd").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("chain-base.vhd")


def test_a_repair_plan_is_applied_and_undone(page: Page, folder: Path) -> None:
    before = (folder / "pupil-1.vhd").read_bytes()
    page.goto("/")
    group = page.locator("li.panel", has_text="2 disks").filter(has_text="class.vhd")
    group.get_by_role("link", name="Repair").click()
    page.get_by_label("Update pupil-2.vhd").uncheck()
    page.get_by_role("link", name="Choose all 2").click()
    expect(page.get_by_label("Update pupil-2.vhd")).to_be_checked()
    page.get_by_label("Update pupil-2.vhd").uncheck()
    page.get_by_role("button", name="Update the chosen parent paths").click()
    done(page)
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("pupil-1.vhd")
    assert (folder / "pupil-1.vhd").read_bytes() != before
    page.get_by_role("link", name="Undo all").click()
    page.get_by_role("button", name="Undo 1 update").click()
    done(page)
    assert (folder / "pupil-1.vhd").read_bytes()[:1536] == before[:1536]


def test_a_merge_is_chosen_foreseen_followed_and_restored(page: Page, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("chain-*.vhd")}
    steps.open_disk(page, "chain-leaf.vhd")
    page.get_by_role("link", name="Merge", exact=True).click()
    page.get_by_role("radio", name="A new disk").check()
    page.get_by_role("button", name="Show what will happen").click()
    wanted = "Merge 3 disks into chain-leaf-merged.vhd"
    expect(page.get_by_role("button", name=wanted)).to_be_visible()
    page.get_by_role("radio", name="The parent").check()
    page.get_by_role("button", name="Show what will happen").click()
    page.get_by_role("radio", name="chain-base.vhd").check()
    page.get_by_role("radio", name="this disk's name").check()
    page.get_by_role("button", name="Show what will happen").click()
    page.get_by_role("link", name="By copy").click()  # in place it could not be restored
    facts = page.locator("main")
    expect(facts).to_contain_text("can be undone until then")
    expect(facts).to_contain_text("Bytes to move")
    expect(facts).to_contain_text("the name of this disk")
    page.get_by_role("button", name="Merge 2 disks into chain-base.vhd").click()
    done(page)
    assert [path.name for path in folder.glob("chain-*.vhd")] == ["chain-leaf.vhd"]

    page.get_by_role("link", name="Trash").first.click()
    row = page.locator("tbody tr", has_text="chain-base.vhd")
    row.get_by_text("Restore…").click()
    row.get_by_role("button", name="Restore from trash").click()
    done(page)
    assert {path.name: path.read_bytes() for path in folder.glob("chain-*.vhd")} == before


def test_a_running_job_is_shown_anew_by_itself_and_cancelled_at_once(page: Page) -> None:
    """A deep check of one disk takes half a minute here; the cancel is heard within seconds."""
    steps.open_disk(page, "huge.vhd")
    page.get_by_role("button", name="Check").click()
    page.get_by_role("link", name="every 5 seconds").click()
    expect(page).to_have_url(re.compile("every=5"))
    at = page.locator("#job-progress .unscripted")
    shown = at.inner_text()
    assert "stop that" in shown
    expect(at).not_to_have_text(shown)  # by itself
    expect(page.locator("#job-progress progress[value]")).to_be_visible()
    began = time.monotonic()
    page.get_by_role("button", name="Cancel").click()
    done(page, "Cancelled")
    assert time.monotonic() - began < 4
    expect(page.locator("#job-progress")).to_contain_text("Every file is as it was")


def test_a_disk_is_compacted_from_its_page(page: Page, folder: Path) -> None:
    steps.open_disk(page, "moved/class.vhd")
    page.get_by_role("link", name="Compact", exact=True).click()
    expect(page.locator("main")).to_contain_text("Nothing can be won back")
    page.get_by_role("button", name="Compact class.vhd").click()
    done(page)


@pytest.mark.parametrize("kind", ["fixed", "dynamic", "differencing"])
def test_disks_of_every_type_are_created(page: Page, folder: Path, kind: str) -> None:
    name = f"new-{kind}.vhd"
    page.goto("/disks")
    page.get_by_role("link", name="Create disk").click()
    page.get_by_label(kind.capitalize()).check()
    page.get_by_role("button", name="Show the fields of the chosen kind").click()
    page.get_by_label("Storage root").select_option(label=NAME)
    page.locator("#id_name").fill(name)
    if kind == "differencing":
        value = page.locator("#id_parent option", has_text="chain-base.vhd").get_attribute("value")
        page.get_by_label("Parent", exact=True).select_option(value)
    else:
        page.locator("#id_size").fill("8")
        page.locator("#id_unit").select_option(index=0)
    page.get_by_role("button", name="Show what will happen").click()
    expect(page.get_by_role("heading", name="What will happen")).to_be_visible()
    page.get_by_role("button", name=f"Create {name}").click()
    done(page)
    assert (folder / name).exists()
    steps.open_disk(page, name)
    assert steps.health(page) == "Healthy"


def test_a_footer_is_repaired(page: Page, folder: Path) -> None:
    steps.open_disk(page, "torn.vhd")
    assert steps.health(page) == "Damaged"
    page.get_by_role("link", name="Repair footer").first.click()
    page.get_by_role("button", name="Repair footer").click()
    done(page)
    assert (folder / "torn.vhd").read_bytes()[-512:-504] == b"conectix"


def test_a_root_is_tested_added_edited_and_removed(page: Page, storage: Path) -> None:
    (storage / "second").mkdir()
    page.goto("/roots")
    page.get_by_role("link", name="Add a storage root").click()
    page.get_by_label("Folder", exact=True).fill("second")
    page.get_by_label("Name on these pages").fill("second")
    page.get_by_role("button", name="Test this folder").click()
    expect(page.locator("main")).to_contain_text("Nothing is added yet")
    page.get_by_role("button", name="Add this storage root").click()
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Who opens its disks").select_option("hyper-v")
    page.get_by_label("How Windows sees this folder").fill("S:\\Second")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("main")).to_contain_text("S:\\Second")
    page.get_by_text("Remove this root…").click()
    page.get_by_role("button", name="Remove this root").click()
    expect(page.get_by_role("link", name="second", exact=True)).to_have_count(0)


def test_a_disk_is_deleted_and_the_trash_is_emptied(page: Page, folder: Path) -> None:
    steps.open_disk(page, "zeros-2.vhd")
    page.get_by_role("link", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete zeros-2.vhd").click()
    done(page)
    assert not (folder / "zeros-2.vhd").exists()
    page.goto("/trash")
    total = page.locator(".trash-totals li", has_text=NAME)
    total.get_by_text("Empty…").click()
    total.get_by_role("button", name=f"Empty the trash of {NAME}").click()
    done(page)
    page.goto("/trash")
    expect(page.locator(".trash-totals li", has_text=NAME)).to_have_count(0)
    assert [path for path in (folder / ".vdtrash").rglob("*") if path.is_file()] == []


def test_the_audit_is_filtered_and_taken_away(page: Page) -> None:
    page.goto("/audit")
    page.get_by_label("Who").fill(NAME)
    page.get_by_label("Action").select_option("job-requested")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(re.compile("action=job-requested"))
    shown = page.locator("#audit-table tbody > tr > td[data-head=Who]").all_inner_texts()
    assert set(shown) == {f"{NAME}\n127.0.0.1"}
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV of this list").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8-sig"))))
    assert len(rows) >= len(shown)
    assert {(row["user"], row["action"]) for row in rows} == {(NAME, "job-requested")}


def test_the_theme_the_password_and_signing_out(page: Page) -> None:
    """Last: it ends the session of all the tests above."""
    page.goto("/jobs")
    page.get_by_label("Theme").click()
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.get_by_label("Account of").click()
    page.get_by_role("link", name="Change password").click()
    page.get_by_label("Old password").fill(PASSWORD)
    page.get_by_label("New password", exact=False).first.fill(NEXT_PASSWORD)
    page.get_by_label("confirmation", exact=False).fill(NEXT_PASSWORD)
    page.get_by_role("button", name="Change password").click()
    expect(page.locator("#messages")).to_contain_text("Your password is changed")
    page.get_by_label("Account of").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.go_back()
    page.reload()
    page.get_by_label("User name").fill(NAME)
    page.get_by_label("Password").fill(NEXT_PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("navigation", name="Main").wait_for()
