"""Forms, headers, names from disks, odd addresses: what the web must survive."""

from __future__ import annotations

import csv
import io
import re
import time
from typing import Any

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.db import DatabaseError, connection
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from disks.models import AuditEntry, Disk, Job, JobLogLine
from disks.services import scanning
from disks.services.access import Role, grant
from disks.tests import builders
from disks.tests.factories import (
    make_audit,
    make_disk,
    make_job,
    make_link,
    make_root,
    make_trashed_job,
    make_user,
)
from disks.tests.operations import worlds
from disks.tests.web.test_roles import EVERY, NOBODY
from disks.views.audit import cell
from vdadmin.middleware import Allowance

pytestmark = pytest.mark.django_db

HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>\u202egpj.\x07"
GETS = [
    address
    for address, _ in EVERY
    if not address.startswith(("/admin", "/login", "/logout", "/health", "/theme"))
]


# --- forms -------------------------------------------------------------------------------


@pytest.mark.parametrize("htmx", [False, True], ids=["plain", "htmx"])
@pytest.mark.parametrize("address", [address for address, _ in EVERY if "jsi18n" not in address])
def test_post_without_csrf_token_is_refused(address, htmx):
    """bad-input G100."""
    client = Client(enforce_csrf_checks=True)
    user = make_user()
    grant(user, Role.ADMINISTRATOR)
    client.force_login(user)
    headers = {"HX-Request": "true"} if htmx else {}
    answer = client.post(address, {"csrfmiddlewaretoken": "wrong"}, headers=headers)
    assert answer.status_code == 403
    assert "This form was open too long" in answer.content.decode()


def test_get_changes_nothing(administrator, tmp_path):
    """bad-input G100: every address by GET with every id, then rows and files are as they were."""
    base = builders.build_dynamic(tmp_path, "base.vhd", size=4 * builders.MIB)
    builders.build_differencing(tmp_path, "child.vhd", parent=base)
    broken = builders.build_differencing(tmp_path, "broken.vhd", parent=base)
    broken.patch_header(parent_unique_id=b"\1" * 16)
    root = make_root(tmp_path, views=("C:\\VMs",))
    scanning.scan(root)
    jobs = [
        make_job(status=status, root=root, disk=Disk.objects.first(), kind=Job.Kind.REPAIR_PLAN)
        for status in (Job.Status.QUEUED, Job.Status.RUNNING, Job.Status.FAILED)
    ]
    trashed = make_trashed_job(root, jobs[2])
    numbers = {root.pk, trashed.pk, *(job.pk for job in jobs), *_keys(Disk)}
    before, files = _everything(), worlds.snapshot(tmp_path)
    seen = set()
    for address, _ in EVERY:
        for number in sorted(numbers):
            status = administrator.get(address.replace(NOBODY, str(number))).status_code
            seen.add((address, status))
    assert _everything() == before
    assert worlds.snapshot(tmp_path) == files
    # it was not all about rows that are not there
    assert not [
        address
        for address, _ in EVERY
        if NOBODY in address
        and {status for seen_address, status in seen if seen_address == address} == {404}
        and not address.startswith("/admin")
    ]


def _keys(model: Any) -> list[int]:
    return list(model.objects.values_list("pk", flat=True))


def _everything() -> dict[str, list[dict]]:
    from django.apps import apps

    return {
        model._meta.label: list(model._default_manager.order_by("pk").values())
        for model in apps.get_models()
        if model._meta.label not in ("sessions.Session", "axes.AccessLog", "axes.AccessAttempt")
    }


# --- ids, filters, pages -----------------------------------------------------------------


WITH_IDS = [address for address, _ in EVERY if NOBODY in address and "/admin" not in address]


@pytest.mark.parametrize("number", ["0", NOBODY, str(2**63), str(10**40)])
@pytest.mark.parametrize("address", WITH_IDS)
def test_ids_of_nothing_are_404(administrator, address, number):
    """bad-input G101: every address with an id, by GET and by POST."""
    target = address.replace(NOBODY, number)
    codes = {administrator.get(target).status_code, administrator.post(target, {}).status_code}
    assert codes <= {404, 405}
    assert 404 in codes


