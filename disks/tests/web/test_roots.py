"""Storage roots: shown, added below allowed folders, tried out, changed, scanned, removed."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse
from django.utils import timezone

from disks.models import AuditEntry, Disk, Job, StorageRoot
from disks.services import jobs, scanning
from disks.tests.factories import make_disk, make_job, make_root
from disks.tests.services.catalog import base, child, declare, disk, scan

pytestmark = pytest.mark.django_db


def text(answer) -> str:
    return answer.content.decode()


@pytest.fixture
def allowed(tmp_path, settings):
    folder = tmp_path / "allowed"
    (folder / "vms" / "hyperv").mkdir(parents=True)
    settings.ROOTS_BELOW = [str(folder)]
    return folder


def fields(**changes):
    return {
        "base": "0",
        "folder": "vms/hyperv",
        "name": "Production",
        "opened_by": "hyper-v",
        "windows_views": "C:\\VMs\n\\\\nas\\vms",
        "excluded_folders": "old",
        "scan_every_minutes": "60",
        "action": "save",
    } | changes


def test_empty_list_invites_the_administrator(administrator, viewer):
    assert reverse("root-add") in text(administrator.get(reverse("roots")))
    assert reverse("root-add") not in text(viewer.get(reverse("roots")))


def test_roots_are_listed_by_name_wherever_they_lie(viewer):
    make_root("/srv/a", name="Zeta")
    make_root("/srv/z", name="Alpha")
    page = text(viewer.get(reverse("roots")))
    assert page.index("Alpha") < page.index("Zeta")


def test_a_thousand_roots_are_listed_with_as_many_queries_as_three(
    viewer, django_assert_max_num_queries
):
    """bad-input F95."""
    for number in range(1000):
        make_root(f"/srv/{number:03}", name=f"Root {number:03}")
    with django_assert_max_num_queries(12):
        page = text(viewer.get(reverse("roots")))
    assert page.index("Root 000") < page.index("Root 999")


def test_add_declares_a_root_below_an_allowed_folder(administrator, allowed):
    answer = administrator.post(reverse("root-add"), fields())
    root = StorageRoot.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/roots/{root.pk}")
    assert root.path == str(allowed / "vms/hyperv")
    assert root.read_only is True
    assert root.declared_by == "browser"
    assert [view.prefix for view in root.windows_views.all()] == ["C:\\VMs", "\\\\nas\\vms"]
    assert AuditEntry.objects.get(action="root-add").username == administrator.user.username


def test_test_button_tries_the_storage_out_and_adds_nothing(administrator, allowed):
    answer = administrator.post(reverse("root-add"), fields(action="test"))
    assert answer.status_code == 200
    assert "What this storage can do" in text(answer)
    assert "Files can be written" in text(answer)
    assert StorageRoot.objects.count() == 0
    assert list((allowed / "vms/hyperv").iterdir()) == []


@pytest.mark.parametrize(
    "folder",
    [
        "../outside",
        "vms/../../outside",
        "..",
        "vms/./hyperv",
        "vms\\..\\..\\x",
        "vms\x00",
        "vms\r\nSet-Cookie: a=b",
        "x" * 10_000,
        "~root",
        "*",
        "%2e%2e%2fetc",
        "vms∕hyperv",
    ],
)
def test_odd_folders_are_refused_and_say_nothing_of_the_outside(administrator, allowed, folder):
    """bad-input G103."""
    (allowed.parent / "outside").mkdir()
    for action in ("test", "save"):
        answer = administrator.post(reverse("root-add"), fields(folder=folder, action=action))
        assert answer.status_code == 422
        assert "Set-Cookie" not in answer.headers
    assert StorageRoot.objects.count() == 0


def test_an_absolute_path_is_taken_below_the_allowed_folder(administrator, allowed):
    """bad-input G103."""
    answer = administrator.post(reverse("root-add"), fields(folder="/etc"))
    assert answer.status_code == 422
    assert f"There is no folder {allowed}/etc." in re.sub(r"<[^>]+>", "", text(answer))


def test_link_out_of_the_allowed_folder_is_not_followed(administrator, allowed):
    """bad-input G103: the same answer whether the outside exists or not."""
    (allowed / "out").symlink_to("/etc")
    (allowed / "nowhere").symlink_to("/no-such-folder-anywhere")
    answers = []
    for name in ("out", "nowhere"):
        answer = administrator.post(reverse("root-add"), fields(folder=name, action="test"))
        assert answer.status_code == 422
        start = text(answer).index('id="error-panel"')
        answers.append(text(answer)[start : text(answer).index("<form", start)])
    assert answers[0] == answers[1]


def test_what_jobs_put_into_the_trash_is_no_missing_disk_of_the_root(viewer):
    root = make_root()
    make_disk(root=root)
    job = make_job()
    make_disk(root=root, health="missing", missing_since=timezone.now(), put_away_by=job)
    page = text(viewer.get(reverse("root", args=[root.pk])))
    assert "Missing" not in page
    assert f'?root={root.pk}">1</a>' in page


def test_base_that_is_not_offered_is_refused(administrator, allowed):
    answer = administrator.post(reverse("root-add"), fields(base="7"))
    assert answer.status_code == 422
    assert StorageRoot.objects.count() == 0


def test_without_allowed_folders_the_page_says_how_to_allow_one(administrator, settings):
    settings.ROOTS_BELOW = []
    page = text(administrator.get(reverse("root-add")))
    assert "VDADMIN_ROOTS_BELOW" in page
    assert administrator.post(reverse("root-add"), fields()).status_code == 422


def test_careful_answer_is_preset(administrator, allowed):
    page = text(administrator.get(reverse("root-add")))
    assert '<option value="other" selected>' in page
    box = page[page.index('name="writable"') :].split(">")[0]
    assert "checked" not in box


def test_edit_changes_what_is_said_and_audits_before_and_after(administrator, tmp_path):
    root = make_root(tmp_path, read_only=True)
    answer = administrator.post(
        reverse("root-edit", args=[root.pk]),
        fields(name="Renamed", writable="on", opened_by="nobody", scan_every_minutes="0"),
    )
    assert answer.status_code == 302
    root.refresh_from_db()
    assert (root.name, root.read_only, root.opened_by) == ("Renamed", False, "nobody")
    assert root.scan_every_minutes == 0
    entry = AuditEntry.objects.get(action="root-change")
    assert (entry.before["read_only"], entry.after["read_only"]) == (True, False)


def test_new_windows_views_are_followed_by_a_scan_and_the_page_says_so(administrator, tmp_path):
    root = declare(tmp_path / "vms")
    archive = tmp_path / "vms" / "archive"
    parent = base(archive)
    child(tmp_path / "vms", "leaf.vhd", parent, locators=[("W2ku", "D:\\VMs\\archive\\base.vhd")])
    scan(root)
    assert disk("leaf.vhd").health == "broken"
    address = reverse("root-edit", args=[root.pk])
    said = fields(name=root.name, opened_by="nobody", writable="on", excluded_folders="")
    administrator.post(address, said | {"windows_views": "D:\\VMs"})
    job = Job.objects.get(kind=Job.Kind.SCAN)
    page = text(administrator.get(reverse("root", args=[root.pk])))
    assert f"until the scan that was just asked for (job {job.pk}) is done" in page
    jobs.run_now(job)
    assert disk("leaf.vhd").health == "healthy"
    administrator.post(address, said | {"windows_views": "D:\\VMs", "scan_every_minutes": "0"})
    assert Job.objects.count() == 1
    assert "Saved." in text(administrator.get(reverse("root", args=[root.pk])))


def test_edit_keeps_a_schedule_that_the_form_does_not_offer(administrator, tmp_path):
    root = make_root(tmp_path, scan_every_minutes=45)
    page = text(administrator.get(reverse("root-edit", args=[root.pk])))
    assert '<option value="45" selected>Every 45 minutes</option>' in page


def test_view_that_is_no_windows_path_is_refused(administrator, tmp_path):
    root = make_root(tmp_path)
    answer = administrator.post(
        reverse("root-edit", args=[root.pk]), fields(windows_views="/srv/vms")
    )
    assert answer.status_code == 422
    assert root.windows_views.count() == 0


def test_scan_now_is_one_job_however_often_it_is_pressed(operator):
    """bad-input E78 on this button."""
    root = make_root()
    for _ in range(2):
        answer = operator.post(reverse("root-scan", args=[root.pk]), {"key": "abc"})
    job = Job.objects.get()
    assert (answer["Location"], job.kind) == (f"/jobs/{job.pk}", "scan")


@pytest.mark.parametrize("asked_of", ["the root", "several roots"])
def test_a_scan_that_is_asked_for_already_is_not_offered_again(operator, asked_of):
    root, other = make_root(), make_root()
    roots = [root] if asked_of == "the root" else [root, other]
    job = scanning.request_many(roots, user=None, idempotency_key="one")
    for page in (text(operator.get(f"/roots/{root.pk}")), text(operator.get("/roots"))):
        assert f"Scan waiting: job {job.pk}" in page
        assert f"/roots/{root.pk}/scan" not in page
    Job.objects.update(status=Job.Status.SUCCEEDED)
    assert f"/roots/{root.pk}/scan" in text(operator.get(f"/roots/{root.pk}"))


def test_what_may_not_be_scanned_is_offered_another_look(operator):
    root = make_root(state="changed", state_reason="Another folder is mounted there now.")
    for page in (text(operator.get(f"/roots/{root.pk}")), text(operator.get("/roots"))):
        assert f"/roots/{root.pk}/scan" not in page
        assert "Look again" in page


def test_detail_tells_state_probe_views_and_counts(viewer):
    probe = {"readable": True, "writable": True, "hard_links": False, "locks": None}
    root = make_root(views=("D:\\VMs",), probe=probe)
    make_disk(root=root)
    make_disk(root=root, health=Disk.Health.BROKEN)
    page = text(viewer.get(reverse("root", args=[root.pk])))
    assert "Hard links work" in page
    assert "two journalled renames" in page
    assert "Not tried" in page
    assert "(preferred)" in page
    assert "Chain broken" in page


def test_offline_root_says_why_and_what_to_do(viewer):
    root = make_root(state="offline", state_reason="The folder is empty.")
    page = text(viewer.get(reverse("root", args=[root.pk])))
    assert "This root is offline" in page
    assert "The folder is empty." in page


def test_remove_forgets_the_root_and_leaves_the_files(administrator, tmp_path):
    (tmp_path / "a.vhd").write_bytes(b"x")
    root = make_root(tmp_path)
    answer = administrator.post(reverse("root-remove", args=[root.pk]))
    assert answer["Location"] == "/roots"
    assert not StorageRoot.objects.exists()
    assert (tmp_path / "a.vhd").read_bytes() == b"x"


def test_root_with_a_running_job_is_not_removed(administrator):
    """bad-input E80."""
    root = make_root()
    make_job(root=root, status=Job.Status.RUNNING)
    answer = administrator.post(reverse("root-remove", args=[root.pk]))
    assert answer.status_code == 409
    assert "so the root is not removed now" in text(answer)
    assert StorageRoot.objects.filter(pk=root.pk).exists()
