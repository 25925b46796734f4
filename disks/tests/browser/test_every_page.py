"""Every page, wide and narrow, light and dark: accessible, and silent on the console."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from disks.tests.browser.conftest import Troubles

AXE = Axe().axe_script
WIDTHS = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}

# Addresses of the demo root's pages. `{…}` are disks, found by their paths.
PAGES = [
    "/",
    "/disks",
    "/disks?view=tree",
    "/disks?q=no-such-disk",
    "/disks/{Lab/lab-01.vhd}",
    "/disks/{Web server/web-today.vhd}?tab=parent",
    "/disks/{Web server/web-base.vhd}?tab=children",
    "/disks/{Files/old-scans.vhd}?tab=findings",
    "/disks/{Files/share.vhd}?tab=layout",
    "/disks/{Web server/web-today.vhd}?tab=history",
    "/disks/{Web server/web-base.vhd}?tab=raw",
    "/disks/{Desktops/desktop-01.vhdx}",
    "/disks/{Payroll/payroll.vhdx}?tab=parent",
    "/disks/{Desktops/desktop-02-test.vhdx}?tab=layout",
    "/disks/{Archive 2026/windows11.vhdx}?tab=raw",
    "/disks/{Lab/lab-01.vhd}/parent",
    "/disks/{Payroll/payroll.vhdx}/parent",
    "/disks/{Web server/web-today.vhd}/merge",
    "/disks/{Web server/web-today.vhd}/merge?into=new",
    "/disks/{Files/share.vhd}/compact",
    "/disks/{Web server/web-today.vhd}/convert",
    "/disks/{Files/share.vhd}/convert?format=raw",
    "/disks/{Web server/web-today.vhd}/expand?size=2&unit=GB",
    "/disks/{Web server/web-base.vhd}/expand?size=2&unit=GB",
    "/disks/{Files/share.vhd}/expand",
    "/disks/{Web server/web-today.vhd}/copy?folder=Files",
    "/disks/{Web server/web-base.vhd}/move?folder=Files&name=web-base.vhd",
    "/disks/{Web server/web-base.vhd}/delete",
    "/disks/{Files/share.vhd}/delete",
    "/piles",
    "/piles/folder?root=1",
    "/disks/{SRV01/Virtual Hard Disks/srv01.vhd}/pile",
    "/disks/{Files/old-scans.vhd}/repair-headers",
    "/create",
    "/create?disk_type=dynamic&format=vhd",
    "/create?disk_type=differencing",
    "/repair",
    "/jobs",
    "/roots",
    "/roots/1",
    "/roots/1/edit",
    "/roots/add",
    "/trash",
    "/audit",
    "/password",
    "/admin/auth/user/",
    "/no-such-page",
]


@pytest.fixture(scope="module")
def disk_numbers() -> dict[str, str]:
    return {}


def address(page: Page, pattern: str, known: dict[str, str]) -> str:
    """Put the number of a disk for its path."""
    found = re.search(r"\{(.+)\}", pattern)
    if not found:
        return pattern
    path = found[1]
    if path not in known:
        page.goto(f"/disks?q={path.rsplit('/', 1)[-1]}")
        link = page.locator("tbody tr", has_text=path).get_by_role("link").first
        target = link.get_attribute("href") or ""
        known[path] = re.search(r"/disks/(\d+)", target)[1]  # type: ignore[index]
    return pattern.replace(found[0], known[path])


def test_every_page_is_accessible_and_silent(
    new_page: Callable[..., Page], troubles: Troubles, disk_numbers: dict[str, str]
) -> None:
    """Each page is loaded once and looked at four times, as both widths and themes show it."""
    troubles.expect("404 (Not Found)")
    page = new_page(viewport=WIDTHS["wide"], color_scheme="light")
    wrong = []
    for pattern in PAGES:
        target = address(page, pattern, disk_numbers)
        answer = page.goto(target)
        assert answer is not None
        if answer.status != (404 if pattern == "/no-such-page" else 200):
            wrong.append(f"{target}: status {answer.status}")
            continue
        expect(page.locator("h1").first).to_be_attached()
        wrong += [f"{target}, {line}" for line in looks(page)]
    assert not wrong, "\n".join(wrong)


def looks(page: Page) -> list[str]:
    """What is wrong with an open page at any width, in any theme."""
    wrong = []
    page.evaluate(AXE)
    for width, size in WIDTHS.items():
        page.set_viewport_size(size)  # type: ignore[arg-type]
        wrong += [f"{width}: {line}" for line in violations(page)]
        if overflow := sideways(page):
            wrong.append(f"{width}: {overflow} px wider than the screen")
        show(page, "dark")  # which changes nothing but colours
        wrong += [f"{width} and dark: {line}" for line in violations(page, "color-contrast")]
        show(page, "light")
    page.set_viewport_size(WIDTHS["wide"])  # type: ignore[arg-type]
    return wrong


def show(page: Page, theme: Any) -> None:
    """Change the theme; colours that fade over (the admin's links do) are there at once."""
    page.emulate_media(color_scheme=theme)
    page.evaluate(
        """() => document.getAnimations().forEach(
            each => each.effect.getComputedTiming().endTime < Infinity && each.finish())"""
    )


def violations(page: Page, *rules: str) -> list[str]:
    """What axe, which is in the page already, finds: by these rules, else by all of its own."""
    only = {"runOnly": list(rules)} if rules else {}
    found = page.evaluate(
        "options => axe.run(document, options).then(results => results.violations)",
        {"resultTypes": ["violations"], **only},
    )
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: "
        + " | ".join(str(node["target"][0]) for node in one["nodes"][:3])
        for one in found
    ]


def sideways(page: Page) -> int:
    """How far the page itself scrolls sideways; tables may, in a region of their own."""
    return int(
        page.evaluate(
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_sign_in_page_is_accessible_and_silent(
    new_page: Callable[..., Page], width: str
) -> None:
    page = new_page(viewport=WIDTHS[width], storage_state=None)
    page.goto("/login")
    page.evaluate(AXE)
    assert violations(page) == []
    assert sideways(page) == 0


def test_the_policy_forbids_what_pages_do_not_need(page: Page) -> None:
    answer = page.goto("/")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
