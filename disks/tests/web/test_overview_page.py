"""The first page: the verdict first, each statement with its date, and what to do next."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from disks.tests.factories import make_disk, make_job, make_link, make_root, make_trashed_job

HOSTILE = ["<img src=x onerror=alert(1)>", '"><script>alert(1)</script>', "\u202edhv.exe"]
pytestmark = pytest.mark.django_db


def test_the_first_visit_says_what_to_do(administrator: Client, viewer: Client) -> None:
    assert "No storage root yet" in viewer.get("/").content.decode()
    assert "/roots/add" in administrator.get("/").content.decode()


def test_all_is_well_has_a_date(viewer: Client) -> None:
    make_root(last_scan_at=timezone.now())
    base = make_disk("base.vhd")
    make_link(make_disk("leaf.vhd"), base)
    page = viewer.get("/").content.decode()
    assert "The one chain is complete, as of" in page


def test_broken_disks_are_grouped_by_cause_with_the_repair(viewer: Client) -> None:
    make_root(last_scan_at=timezone.now())
    base = make_disk("archive/base.vhd")
    for number in range(3):
        make_link(make_disk(f"c-{number}.vhd"), suggested=base, cause="missing:x")
    page = viewer.get("/").content.decode()
    assert "3 disks name one missing base" in page
    assert "Repair all 3…" in page
    assert "/repair?cause=missing%3Ax" in page
    assert "complete, as of" not in page


def test_what_needs_a_look_is_listed(viewer: Client) -> None:
    root = make_root(
        name="slow store",
        state="offline",
        state_reason="Nothing is mounted.",
        last_scan_at=timezone.now(),
    )
    make_disk("bad.vhd", health="damaged")
    make_disk("gone.vhd", health="missing")
    make_disk("old.vhd", health="suspect")
    make_disk("unplugged.vhdx", health="notice", health_code="W_LOG", log_waits=True)
    lost = "\\\\?\\Volume{9cdf8dfa-0000-0000-0000-501f00000000}\\VMs\\b.vhdx"
    unmapped = {"source": "path", "candidate": None, "verdict": "unmapped"}
    places = [unmapped | {"raw": raw} for raw in (lost, "Q:\\VMs\\b.vhdx")]
    make_link(make_disk("lost.vhdx"), trace=places, cause="missing:x", unmapped_folder="Q:\\VMs")
    make_trashed_job(root, size_bytes=5 * 1024**3)
    page = viewer.get("/").content.decode()
    for words in (
        "1 file is damaged.",
        "1 disk is gone.",
        "was written after the disk was first seen",
        "1 disk has something to look at: its log waits to be replayed",
        "1 broken link names a Windows folder that no storage root maps",
        "slow store is offline",
        "come free when the trash is emptied",
    ):
        assert words in page
    assert "Q:\\" in page
    assert "Volume{" not in page  # no storage root could map it


def test_the_line_of_what_needs_a_look_counts_what_its_list_shows(viewer: Client) -> None:
    make_root()
    for number in range(2):
        make_disk(f"copy{number}.vhdx", health="notice", health_code="W_HEADER_COPY")
    assert "2 disks have something to look at." in viewer.get("/").content.decode()
    make_disk("unplugged.vhdx", health="notice", health_code="W_LOG", log_waits=True)
    page = viewer.get("/").content.decode()
    assert "3 disks have something to look at: the log of one waits to be replayed" in page
    make_disk("base.vhdx", health="notice", health_code="W_HALF_MERGED")
    assert (
        "4 disks have something to look at: the log of one waits to be replayed, for whoever wrote "
        "last was stopped; a merge into one is not finished."
    ) in viewer.get("/").content.decode()
    listed = viewer.get("/disks?health=notice").content.decode()
    assert all(name in listed for name in ("copy0.vhdx", "copy1.vhdx", "unplugged.vhdx"))


def test_running_jobs_renew_themselves_and_finished_ones_do_not(viewer: Client) -> None:
    make_root()
    job = make_job(status="running", summary="Merge something", total_bytes=10, done_bytes=5)
    page = viewer.get("/", headers={"HX-Request": "true"}).content.decode()
    assert page.lstrip().startswith('<div id="overview-jobs"')
    assert 'hx-trigger="every' in page
    job.status = "succeeded"
    job.save(update_fields=["status"])
    done = viewer.get("/", headers={"HX-Request": "true"}).content.decode()
    assert "hx-trigger" not in done


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(viewer: Client, text: str) -> None:
    """bad-input 104."""
    root = make_root(name=text, state="offline", state_reason=text, last_scan_at=timezone.now())
    child = make_disk(f"{text}.vhd", root=root)
    make_link(child, named_path=text, suggested=make_disk(f"{text}2.vhd", root=root))
    make_job(summary=text)
    page = viewer.get("/").content.decode()
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "\u202e" not in page
    plan = viewer.get("/repair").content.decode()
    assert "<img src=x" not in plan
    assert "<script>alert" not in plan
    assert "\u202e" not in plan


def test_queries_do_not_grow_with_the_groups(viewer: Client) -> None:
    make_root(last_scan_at=timezone.now())
    make_link(make_disk("a.vhd"), cause="missing:0", suggested=make_disk("b0.vhd"))
    viewer.get("/")
    with CaptureQueriesContext(connection) as one:
        viewer.get("/")
    for number in range(1, 6):
        make_link(
            make_disk(f"a{number}.vhd"),
            cause=f"missing:{number}",
            suggested=make_disk(f"b{number}.vhd"),
        )
    with CaptureQueriesContext(connection) as many:
        viewer.get("/")
    assert len(many) == len(one)


def test_only_the_causes_that_are_shown_are_looked_up(viewer: Client) -> None:
    """A volume of bases is away: ten thousand causes must not take ten seconds."""
    for number in range(15):
        make_link(make_disk(f"c-{number:02}.vhd", health="broken"), cause=f"missing:{number:02}")
    with CaptureQueriesContext(connection) as queries:
        page = viewer.get("/").content.decode()
    assert "3 more causes in the repair plan" in page
    looked_up = [row["sql"] for row in queries if '"disks_disk"."id" IN (' in row["sql"]]
    assert len(looked_up) == 1
    assert looked_up[0].rpartition(" IN (")[2].partition(")")[0].count(",") == 11  # twelve disks
