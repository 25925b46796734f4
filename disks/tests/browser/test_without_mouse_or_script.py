"""The repair with the keyboard alone, and with JavaScript switched off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from disks.tests import builders
from disks.tests.browser import steps
from disks.tests.console import Console
from disks.tests.operations import piles
from disks.tests.operations.piles import Pile
from disks.tests.operations.worlds import content_of

MOST_TABS = 80


@pytest.fixture
def broken(page: Page, console: Console, storage: Path, request: pytest.FixtureRequest) -> str:
    """A child whose base lies in another folder; its path below its own root."""
    name = f"desk-{abs(hash(request.node.name)) % 10**8}"
    folder = storage / name
    (folder / "moved").mkdir(parents=True)
    base = builders.build_dynamic(folder / "moved", f"{name}-base.vhd", size=4 * builders.MIB)
    builders.build_differencing(folder, f"{name}-child.vhd", parent=base)
    steps.add_root(page, name, windows_view=f"F:\\{name}", name=name)
    steps.scan(page, name)
    return f"{name}-child.vhd"


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on the control of that name; its focus must be visible."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if not focused.count():
            continue
        words = focused.evaluate(
            "element => (element.getAttribute('aria-label') || (element.labels && element.labels[0]"
            " ? element.labels[0].innerText : element.innerText) || '').trim()"
        )
        if words.startswith(name):
            outline = focused.evaluate(
                "element => { const style = getComputedStyle(element);"
                " return style.outlineStyle !== 'none' || style.boxShadow !== 'none'; }"
            )
            assert outline, f"the focus on {name!r} cannot be seen"
            return
    raise AssertionError(f"{name!r} is not reached by {MOST_TABS} tabs")


def test_a_parent_path_is_updated_with_the_keyboard_alone(page: Page, broken: str) -> None:
    page.goto("/")
    tab_to(page, "Skip to the content")
    page.keyboard.press("Enter")
    tab_to_search_and_find(page, broken)
    tab_to(page, broken)
    page.keyboard.press("Enter")
    expect(page.locator("h1 .badge")).to_contain_text("Chain broken")
    tab_to(page, "Update parent path")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="What changes")).to_be_visible()
    tab_to(page, "From the catalog, best first")
    tab_to(page, "Update parent path")
    page.keyboard.press("Enter")
    expect(page.locator("h1 .badge")).to_contain_text("Healthy")


def tab_to_search_and_find(page: Page, name: str) -> None:
    page.goto("/disks")
    tab_to(page, "Search disks by name, path or identity")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr", has_text=name)).to_have_count(1)


@pytest.fixture
def plain_page(new_page: Callable[..., Page]) -> Page:
    return new_page(java_script_enabled=False)


def test_a_parent_path_is_updated_and_undone_without_javascript(
    plain_page: Page, broken: str
) -> None:
    page = plain_page
    steps.open_disk(page, broken)
    assert steps.health(page) == "Chain broken"
    page.get_by_role("link", name="Parent link").click()
    expect(page.get_by_role("region", name="Resolution trace")).to_be_visible()
    page.locator("#tabs").get_by_role("link", name="Update parent path").click()
    page.get_by_label("From the catalog, best first").select_option(index=1)
    page.get_by_role("button", name="Show what will change").click()
    expect(page.get_by_role("region", name="What changes")).to_be_visible()
    page.get_by_role("button", name="Update parent path").click()
    expect(page.locator("h1 .badge")).to_contain_text("Healthy")
    page.get_by_role("link", name="Undo last update").click()
    page.get_by_role("button", name="Undo the update").click()
    expect(page.locator("h1 .badge")).to_contain_text("Chain broken")


def test_a_long_job_is_started_and_followed_without_javascript(
    plain_page: Page, broken: str
) -> None:
    """Reloading shows what polling would."""
    page = plain_page
    page.goto("/roots")
    page.get_by_role("button", name=f"Scan {broken.removesuffix('-child.vhd')} now").click()

    def is_done() -> bool:
        page.reload()
        return "Done" in page.locator("#job-progress .job-state").inner_text()

    steps.until(is_done)


@pytest.fixture
def checkpoints(page: Page, storage: Path) -> Pile:
    """Four checkpoints whose names tell nothing, in a root of their own."""
    made = piles.make(storage / "pile-without-script", names="abcd")
    steps.add_root(page, "pile-without-script", windows_view="P:\\pile", name="pile")
    steps.scan(page, "pile")
    return made


def test_a_checkpoint_pile_is_merged_without_javascript(
    plain_page: Page, checkpoints: Pile
) -> None:
    page, made = plain_page, checkpoints
    leaf = Path(made.path("d")).name
    steps.open_disk(page, leaf)
    page.get_by_role("link", name="Merge checkpoint pile").click()
    expect(page.locator(".vd-order li")).to_have_count(4)
    expect(page.locator(".vd-script")).to_contain_text(f"Merge-VHD -Path 'P:\\pile\\{leaf}'")
    page.get_by_label("The leaf's name").check()
    page.get_by_role("button", name="Show what will happen").click()
    expect(page.get_by_label("The leaf's name")).to_be_checked()
    for declaration in page.locator(".vd-declare input").all():
        declaration.check()
    page.get_by_role("button", name="Merge 4 disks into").click()

    def is_done() -> bool:
        page.reload()
        return "Done" in page.locator("#job-progress .job-state").inner_text()

    steps.until(is_done)
    assert content_of(made.path("d")) == made.disks["d"].sha256
    assert not made.disks["vm"].path.exists()


def test_a_disk_is_copied_to_a_plain_image_and_expanded_without_javascript(
    plain_page: Page, page: Page, storage: Path
) -> None:
    """Another format is chosen and shown first; its name follows."""
    folder = storage / "forms"
    folder.mkdir()
    made = builders.build_dynamic(
        folder, "forms.vhd", size=4 * builders.MIB, content=[(5, b"forms" * 1024)]
    )
    steps.add_root(page, "forms", windows_view="Q:\\forms", name="forms")
    steps.scan(page, "forms")

    page = plain_page
    steps.open_disk(page, "forms.vhd")
    page.get_by_role("link", name="Convert").click()
    page.get_by_label("Plain image").check()
    page.get_by_role("button", name="Show what will happen").click()
    expect(page.locator("#id_name")).to_have_value("forms-copy.raw")
    expect(page.get_by_text("this console will not list it")).to_be_visible()
    page.get_by_role("button", name="Convert to forms-copy.raw").click()

    def is_done() -> bool:
        page.reload()
        return "Done" in page.locator("#job-progress .job-state").inner_text()

    steps.until(is_done)
    assert (folder / "forms-copy.raw").read_bytes() == bytes(made.model)

    steps.open_disk(page, "forms.vhd")
    page.get_by_role("link", name="Expand").click()
    page.get_by_label("New size").fill("1")
    page.get_by_label("Unit").select_option("GB")
    page.get_by_role("button", name="Show what will happen").click()
    expect(page.get_by_role("region", name="What changes")).to_contain_text("1,073,741,824")
    page.get_by_role("button", name="Expand forms.vhd").click()
    steps.until(is_done)
    steps.open_disk(page, "forms.vhd")
    expect(page.locator(".facts").first).to_contain_text("1 GB")
