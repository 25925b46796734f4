"""The fold "When and how fast" of the forms of long work, and what roots say of it."""

from __future__ import annotations

import html
import json
import re
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from disks.models import AuditEntry, Disk, Job, StorageRoot
from disks.services import jobs, scanning
from disks.tests import builders
from disks.tests.factories import make_job, make_root
from disks.tests.web.test_convert_expand_pages import words
from disks.tests.web.test_plan_pages import hidden

pytestmark = pytest.mark.django_db

MIB = builders.MIB


@pytest.fixture
def leaf(tmp_path: Path) -> Disk:
    base = builders.build_dynamic(tmp_path, "base.vhd", size=8 * MIB, content=[(3, b"b" * 512)])
    builders.build_dynamic(tmp_path, "alone.vhd", size=8 * MIB)
    builders.build_differencing(tmp_path, "leaf.vhd", parent=base, content=[(9, b"l" * 512)])
    scanning.scan(make_root(tmp_path, name="vms", limit_bytes_per_second=30 * MIB))
    return Disk.objects.get(name="leaf.vhd")


def sent(client: Client, disk: Disk, verb: str, query: str = "", **fields: str) -> Any:
    address = f"/disks/{disk.pk}/{verb}"
    form = hidden(client.get(f"{address}{query}").content.decode())
    return client.post(address, form | fields)


def job_of(answer: Any) -> Job:
    assert answer.status_code == 302, answer.content.decode()
    return Job.objects.get(pk=int(answer["Location"].rsplit("/", 1)[1]))


@pytest.mark.parametrize(
    ("verb", "query"),
    [
        ("merge", ""),
        ("compact", ""),
        ("convert", ""),
        ("expand", "?size=64&unit=MB"),
        ("copy", "?folder=there"),
        ("move", "?name=other.vhd"),
    ],
)
def test_every_form_of_long_work_has_the_fold_and_says_what_the_root_allows(
    operator: Client, viewer: Client, leaf: Disk, tmp_path: Path, verb: str, query: str
) -> None:
    (tmp_path / "there").mkdir()
    disk = leaf if verb != "expand" else Disk.objects.get(name="alone.vhd")
    page = operator.get(f"/disks/{disk.pk}/{verb}{query}").content.decode()
    assert page.count("When and how fast") == 1
    assert re.search(r"how fast ?\( ?vms ?: at most 30 MB ?/s\)", words(page))
    assert "When and how fast" not in viewer.get(f"/disks/{disk.pk}/{verb}{query}").content.decode()


def test_deleting_is_no_long_work(operator: Client, leaf: Disk) -> None:
    assert "When and how fast" not in operator.get(f"/disks/{leaf.pk}/delete").content.decode()


def test_a_limit_of_its_own_is_kept_for_the_job_and_audited(operator: Client, leaf: Disk) -> None:
    job = job_of(sent(operator, leaf, "merge", limit="own", limit_mb="50"))
    assert job.limit_bytes_per_second == 50 * MIB
    entry = AuditEntry.objects.get(job=job, action="job-timed")
    assert (entry.username, "at most 50 MB/s" in entry.sentence) == (
        operator.user.username,  # type: ignore[attr-defined]
        True,
    )


def test_what_is_not_chosen_is_as_the_root_says(operator: Client, leaf: Disk) -> None:
    job = job_of(sent(operator, leaf, "merge", limit="root", limit_mb="nonsense"))
    assert job.limit_bytes_per_second is None
    assert not AuditEntry.objects.filter(action="job-timed").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "Say how many MB a second"),
        ("0", "greater than or equal to 1"),
        ("-5", "greater than or equal to 1"),
        ("9999999999", "less than or equal to"),
        ("fast", "whole number"),
        ("1" * 5000, ""),
    ],
)
def test_a_limit_that_is_none_is_told_beside_its_field_and_no_job_is_made(
    operator: Client, leaf: Disk, value: str, said: str
) -> None:
    answer = sent(operator, leaf, "merge", limit="own", limit_mb=value)
    page = answer.content.decode()
    assert (answer.status_code, Job.objects.exists()) == (422, False)
    assert re.search(r'<details class="card-body timing" open\s', page)
    assert said in page


def test_a_running_jobs_page_says_what_it_may_move(viewer: Client, leaf: Disk) -> None:
    job = make_job(
        Job.Kind.MERGE,
        status=Job.Status.RUNNING,
        limit_bytes_per_second=12 * MIB,
        done_bytes=100 * MIB,
        total_bytes=200 * MIB,
        started_at="2026-01-01T00:00:00Z",
        step_started_at="2026-01-01T00:00:00Z",
    )
    assert "limit 12 MB /s, proof counted" in words(viewer.get(f"/jobs/{job.pk}").content.decode())