@pytest.mark.parametrize("text", ["-1", "abc", "1.5", "1%00", "%2e%2e", "1;drop"])
@pytest.mark.parametrize("address", WITH_IDS)
def test_ids_that_are_no_numbers_are_404(administrator, address, text):
    """bad-input G101."""
    assert administrator.get(address.replace(NOBODY, text)).status_code == 404
    assert administrator.post(address.replace(NOBODY, text), {}).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "page=0x10",
        "page=-1",
        "page=9999999999999999999999",
        "page=%00",
        "state=password",
        "kind=1%20OR%201=1",
        "q=%00",
        "q=" + "x" * 5000,
    ],
)
def test_odd_filters_of_a_list_are_400(viewer, query):
    """bad-input G111."""
    answer = viewer.get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert "This address cannot be used" in answer.content.decode()


@pytest.mark.parametrize(
    "query", ["since=yesterday", "since=0000-00-00", "until=99999-01-01", "action=none", "job=a"]
)
def test_odd_filters_of_the_audit_are_400(viewer, query):
    """bad-input G111."""
    assert viewer.get(f"/audit?{query}").status_code == 400
    assert viewer.get(f"/audit.csv?{query}").status_code == 400


def test_search_words_are_words_not_patterns(viewer):
    """bad-input G111: no regular expression and no LIKE pattern reaches the database."""
    make_job(summary="Merge a_b.vhd")
    make_job(summary="Merge axb.vhd")
    page = viewer.get("/jobs", {"q": "a_b"}).content.decode()
    assert "a_b.vhd" in page
    assert "axb.vhd" not in page
    assert viewer.get("/jobs", {"q": "(((["}).status_code == 200


@pytest.mark.parametrize("name", ["jobs", "audit"])
def test_huge_page_number_is_the_last_page(viewer, name):
    """bad-input G111."""
    assert viewer.get(reverse(name), {"page": "999999"}).status_code == 200


@pytest.mark.parametrize("name", ["overview", "jobs", "roots", "trash", "audit", "jobs-running"])
def test_one_and_many_rows_take_the_same_number_of_queries(viewer, name):
    """bad-input G110."""

    def rows(count: int) -> None:
        for _ in range(count):
            root = make_root(views=("C:\\VMs",))
            disk = make_disk(root=root)
            job = make_job(root=root, disk=disk, requested_by=viewer.user)
            make_audit(job=job, disk=disk)
            make_trashed_job(root, job)

    rows(1)
    viewer.get(reverse(name))
    with CaptureQueriesContext(connection) as one:
        viewer.get(reverse(name))
    rows(3)
    with CaptureQueriesContext(connection) as four:
        viewer.get(reverse(name))
    assert len(four) == len(one)


def test_ten_thousand_jobs_take_no_more_queries_than_three_and_little_time(viewer):
    """bad-input G110: the list, the number in the navigation, and their fragments."""

    def queries() -> list[int]:
        counts = []
        for name in ("jobs", "jobs-running", "overview"):
            for headers in ({}, {"HX-Request": "true"}):
                with CaptureQueriesContext(connection) as captured:
                    assert viewer.get(reverse(name), headers=headers).status_code == 200
                counts.append(len(captured))
        return counts

    for status in (Job.Status.QUEUED, Job.Status.RUNNING, Job.Status.SUCCEEDED):
        make_job(status=status)
    few = queries()
    asked = timezone.now()
    Job.objects.bulk_create(
        Job(
            kind=Job.Kind.CHECK,
            status=Job.Status.SUCCEEDED if number % 3 else Job.Status.QUEUED,
            summary=f"Check disk {number}",
            idempotency_key=f"many-{number}",
            requested_at=asked,
        )
        for number in range(10_000)
    )
    began = time.process_time()
    many = queries()
    assert all(now <= before for now, before in zip(many, few, strict=True)), (few, many)
    assert time.process_time() - began < 2  # seven pages; a single one takes some 50 ms


def test_a_jobs_page_takes_the_same_number_of_queries_for_one_disk_and_for_many(viewer):
    """bad-input G110."""
    counts = []
    for number in (1, 60):
        disks = [make_disk(root=make_root()) for _ in range(number)]
        job = make_job(
            Job.Kind.REPAIR_PLAN,
            status=Job.Status.SUCCEEDED,
            result={"rows": [{"child": disk.path, "ok": True} for disk in disks]},
        )
        JobLogLine.objects.bulk_create(
            JobLogLine(job=job, at=timezone.now(), text="…") for _ in range(number)
        )
        with CaptureQueriesContext(connection) as captured:
            assert viewer.get(reverse("job", args=[job.pk])).status_code == 200
        counts.append(len(captured))
    assert counts[0] == counts[1]


