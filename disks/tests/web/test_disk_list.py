"""The disk list: filters, sorting, paging, tree; names from disks stay text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from disks.models import Disk
from disks.tests.factories import make_disk, make_job, make_link, make_root

HOSTILE = [
    "<img src=x onerror=alert(1)>.vhd",
    '"><script>alert(1)</script>.vhd',
    "invoice\u202edhv.exe.vhd",
    "two\nlines.vhd",
    b"caf\xe9.vhd".decode("utf-8", "surrogateescape"),
]
pytestmark = pytest.mark.django_db


def names(response: Any) -> list[str]:
    return [row.disk.name for row in response.context["rows"]]


def test_an_empty_console_says_what_to_do(administrator: Client) -> None:
    page = administrator.get("/disks").content.decode()
    assert "No storage root yet" in page
    assert "/roots/add" in page


def test_a_root_without_disks_says_so(viewer: Client) -> None:
    make_root()
    assert "No disks found yet" in viewer.get("/disks").content.decode()


def test_no_match_offers_all_disks(viewer: Client) -> None:
    make_disk()
    page = viewer.get("/disks?q=nothing-like-this").content.decode()
    assert "No disk matches" in page
    assert "Show all disks" in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("q=alpha", ["alpha.vhd"]),
        ("q=ALPHA", ["alpha.vhd"]),
        ("q=folder/", ["beta.vhd"]),
        ("q=%7B12345678-", ["beta.vhd"]),
        ("health=broken", ["beta.vhd"]),
        ("type=fixed", ["alpha.vhd"]),
        ("children=yes", ["gamma.vhd"]),
        ("sort=-name", ["gamma.vhd", "delta.vhd", "beta.vhd", "alpha.vhd"]),
        ("sort=used", ["alpha.vhd", "beta.vhd", "delta.vhd", "gamma.vhd"]),
    ],
)
def test_filters_and_sorting_come_from_the_address(
    viewer: Client, query: str, expected: list[str]
) -> None:
    make_disk("alpha.vhd", disk_type="fixed", allocated_bytes=1)
    make_disk(
        "folder/beta.vhd",
        health="broken",
        identity="12345678-0000-0000-0000-000000000001",
        allocated_bytes=2,
    )
    parent = make_disk("gamma.vhd", allocated_bytes=4)
    make_link(make_disk("delta.vhd", allocated_bytes=3), parent)
    assert names(viewer.get(f"/disks?{query}")) == expected


def test_what_a_job_put_away_is_not_counted_as_missing(viewer: Client) -> None:
    now = timezone.now()
    make_disk("lost.vhd", health="missing", missing_since=now)
    make_disk("deleted.vhd", health="missing", missing_since=now, put_away_by=make_job())
    make_disk("there.vhd")
    assert names(viewer.get("/disks?health=missing")) == ["lost.vhd"]
    answer = viewer.get("/disks?health=put-away")
    assert names(answer) == ["deleted.vhd"]
    counted = {one["label"]: one["count"] for one in answer.context["healths"]}
    assert counted == {"Missing": 1, "Put away": 1, "Healthy": 1}


def test_the_virtual_disk_id_finds_a_whole_chain(viewer: Client) -> None:
    shared = "de13206b-9eef-490e-a297-da27d10b6dc2"
    parent = make_disk("base.vhdx", format="vhdx", virtual_disk_id=shared)
    make_link(make_disk("leaf.vhdx", format="vhdx", virtual_disk_id=shared), parent)
    make_disk("other.vhdx", format="vhdx", virtual_disk_id="de13206b-0000-0000-0000-000000000000")
    for text in (shared, f"{{{shared.upper()}}}", "de13206b-9"):
        assert names(viewer.get("/disks", {"q": text})) == ["base.vhdx", "leaf.vhdx"]


def test_the_root_filter(viewer: Client) -> None:
    one, other = make_root(), make_root()
    make_disk("a.vhd", root=one)
    make_disk("b.vhd", root=other)
    assert names(viewer.get(f"/disks?root={other.pk}")) == ["b.vhd"]


@pytest.mark.parametrize(
    "query",
    [
        "sort=root__path",
        "sort=--name",
        "sort=password",
        "health=x",
        "root=9999",
        "type=%27",
        "page=abc",
        "page=99999999999999999999",
        "page=-1",
        "view=x",
        "q=%00",
        "fold=a",
        "seen=year",
    ],
)
def test_unknown_filters_are_refused(viewer: Client, query: str) -> None:
    """bad-input 111: allow-lists, no regular expression to the database, 400."""
    make_disk()
    assert (
        viewer.get(
            f"/disks?{query}&view=tree" if "fold" in query else f"/disks?{query}"
        ).status_code
        == 400
    )


def test_a_page_past_the_end_is_the_last_one(viewer: Client) -> None:
    make_disk("only.vhd")
    assert names(viewer.get("/disks?page=99999")) == ["only.vhd"]


def test_paging_counts_and_moves_on(viewer: Client) -> None:
    root = make_root()
    for number in range(53):
        make_disk(f"{number:03}.vhd", root=root)
    first = viewer.get("/disks").content.decode()
    assert "1–50 of 53 disks" in first
    assert names(viewer.get("/disks?page=2")) == ["050.vhd", "051.vhd", "052.vhd"]


@pytest.mark.parametrize("address", ["/disks", "/disks?view=tree", "/disks?q=disk&sort=-changed"])
def test_the_number_of_queries_does_not_grow(operator: Client, address: str) -> None:
    """bad-input 110: as many queries for three rows as for one."""
    make_disk("disk-a.vhd")
    operator.get(address)
    with CaptureQueriesContext(connection) as one:
        operator.get(address)
    base = make_disk("disk-b.vhd")
    make_link(make_disk("disk-c.vhd"), base)
    make_link(make_disk("disk-d.vhd"))
    with CaptureQueriesContext(connection) as more:
        operator.get(address)
    assert len(more) == len(one)


def test_the_tree_shows_whole_chains_base_first(viewer: Client) -> None:
    base = make_disk("base.vhd")
    middle = make_disk("middle.vhd")
    make_link(middle, base)
    leaf = make_disk("leaf.vhd")
    make_link(leaf, middle)
    make_disk("alone.vhd")
    response = viewer.get("/disks?view=tree")
    assert [(row.disk.name, row.level) for row in response.context["rows"]] == [
        ("alone.vhd", 0),
        ("base.vhd", 0),
        ("middle.vhd", 1),
        ("leaf.vhd", 2),
    ]
    folded = viewer.get(f"/disks?view=tree&fold={base.pk}")
    assert names(folded) == ["alone.vhd", "base.vhd"]
    assert names(viewer.get("/disks?view=tree&q=leaf")) == ["base.vhd", "middle.vhd", "leaf.vhd"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("address", ["/disks", "/disks?view=tree"])
def test_hostile_names_stay_text(viewer: Client, name: str, address: str) -> None:
    """bad-input 104: no name of a file becomes markup, reorders or breaks a line."""
    root = make_root(name="<b>root</b>")
    make_disk(f"<i>folder</i>/{name}", root=root, name=name)
    page = viewer.get(address).content.decode()
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "<b>root</b>" not in page
    assert "<i>folder" not in page
    assert "\u202e" not in page


def test_viewers_see_actions_with_the_reason_why_not(viewer: Client, operator: Client) -> None:
    make_disk("fixed.vhd", disk_type="fixed")
    seen = viewer.get("/disks").content.decode()
    assert "This needs the role “operator”." in seen
    assert 'name="disk"' not in seen
    allowed = operator.get("/disks").content.decode()
    assert "A fixed disk has no blocks to give back." in allowed
    assert "Only a differencing disk can be merged." in allowed


def test_htmx_gets_the_list_alone(viewer: Client) -> None:
    make_disk()
    part = viewer.get("/disks", headers={"HX-Request": "true"})
    assert part.content.decode().lstrip().startswith('<div id="disks-list"')
    assert "HX-Request" in part["Vary"]


def test_exact_bytes_are_there_for_those_who_need_them(viewer: Client) -> None:
    make_disk(allocated_bytes=1_992_294)
    page = viewer.get("/disks").content.decode()
    assert re.search(r'title="1,992,294 bytes">1\.9 MB', page)


def test_every_health_has_a_badge_with_a_word(viewer: Client) -> None:
    for health in Disk.Health.values:
        make_disk(health=health)
    page = viewer.get("/disks").content.decode()
    for word in ("Healthy", "Chain broken", "Damaged", "Missing", "In use", "Not a disk"):
        assert word in page