def test_a_root_is_told_what_each_job_may_move(administrator: Client, leaf: Disk) -> None:
    root = StorageRoot.objects.get()
    edit = reverse("root-edit", args=[root.pk])
    page = administrator.get(edit).content.decode()
    assert 'name="limit_mb" value="30"' in page
    fields = {"name": root.name, "opened_by": "nobody", "writable": "on", "scan_every_minutes": "0"}
    assert (
        administrator.post(edit, fields | {"limit_mb": "45", "jobs_at_once": "2"}).status_code
        == 302
    )
    root.refresh_from_db()
    assert (root.limit_bytes_per_second, root.jobs_at_once) == (45 * MIB, 2)
    page = administrator.get(reverse("root", args=[root.pk])).content.decode()
    assert "jobs together move at most 45 MB /s" in words(page)
    assert "2 that move data; others wait" in words(page)
    assert administrator.post(edit, fields | {"jobs_at_once": "0"}).status_code == 422
    administrator.post(edit, fields | {"limit_mb": "", "jobs_at_once": ""})
    root.refresh_from_db()
    assert (root.limit_bytes_per_second, root.jobs_at_once) == (0, 0)
    changes = AuditEntry.objects.filter(action="root-change").order_by("pk")
    assert [row.after["limit_bytes_per_second"] for row in changes] == [45 * MIB, 0]


def test_a_job_that_waits_for_room_says_so(viewer: Client, leaf: Disk) -> None:
    StorageRoot.objects.update(jobs_at_once=1)
    folder = StorageRoot.objects.get().path
    running, waiting = (
        make_job(Job.Kind.MERGE, parameters={"locks": {"exclusive": [f"{folder}/{n}.vhd"]}})
        for n in range(2)
    )
    assert jobs.claim(running.pk) is not None
    assert jobs.claim(waiting.pk) is None
    page = words(viewer.get(f"/jobs/{waiting.pk}").content.decode())
    assert "Waits: 1 job already runs on vms, which allows 1 at once." in page


# --- when --------------------------------------------------------------------------------


@pytest.fixture
def berlin(settings: Any) -> Any:
    settings.TIME_ZONE = "Europe/Berlin"
    return ZoneInfo("Europe/Berlin")


def test_a_start_and_an_end_are_times_of_the_consoles_zone(
    operator: Client, leaf: Disk, berlin: Any
) -> None:
    page = words(operator.get(f"/disks/{leaf.pk}/merge").content.decode())
    assert re.search(r"it is \d\d:\d\d there, (CET|CEST|Europe/Berlin)", page)
    day = (timezone.now() + timedelta(days=3)).astimezone(berlin).date()
    fields = {"start": "later", "not_before": f"{day}T22:15", "stop_by": "05:30"}
    job = job_of(sent(operator, leaf, "merge", **fields))
    assert job.not_before == datetime.combine(day, time(22, 15), tzinfo=berlin)
    assert job.stop_by == datetime.combine(day + timedelta(days=1), time(5, 30), tzinfo=berlin)
    assert not job.outside_hours
    assert jobs.claim(job.pk) is None
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert re.search(rf"Starts at 22:15 on {day.day} \w+ \(CES?T\)\. \( ?in [23] days ?\)", page)
    assert "Start now" in page
    answer = operator.post(f"/jobs/{job.pk}/start-now")
    assert answer.status_code == 302
    assert jobs.claim(job.pk) is not None


def test_a_start_in_the_past_is_now(operator: Client, leaf: Disk) -> None:
    job = job_of(sent(operator, leaf, "merge", start="later", not_before="2020-01-01T00:00"))
    assert job.not_before is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"start": "later", "not_before": ""}, "Say when the job may start."),
        ({"start": "later", "not_before": "tomorrow"}, "Give a date and a time that exist."),
        ({"start": "later", "not_before": "2999-01-01T00:00"}, "more than a year ahead"),
        ({"stop_by": "25:00"}, "Give a time like 22:00."),
        ({"start": "whenever"}, ""),
    ],
)
def test_a_time_that_is_none_is_told_and_no_job_is_made(
    operator: Client, leaf: Disk, fields: dict[str, str], said: str
) -> None:
    answer = sent(operator, leaf, "merge", **fields)
    assert (answer.status_code, Job.objects.exists()) == (422, False)
    assert said in answer.content.decode()


