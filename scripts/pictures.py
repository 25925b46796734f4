"""Take the README's pictures from a fresh demo root: .venv/bin/python scripts/pictures.py"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    from disks.tests.browser.conftest import FLAGS
    from disks.tests.console import Console

    with (
        tempfile.TemporaryDirectory(prefix="vdadmin-pictures-") as folder,
        Console(Path(folder) / "state") as console,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(
            base_url=console.address, viewport={"width": 1280, "height": 860}, color_scheme="light"
        )
        page.goto("/login")
        page.get_by_label("User name").fill("admin")
        page.get_by_label("Password").fill(console.password)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("navigation", name="Main").wait_for()
        page.goto("/")
        page.screenshot(path=IMAGES / "overview.png")
        page.goto("/disks?q=lab-01.vhd")
        page.locator("tbody tr", has_text="lab-01.vhd").get_by_role("link").first.click()
        page.locator("h1", has_text="lab-01.vhd").wait_for()
        page.screenshot(path=IMAGES / "disk.png")
        browser.close()


if __name__ == "__main__":
    main()