def test_a_jobs_page_is_drawn_again_only_when_it_would_look_different(viewer):
    """bad-input G110: 204 while nothing moves, and the last answer asks no more."""
    job = make_job(status=Job.Status.RUNNING, total_bytes=100, done_bytes=5)
    page = viewer.get(reverse("job", args=[job.pk])).content.decode()

    def polled() -> tuple[int, str]:
        address = re.search(r'id="job-progress"[^>]* hx-get="([^"]+)"', page)[1]
        with CaptureQueriesContext(connection) as captured:
            answer = viewer.get(address, headers={"HX-Request": "true"})
        if answer.status_code == 204:
            assert len(captured) <= 6
        return answer.status_code, answer.content.decode()

    assert polled() == (204, "")
    changes = [
        {"done_bytes": 6},
        {"sentence": "copying block 2"},
        {"cancel_requested_at": timezone.now()},
        {"cancellable": False},
        {"status": Job.Status.LOST},
    ]
    for change in changes:
        Job.objects.filter(pk=job.pk).update(**change)
        status, page = polled()
        assert (status, 'hx-trigger="every 2s"' in page) == (200, True)
        assert polled() == (204, "")
    job.log.create(at=timezone.now(), text="a line more")
    status, page = polled()
    assert "a line more" in page
    Job.objects.filter(pk=job.pk).update(status=Job.Status.SUCCEEDED)
    status, page = polled()
    assert (status, "hx-get" in page) == (200, False)


def test_a_storm_of_tabs_is_held_off_without_a_query_and_others_are_served(
    viewer, sign_in, monkeypatch
):
    """bad-input G110: 500 tabs on a job's page."""
    clock = [1000.0]
    monkeypatch.setattr("vdadmin.middleware.time.monotonic", lambda: clock[0])
    job = make_job(status=Job.Status.RUNNING)
    address = reverse("job", args=[job.pk])
    fragment = {"HX-Request": "true"}
    per_second, at_once = settings.FRAGMENTS_PER_BROWSER
    served = 0
    for _ in range(500):
        with CaptureQueriesContext(connection) as captured:
            answer = viewer.get(address, headers=fragment)
        if answer.status_code == 429:
            assert len(captured) == 0
            assert answer["Retry-After"] == "5"
            assert answer["Content-Security-Policy"]
        served += answer.status_code == 200
    assert served == at_once
    assert viewer.get(address).status_code == 200  # whole pages are not held off
    other = sign_in(Role.VIEWER)
    assert other.get(address, headers=fragment).status_code == 200
    clock[0] += 2
    answers = [viewer.get(address, headers=fragment).status_code for _ in range(500)]
    assert answers.count(200) == 2 * per_second


def test_invented_cookies_do_not_get_around_the_limit(client, monkeypatch):
    """bad-input G110."""
    monkeypatch.setattr("vdadmin.middleware.time.monotonic", lambda: 5.0)
    codes = []
    for number in range(settings.FRAGMENTS_PER_ADDRESS[1] + 5):
        client.cookies[settings.SESSION_COOKIE_NAME] = f"invented-{number}"
        codes.append(client.get("/jobs", headers={"HX-Request": "true"}).status_code)
    assert codes.count(429) == 5
    assert codes[-5:] == [429] * 5


def test_the_limit_forgets_whom_it_has_not_seen_for_long(monkeypatch):
    monkeypatch.setattr("vdadmin.middleware._KEYS_KEPT", 2)
    allowance = Allowance(0.0, 1)
    assert allowance.takes("a")
    assert not allowance.takes("a")
    assert allowance.takes("b")
    assert allowance.takes("c")  # and "a" is forgotten
    assert allowance.takes("a")


def test_running_badge_answers_204_while_nothing_changed(viewer):
    """bad-input G110."""
    make_job(status=Job.Status.RUNNING)
    changed = viewer.get(reverse("jobs-running"), {"seen": "0"})
    assert changed.status_code == 200
    assert "seen=1" in changed.content.decode()
    assert viewer.get(reverse("jobs-running"), {"seen": "1"}).status_code == 204


# --- what comes from disks and people ----------------------------------------------------


