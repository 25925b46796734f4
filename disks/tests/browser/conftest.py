"""A real console, a real browser, and a watch on what goes wrong in its pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    expect,
    sync_playwright,
)

from disks.tests.console import Console

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 30_000

# A killed worker is noticed soon, so that tests need not wait for what people would.
TIMINGS = {
    "VDADMIN_JOB_LEASE_SECONDS": "6",
    "VDADMIN_JOB_STOP_WRITING_SECONDS": "4",
    "VDADMIN_JOB_HEARTBEAT_SECONDS": "1",
    "VDADMIN_JOB_PROGRESS_SECONDS": "0.2",
    "VDADMIN_JOB_RESEND_SECONDS": "2",
    "VDADMIN_RECONCILER_SECONDS": "1",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/browser/" in str(item.path):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def storage(disk_place: Path) -> Path:
    """The folder below which roots can be declared in the browser."""
    folder = disk_place / "storage"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def console(disk_place: Path, storage: Path) -> Iterator[Console]:
    state = disk_place / "console" / "state"
    console = Console(state, VDADMIN_ROOTS_BELOW=str(storage), **TIMINGS)
    with console:
        console.first_password = console.password  # type: ignore[attr-defined]
        yield console


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=PATIENCE_MS)  # its own 5 s are little on a busy machine
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    running = playwright.chromium.launch(executable_path=program, args=FLAGS)
    yield running
    running.close()


@pytest.fixture(scope="session")
def signed_in(browser: Browser, console: Console) -> dict[str, Any]:
    """The administrator's session, from signing in as a person does."""
    with browser.new_context(base_url=console.address) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto("/jobs")
        page.get_by_label("User name").fill("admin")
        page.get_by_label("Password").fill(console.first_password)  # type: ignore[attr-defined]
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("navigation", name="Main").wait_for()
        return dict(context.storage_state())


class Troubles:
    """What a page must never have: errors on the console, failed scripts, CSP violations."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        # htmx reports its own requests that the next click overtook; failures have other names
        self.expected = ["htmx:afterRequest, ", "htmx:sendAbort, "]

    def watch(self, page: Page) -> Page:
        page.on("console", self._message)
        page.on("pageerror", lambda error: self.seen.append(f"{page.url}: {error}"))
        return page

    def _message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.seen.append(f"{message.location.get('url')}: {message.text}")

    def expect(self, text: str) -> None:
        """A message that belongs to what the test does, like the status of a refused form."""
        self.expected.append(text)

    def unexpected(self) -> list[str]:
        return [line for line in self.seen if not any(text in line for text in self.expected)]


@pytest.fixture
def troubles() -> Iterator[Troubles]:
    watching = Troubles()
    yield watching
    assert watching.unexpected() == []


@pytest.fixture
def new_page(
    browser: Browser, console: Console, signed_in: dict[str, Any], troubles: Troubles
) -> Iterator[Callable[..., Page]]:
    """Opens pages as the administrator; options are those of a browser context."""
    contexts: list[BrowserContext] = []

    def open_page(**options: Any) -> Page:
        options = {
            "base_url": console.address,
            "storage_state": signed_in,
            "viewport": {"width": 1280, "height": 900},
            "reduced_motion": "reduce",
        } | options
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        return troubles.watch(context.new_page())

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(
    new_page: Callable[..., Page], request: pytest.FixtureRequest, console: Console
) -> Iterator[Page]:
    page = new_page()
    yield page
    if getattr(request.node, "failed", False):
        folder = console.state / "pictures"
        folder.mkdir(exist_ok=True)
        page.screenshot(path=folder / f"{request.node.name}.png", full_page=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failed browser test says where it stood and what the services said."""
    report = yield
    if report.when == "call" and report.failed:
        item.failed = True  # type: ignore[attr-defined]
        page = getattr(item, "funcargs", {}).get("page")
        console = getattr(item, "funcargs", {}).get("console")
        if page is not None:
            report.sections.append(("page", f"{page.url}\n{_text_of(page)}"))
        if console is not None:
            report.sections.append(("services", console.logs()))
    return report


def _text_of(page: Page) -> str:
    try:
        return page.locator("main").inner_text(timeout=1000)[:4000]
    except Exception as error:
        return str(error)