def test_hours_of_a_root_are_set_shown_and_offered_to_be_passed_over(
    administrator: Client, operator: Client, leaf: Disk
) -> None:
    root = StorageRoot.objects.get()
    edit = reverse("root-edit", args=[root.pk])
    fields = {"name": root.name, "opened_by": "nobody", "writable": "on", "scan_every_minutes": "0"}
    for wrong in (
        {"hours_begin": "22:00"},
        {"hours_end": "06:00"},
        {"hours_begin": "06:00", "hours_end": "06:00"},
        {"hours_begin": "late", "hours_end": "06:00"},
    ):
        assert administrator.post(edit, fields | wrong).status_code == 422
    administrator.post(edit, fields | {"hours_begin": "22:00", "hours_end": "06:00"})
    root.refresh_from_db()
    assert (root.hours_begin, root.hours_end) == (time(22), time(6))
    assert 'value="22:00"' in administrator.get(edit).content.decode()
    assert "22:00–06:00" in administrator.get(f"/roots/{root.pk}").content.decode()
    assert AuditEntry.objects.get(action="root-change").after["hours"] == "22:00-06:00"
    page = words(operator.get(f"/disks/{leaf.pk}/merge").content.decode())
    assert re.search(r"When and how fast ?\( ?vms ?: 22:00–06:00\)", page)
    assert "As soon as a worker is free, from 22:00 to 06:00" in page
    assert re.search(r"Run outside the hours of ?vms ?\(22:00–06:00\), too", page)
    assert job_of(sent(operator, leaf, "merge", outside_hours="on")).outside_hours


def test_a_job_that_the_hours_paused_offers_to_go_on_now_or_to_be_kept(
    operator: Client, viewer: Client, leaf: Disk
) -> None:
    job = make_job(
        Job.Kind.COMPACT,
        status=Job.Status.PAUSED,
        sentence="Paused: the hours of vms are over. It goes on at 22:00 on 5 May (UTC).",
        resume_at=timezone.now() + timedelta(hours=3, minutes=1),
        parameters={"in_place": True},
    )
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert re.search(r"It goes on at 22:00 on 5 May \(UTC\)\. \( ?in 3 hours ?\)", page)
    assert ("Go on now" in page, "Keep it paused" in page, "Resume" in page) == (True, True, False)
    assert "Go on now" not in viewer.get(f"/jobs/{job.pk}").content.decode()
    assert viewer.post(f"/jobs/{job.pk}/start-now").status_code == 403
    operator.post(f"/jobs/{job.pk}/pause")
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert ("Go on now" in page, "Resume" in page) == (False, True)


def test_a_job_that_somebody_paused_is_not_started_by_an_old_page(
    operator: Client, leaf: Disk
) -> None:
    job = make_job(Job.Kind.COMPACT, status=Job.Status.PAUSED, parameters={"in_place": True})
    answer = operator.post(f"/jobs/{job.pk}/start-now")
    assert answer.status_code == 409
    assert "does not wait for the clock: it is “Paused”." in answer.content.decode()
    job.refresh_from_db()
    assert job.status == Job.Status.PAUSED


def test_the_button_to_start_now_says_that_the_end_stays(operator: Client, leaf: Disk) -> None:
    job = make_job(
        Job.Kind.COMPACT,
        resume_at=timezone.now() + timedelta(hours=1),
        stop_by=(timezone.now() + timedelta(days=1)).replace(hour=5, minute=30),
    )
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert "Whatever the hours of its storage root. It still has to stop by 05:30 on" in page


# --- held --------------------------------------------------------------------------------


def test_a_copy_is_held_and_goes_on_from_its_page(operator: Client, leaf: Disk) -> None:
    job = job_of(sent(operator, leaf, "convert"))
    assert jobs.claim(job.pk) is not None
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert "Its worker waits with it, and keeps the unfinished copy" in page
    assert operator.post(f"/jobs/{job.pk}/pause").status_code == 302
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert "Pausing" in page
    Job.objects.filter(pk=job.pk).update(held_at=timezone.now())
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert ("Held since" in page, "It goes on at once, where it is." in page) == (True, True)
    assert operator.post(f"/jobs/{job.pk}/resume").status_code == 302
    job.refresh_from_db()
    assert job.pause_requested_at is None


def test_one_more_than_may_be_held_is_refused_with_what_to_do(
    operator: Client, leaf: Disk, settings: Any
) -> None:
    settings.JOBS_HELD_AT_MOST = 0
    job = job_of(sent(operator, leaf, "convert"))
    assert jobs.claim(job.pk) is not None
    answer = operator.post(f"/jobs/{job.pk}/pause")
    assert answer.status_code == 409
    assert "start another worker and raise VDADMIN_JOBS_HELD_AT_MOST" in answer.content.decode()