def test_hostile_names_are_text_on_every_page(administrator):
    """bad-input G104."""
    root = make_root("/srv/" + HOSTILE.replace("/", ""), name=HOSTILE[:80], state_reason=HOSTILE)
    root.state = root.State.OFFLINE
    root.excluded_folders = [HOSTILE]
    root.probe = {"readable": True, "problems": [HOSTILE], "file_system": HOSTILE}
    root.last_scan_result = {"output": HOSTILE}
    root.save()
    disk = make_disk(HOSTILE.replace("/", "") + ".vhd", root=root, creator=HOSTILE)
    child = make_disk("child.vhd", root=root)
    make_link(child, None, named_path=HOSTILE, reason=HOSTILE)
    error = {"code": "E_X", "message": HOSTILE, "file": HOSTILE, "field": HOSTILE, "value": HOSTILE}
    job = make_job(
        status=Job.Status.FAILED,
        kind=Job.Kind.REPAIR_PLAN,
        summary=HOSTILE,
        sentence=HOSTILE,
        error=error,
        disk=disk,
        root=root,
        result={"output": HOSTILE, "rows": [{"path": HOSTILE, "error": {"message": HOSTILE}}]},
    )
    job.log.create(at=job.requested_at, text=HOSTILE)
    make_trashed_job(root, job, items=[{"path": HOSTILE, "size_bytes": 1}])
    make_audit(
        HOSTILE, username=HOSTILE[:150], path=HOSTILE, disk=disk, before=HOSTILE, after=[HOSTILE]
    )
    addresses = {address.replace("99999999", str(job.pk)) for address in GETS}
    addresses |= {address.replace("99999999", str(root.pk)) for address in GETS}
    addresses |= {address.replace("99999999", str(disk.pk)) for address in GETS}
    addresses |= {address.replace("99999999", str(child.pk)) for address in GETS}
    shown = 0
    for address in sorted(addresses):
        if address == "/audit.csv":
            continue
        answer = administrator.get(address, follow=True)
        assert answer.status_code in (200, 204, 404, 405, 409, 422), address
        text = b"".join(answer).decode() if answer.streaming else answer.content.decode()
        assert "<img" not in text, address
        assert "<script>alert" not in text, address
        if not address.endswith("/edit"):  # a form's field keeps what it has to send back
            assert "\u202e" not in text, address
        shown += "&lt;img src=x" in text
    assert shown >= 5


def test_bytes_that_are_not_utf8_do_not_break_a_page(viewer):
    """bad-input D65 on pages: a name that is not UTF-8 is spelt out."""
    root = make_root("/srv/caf\udce9")
    page = viewer.get(reverse("root", args=[root.pk])).content.decode()
    assert "/srv/" in page
    assert "\\xe9" in page


def test_audit_csv_cells_cannot_be_formulas(administrator):
    """bad-input G105."""
    texts = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "%0A", "fine"]
    for text in texts:
        make_audit(text, username=text, path=text)
    answer = administrator.get(reverse("audit-csv"))
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"].startswith('attachment; filename="vdadmin-audit-')
    rows = list(csv.DictReader(io.StringIO(b"".join(answer).decode("utf-8-sig"))))
    assert len(rows) == len(texts)
    for row in rows:
        for value in row.values():
            assert not value.lstrip().startswith(("=", "+", "-", "@", "%", "\t"))
    assert rows[0]["sentence"] == "fine"


def test_csv_cell_shows_hidden_characters():
    assert cell("a\u202eb\r\nc") == "a\\u202eb\\u000d\\u000ac"


class Endless:
    """A body of a form that begins with files and never ends."""

    def __init__(self, files: int) -> None:
        part = (
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="disk.vhd"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\nconectix\r\n"
        )
        self.begin = part * files + part[:-2]
        self.bytes_read = 0

    def read(self, size: int = 0) -> bytes:
        data, self.begin = self.begin[:size], self.begin[size:]
        data += b"x" * (size - len(data))
        self.bytes_read += size
        return data

    readline = read


@pytest.mark.parametrize("files", [0, 5_000])
def test_an_upload_is_cut_off_at_its_beginning(administrator, files, monkeypatch):
    """bad-input G107: a terabyte, or many parts; no form takes a file, none is kept anywhere."""
    monkeypatch.setattr("tempfile.NamedTemporaryFile", None)
    body = Endless(files)
    answer = administrator.post(
        reverse("password-change"),
        data=b"",
        content_type="multipart/form-data; boundary=b",
        **{"wsgi.input": body, "CONTENT_LENGTH": str(10**12)},
    )
    assert answer.status_code == 422  # a form in which nothing was filled in
    assert body.bytes_read < 1024**2