# --- how long ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "query", "moved"),
    [("merge", "?way=copy", None), ("compact", "", 0), ("convert", "", None)],
)
def test_the_time_of_a_plan_follows_the_limit_of_its_root(
    operator: Client, leaf: Disk, verb: str, query: str, moved: int | None
) -> None:
    page = words(operator.get(f"/disks/{leaf.pk}/{verb}{query}").content.decode())
    if moved == 0:
        assert (
            "Time with the proof, by this machine's last jobs" in page
        )  # there is nothing to move
    else:
        assert "Time with the proof, at 30 MB /s" in page
        assert "no job to guess from yet" not in page


def fold_asks(client: Client, page: str, **chosen: str) -> Any:
    """What the fold of a plan's page sends for while somebody fills it in."""
    fold = re.search(r'<details class="card-body timing".*?>', page, re.S)
    assert fold
    assert 'hx-target="#time-guess"' in fold[0]
    address = re.search(r'hx-get="(.*?)"', fold[0])
    values = re.search(r"hx-vals='(.*?)'", fold[0])
    assert address
    assert values
    return client.get(address[1], json.loads(values[1]) | chosen, headers={"HX-Request": "true"})


@pytest.mark.parametrize("verb", ["merge", "compact", "convert", "copy"])
def test_the_time_of_a_plan_follows_the_speed_that_is_typed(
    operator: Client, leaf: Disk, tmp_path: Path, verb: str
) -> None:
    StorageRoot.objects.update(limit_bytes_per_second=1)
    (tmp_path / "there").mkdir()
    query = "?folder=there" if verb == "copy" else ""
    page = operator.get(f"/disks/{leaf.pk}/{verb}{query}").content.decode()
    assert page.count('id="time-guess"') == page.count('id="plan-hours"') == 1
    whole = re.search(r'<div id="time-guess".*?</div>', page, re.S)
    assert whole
    assert "at 1 byte" in words(whole[0])
    as_before = fold_asks(operator, page, limit="root").content.decode()
    assert whole[0] in as_before  # the very figure that the page was drawn with
    own = words(fold_asks(operator, page, limit="own", limit_mb="7").content.decode())
    assert ("by this machine" if verb == "compact" else "at 7 MB /s") in own
    assert "1 byte" not in own
    none = words(fold_asks(operator, page, limit="none").content.decode())
    assert "by this machine's last jobs" in html.unescape(none)


def test_half_typed_the_time_stays_as_it_is(operator: Client, leaf: Disk) -> None:
    page = operator.get(f"/disks/{leaf.pk}/merge").content.decode()
    for chosen in ({"limit": "own", "limit_mb": ""}, {"limit": "own", "limit_mb": "x"}):
        answer = fold_asks(operator, page, **chosen)
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "bytes=x",
        "bytes=-1",
        "bytes=nan",
        "bytes=1e30",
        "bytes=1&roots=a",
        "bytes=1&seconds=inf",
    ],
)
def test_an_address_that_no_fold_asks_for_is_answered_with_nothing(
    operator: Client, query: str
) -> None:
    assert operator.get(f"/jobs/time?{query}").status_code == 204


def test_a_form_that_is_shown_again_has_the_time_of_what_was_typed(
    operator: Client, leaf: Disk
) -> None:
    """Without script: the plan changed meanwhile, and is asked about once more."""
    StorageRoot.objects.update(limit_bytes_per_second=1)
    address = f"/disks/{leaf.pk}/convert"
    form = hidden(operator.get(address).content.decode())
    Path(leaf.path).touch()
    answer = operator.post(address, form | {"limit": "none"})
    assert answer.status_code == 409
    page = words(answer.content.decode())
    assert "by this machine" in page
    assert "at 1 byte" not in page


def test_a_plan_that_does_not_fit_into_the_hours_says_so_above_it(
    operator: Client, leaf: Disk
) -> None:
    begin = timezone.localtime() - timedelta(hours=1)
    end = timezone.localtime() + timedelta(minutes=5)
    StorageRoot.objects.update(
        limit_bytes_per_second=1, hours_begin=begin.time(), hours_end=end.time()
    )
    plain = operator.get(f"/disks/{leaf.pk}/convert").content.decode()
    longer = "It takes longer than the hours of vms last, which end at"
    assert longer in words(plain)
    assert longer in words(fold_asks(operator, plain, stop_by="05:00").content.decode())
    for chosen in ({"limit": "own", "limit_mb": "9"}, {"outside_hours": "on"}):
        told = fold_asks(operator, plain, **chosen).content.decode()
        assert '<div id="plan-hours" hx-swap-oob="true">' in told
        assert "It takes longer" not in told
    StorageRoot.objects.update(hours_begin=None, hours_end=None)
    page = words(operator.get(f"/disks/{leaf.pk}/convert").content.decode())
    assert "It takes longer than" not in page