def test_more_form_than_fits_is_400(administrator):
    """bad-input G107."""
    answer = administrator.post(reverse("password-change"), {"old_password": "x" * 2_000_000})
    assert answer.status_code == 400
    fields = {f"f{number}": "" for number in range(20_001)}
    assert administrator.post(reverse("password-change"), fields).status_code == 400
    assert "cannot be understood" in answer.content.decode()


# --- headers -----------------------------------------------------------------------------


def test_forged_host_is_400(client):
    """bad-input G108."""
    answer = client.get("/login", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert "evil.example" not in answer.content.decode()


@pytest.mark.parametrize("address", ["/login", "/jobs", "/nothing"])
def test_headers_of_every_page(administrator, address):
    """bad-input G109."""
    answer = administrator.get(address)
    policy = dict(
        part.strip().split(" ", 1) for part in answer["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer["Cache-Control"]
    assert "camera=()" in answer["Permissions-Policy"]


def test_session_cookie_is_out_of_reach_of_scripts_and_other_sites(client):
    """bad-input G109."""
    user = make_user()
    client.post(reverse("login"), {"username": user.username, "password": "quiet-harbour-42"})
    cookie = client.cookies["vdadmin-session"]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")


def test_no_page_holds_inline_script_or_style(administrator):
    """What the policy would block anyway, and silently."""
    make_job(status=Job.Status.RUNNING, total_bytes=10, done_bytes=5)
    root = make_root()
    for address in [*GETS, reverse("job", args=[Job.objects.get().pk]), f"/roots/{root.pk}"]:
        answer = administrator.get(address)
        if answer.streaming or answer.status_code == 204:
            continue
        text = answer.content.decode()
        assert " style=" not in text, address
        assert " onclick=" not in text, address
        assert "<style" not in text, address
        assert "<script>" not in text, address


# --- failures ----------------------------------------------------------------------------


def test_page_for_500_needs_no_database(rf: RequestFactory, monkeypatch):
    from disks.views.errors import internal_error

    def broken(*_, **__):
        raise DatabaseError("gone")

    monkeypatch.setattr(connection, "cursor", broken)
    answer = internal_error(rf.get("/jobs"))
    assert answer.status_code == 500
    assert "Something went wrong here" in answer.content.decode()


def test_database_that_is_away_is_a_500_page_and_503_health(client, monkeypatch):
    """bad-input G113: no traceback, no setting, no local variable on the page."""
    user = make_user()
    client.force_login(user)
    client.raise_request_exception = False

    def broken(*_, **__):
        raise DatabaseError("password=secret-of-the-database")

    monkeypatch.setattr(connection, "cursor", broken)
    answer = client.get("/jobs")
    health = client.get("/health")
    monkeypatch.undo()
    assert answer.status_code == 500
    assert "secret-of-the-database" not in answer.content.decode()
    assert (health.status_code, health.json()) == (503, {"status": "no database"})


def test_404_has_the_design_and_a_way_on(viewer):
    page = viewer.get("/nothing/here").content.decode()
    assert "There is nothing here" in page
    assert "To the overview" in page


def test_csrf_failure_page_says_that_nothing_was_changed():
    client = Client(enforce_csrf_checks=True)
    answer = client.post("/login", {})
    assert "Nothing was changed." in answer.content.decode()


def test_every_icon_in_use_is_in_the_sprite():
    from pathlib import Path

    sprite = Path(finders.find("vendor/tabler-icons/icons.svg")).read_text()
    known = set(re.findall(r'<symbol id="([^"]+)"', sprite))
    used: set[str] = set()
    for file in (Path(settings.BASE_DIR) / "templates").rglob("*.html"):
        used |= set(re.findall(r'{% icon "([a-z0-9-]+)"', file.read_text()))
        used |= set(re.findall(r' symbol="([a-z0-9-]+)"', file.read_text()))
    assert used - known == set()


def test_audit_entry_keeps_its_words_when_the_user_goes():
    user = make_user("gone")
    entry = make_audit(user=user, username="gone")
    user.delete()
    assert AuditEntry.objects.get(pk=entry.pk).username == "gone"


def test_problem_fragment_for_htmx_is_only_the_panel(viewer):
    answer = viewer.get("/roots/add", headers={"HX-Request": "true"})
    assert answer.status_code == 403
    assert "<html" not in answer.content.decode()
    assert render_to_string("errors/_problem.html", {"title": "x"})
