"""The list of jobs, one job's page, cancel and try again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from disks.engine.codes import CODES
from disks.models import AuditEntry, Job, LinkUndo
from disks.services import jobs
from disks.tests.factories import make_disk, make_job, make_root, make_trashed_job
from disks.views import job_words
from disks.views.jobs import pace

pytestmark = pytest.mark.django_db
GIB = 1024**3
NOW = timezone.now()


def text(answer) -> str:
    return answer.content.decode()


def test_list_filters_by_state_kind_and_words(viewer):
    make_job(Job.Kind.MERGE, summary="Merge alpha.vhd", status=Job.Status.RUNNING)
    make_job(Job.Kind.COMPACT, summary="Compact beta.vhd", status=Job.Status.FAILED)
    make_job(Job.Kind.COMPACT, summary="Compact gamma.vhd", status=Job.Status.SUCCEEDED)
    active = text(viewer.get(reverse("jobs"), {"state": "active"}))
    assert "alpha.vhd" in active
    assert "beta.vhd" not in active
    trouble = text(viewer.get(reverse("jobs"), {"state": "trouble", "kind": "compact"}))
    assert "beta.vhd" in trouble
    assert "gamma.vhd" not in trouble
    words = text(viewer.get(reverse("jobs"), {"q": "GAMMA"}))
    assert "gamma.vhd" in words
    assert "alpha.vhd" not in words


def test_list_is_found_by_number(viewer):
    wanted = make_job(summary="Merge wanted.vhd")
    make_job(summary="Merge other.vhd")
    page = text(viewer.get(reverse("jobs"), {"q": str(wanted.pk)}))
    assert "wanted.vhd" in page
    assert "other.vhd" not in page


def test_empty_list_says_what_to_do(viewer):
    assert "No jobs yet" in text(viewer.get(reverse("jobs")))
    assert "No job fits" in text(viewer.get(reverse("jobs"), {"state": "failed"}))


def test_list_answers_htmx_with_its_fragment_only(viewer):
    answer = viewer.get(reverse("jobs"), headers={"HX-Request": "true"})
    assert text(answer).lstrip().startswith('<div class="card" id="jobs-table"')
    assert "HX-Request" in answer["Vary"]
    restored = viewer.get(
        reverse("jobs"),
        headers={"HX-Request": "true", "HX-History-Restore-Request": "true"},
    )
    assert "<!doctype html>" in text(restored)


def test_list_polls_only_while_a_job_is_active(viewer):
    job = make_job(status=Job.Status.RUNNING)
    assert 'hx-trigger="every 5s"' in text(
        viewer.get(reverse("jobs"), headers={"HX-Request": "true"})
    )
    Job.objects.filter(pk=job.pk).update(status=Job.Status.SUCCEEDED)
    assert "hx-trigger" not in text(viewer.get(reverse("jobs"), headers={"HX-Request": "true"}))


def test_running_job_shows_progress_rate_and_time_left(viewer):
    now = timezone.now()
    job = make_job(
        Job.Kind.MERGE,
        status=Job.Status.RUNNING,
        sentence="copying block 812 of 1,252",
        started_at=now - timedelta(seconds=100),
        step_started_at=now - timedelta(seconds=100),
        done_bytes=GIB,
        total_bytes=4 * GIB,
    )
    page = text(viewer.get(reverse("job", args=[job.pk])))
    assert f'<progress class="bar" max="{4 * GIB}" value="{GIB}"' in page
    assert "<strong>25 %</strong>" in page
    assert "copying block 812 of 1,252" in page
    assert "5 min" in page
    assert 'hx-trigger="every 2s"' in page


def test_pace_is_that_of_the_present_step():
    now = timezone.now()
    job = Job(
        status=Job.Status.RUNNING,
        started_at=now - timedelta(hours=1),
        step_started_at=now - timedelta(seconds=10),
        done_bytes=100,
        total_bytes=300,
    )
    told = pace(job, now)
    assert (told.percent, told.bytes_per_second, told.seconds_left) == (33, 10.0, 20.0)
    job.step_started_at = now
    assert pace(job, now).seconds_left is None
    job.total_bytes = 0
    assert pace(job, now).percent is None


def test_the_time_left_of_a_copy_counts_the_proof_that_follows():
    now = timezone.now()
    job = make_job(
        Job.Kind.CONVERT,
        status=Job.Status.RUNNING,
        step="copy",
        step_started_at=now - timedelta(seconds=10),
        done_bytes=100,
        total_bytes=300,
    )
    told = pace(job, now)
    assert (told.seconds_left, told.with_proof) == (20.0 + 30.0, True)  # as fast as the copy
    result = {"seconds": 3, "bytes_written": 1, "copy_seconds": 2, "proof_seconds": 1}
    make_job(Job.Kind.MERGE, status=Job.Status.SUCCEEDED, result=result)
    assert pace(job, now).seconds_left == 20.0 + 15.0  # as it was in the last jobs
    job.limit_bytes_per_second = 10
    assert pace(job, now).seconds_left == 20.0 + 30.0  # the limit holds for both
    job.step = "proof"
    assert (pace(job, now).seconds_left, pace(job, now).with_proof) == (20.0, False)


def test_last_answer_of_the_progress_has_no_trigger(viewer):
    job = make_job(status=Job.Status.SUCCEEDED, sentence="Done.")
    fragment = text(viewer.get(reverse("job", args=[job.pk]), headers={"HX-Request": "true"}))
    assert fragment.lstrip().startswith('<div id="job-progress"')
    assert "hx-trigger" not in fragment


def test_waiting_job_says_for_whom(viewer):
    first = make_job(summary="Merge a.vhd", status=Job.Status.RUNNING)
    job = make_job(waits_for=first, sentence=f"Waits for job {first.pk} (Merge a.vhd).")
    address = reverse("job", args=[job.pk])
    for status, why in (
        (Job.Status.RUNNING, "which works on the same disks."),
        (Job.Status.PAUSED, "which is paused"),
        (Job.Status.NEEDS_ATTENTION, "which needs attention"),
    ):
        Job.objects.filter(pk=first.pk).update(status=status)
        page = text(viewer.get(address))
        assert f'Waits for <a href="/jobs/{first.pk}">job {first.pk}</a>' in page
        assert (page.count("Waits for"), why in page) == (1, True)


def test_viewer_sees_no_buttons_that_change_something(viewer, operator):
    job = make_job(status=Job.Status.RUNNING)
    address = reverse("job-cancel", args=[job.pk])
    assert address not in text(viewer.get(reverse("job", args=[job.pk])))
    assert address in text(operator.get(reverse("job", args=[job.pk])))


def test_cancel_stops_a_waiting_job_and_is_audited(operator):
    job = make_job()
    answer = operator.post(reverse("job-cancel", args=[job.pk]), REMOTE_ADDR="192.0.2.9")
    assert (answer.status_code, answer["Location"]) == (302, f"/jobs/{job.pk}")
    job.refresh_from_db()
    assert job.status == Job.Status.CANCELLED
    entry = AuditEntry.objects.get(job=job)
    assert (entry.username, entry.address) == (operator.user.username, "192.0.2.9")


def test_pause_and_resume_are_buttons_of_who_may_operate(viewer, operator):
    job = make_job(kind=Job.Kind.CHECK, started_at=timezone.now())
    page, pause = reverse("job", args=[job.pk]), reverse("job-pause", args=[job.pk])
    assert pause not in text(viewer.get(page))
    assert pause in text(operator.get(page))
    assert operator.post(pause)["Location"] == page
    resume = reverse("job-resume", args=[job.pk])
    assert resume not in text(viewer.get(page))
    shown = text(operator.get(page))
    assert resume in shown
    assert "Its disks stay locked for other jobs until it is resumed." in shown
    assert viewer.post(resume).status_code == 403
    assert operator.post(resume)["Location"] == page
    job.refresh_from_db()
    assert job.status == Job.Status.QUEUED


def test_pausing_what_cannot_go_on_is_409_with_the_reason(operator):
    job = make_job(kind=Job.Kind.UPDATE_PARENT, status=Job.Status.RUNNING)
    assert reverse("job-pause", args=[job.pk]) not in text(
        operator.get(reverse("job", args=[job.pk]))
    )
    answer = operator.post(reverse("job-pause", args=[job.pk]))
    assert answer.status_code == 409
    assert "cannot be paused" in text(answer)


def test_cancel_too_late_is_409_with_the_reason(operator):
    job = make_job(status=Job.Status.RUNNING, cancellable=False)
    answer = operator.post(reverse("job-cancel", args=[job.pk]))
    assert answer.status_code == 409
    assert "it can no longer be stopped" in text(answer)


def test_failed_job_shows_its_error_and_can_be_tried_again_once(operator):
    error = {
        "code": "E_CHANGED",
        "message": "The parent was written while it was copied.",
        "file": "/srv/vms/base.vhd",
        "field": "mtime_ns",
        "offset": None,
        "value": 17,
    }
    job = make_job(status=Job.Status.FAILED, error=error, parameters={"disk": 1})
    page = text(operator.get(reverse("job", args=[job.pk])))
    assert "The parent was written while it was copied." in page
    assert "E_CHANGED" in page
    first = operator.post(reverse("job-retry", args=[job.pk]))
    second = operator.post(reverse("job-retry", args=[job.pk]))
    again = Job.objects.get(repeats=job)
    assert first["Location"] == second["Location"] == f"/jobs/{again.pk}"


def test_without_script_the_page_offers_to_look_again_by_itself_if_asked(viewer):
    job = make_job(status=Job.Status.RUNNING)
    address = reverse("job", args=[job.pk])
    plain = viewer.get(address)
    assert "Refresh" not in plain
    assert 'href="?every=5"' in text(plain)
    asked = viewer.get(address, {"every": "5"})
    assert asked["Refresh"] == "5"
    assert "stop that" in text(asked)
    assert "Refresh" not in viewer.get(address, {"every": "1;url=//evil.example"})
    Job.objects.filter(pk=job.pk).update(status=Job.Status.SUCCEEDED)
    ended = viewer.get(address, {"every": "5"})
    assert "Refresh" not in ended
    assert "Look again" not in text(ended)


def test_a_failed_job_says_its_reason_once_and_what_to_do(viewer):
    error = {"code": "E_NOSPC", "message": "The storage is full at byte 7."}
    job = make_job(status=Job.Status.FAILED, sentence=error["message"], error=error)
    page = text(viewer.get(reverse("job", args=[job.pk])))
    assert page.count(error["message"]) == 1
    assert CODES["E_NOSPC"].advice in page


def test_a_job_whose_disk_changed_leads_back_to_the_form(operator):
    """Trying again could only fail: the plan is of the disk as it was."""
    disk = make_disk()
    job = make_job(
        Job.Kind.COMPACT, status="failed", disk=disk, error={"code": "E_CHANGED", "message": "No."}
    )
    page = text(operator.get(reverse("job", args=[job.pk])))
    assert f'href="{reverse("compact", args=[disk.pk])}"' in page
    assert reverse("job-retry", args=[job.pk]) not in page
    answer = operator.post(reverse("job-retry", args=[job.pk]))
    assert answer.status_code == 409
    assert "Open the form of this disk again" in text(answer)
    assert Job.objects.count() == 1


def test_running_job_cannot_be_tried_again(operator):
    job = make_job(status=Job.Status.RUNNING)
    answer = operator.post(reverse("job-retry", args=[job.pk]))
    assert answer.status_code == 409


def test_operator_cannot_repeat_what_an_administrator_forced(operator, administrator):
    """A parent of another identity was for an administrator to decide, and stays so."""
    job = make_job(kind="update-parent", status="failed", parameters={"ignore_identity": True})
    answer = operator.post(reverse("job-retry", args=[job.pk]))
    assert answer.status_code == 409
    assert "Only an administrator can give a disk" in answer.content.decode()
    assert Job.objects.count() == 1
    assert administrator.post(reverse("job-retry", args=[job.pk])).status_code == 302


@pytest.mark.parametrize(
    ("opened_by", "told", "not_told"),
    [
        ("nobody", "declared that the manager is stopped", "declared the disks offline"),
        ("hyper-v", "declared the disks offline", "manager"),
    ],
)
def test_only_the_declaration_that_was_made_is_told(operator, opened_by, told, not_told):
    root = make_root(opened_by=opened_by)
    job = jobs.request(
        kind="merge",
        parameters={},
        user=None,
        summary="Merge",
        idempotency_key="said",
        exclusive=[f"{root.path}/base.vhd"],
        declared_offline=True,
    )
    page = operator.get(reverse("job", args=[job.pk])).content.decode()
    sentence = page.split('<p class="sentence">')[1].split("</p>")[0]
    assert told in sentence
    assert not_told not in sentence
    assert "declared" in AuditEntry.objects.get(job=job).sentence


def test_trying_again_asks_anew_whether_the_disks_are_offline(operator):
    """A machine may have been started since the first try."""
    job = make_job(kind="merge", status="failed", declared_offline=True)
    assert 'name="offline"' in operator.get(reverse("job", args=[job.pk])).content.decode()
    answer = operator.post(reverse("job-retry", args=[job.pk]))
    assert answer.status_code == 409
    assert "declare it again" in answer.content.decode()
    again = operator.post(reverse("job-retry", args=[job.pk]), {"offline": "on"})
    assert again.status_code == 302
    assert Job.objects.get(repeats=job).declared_offline


def test_operator_cannot_repeat_the_emptying_of_the_trash(operator, administrator):
    job = make_job(Job.Kind.EMPTY_TRASH, status=Job.Status.FAILED)
    assert operator.post(reverse("job-retry", args=[job.pk])).status_code == 403
    assert administrator.post(reverse("job-retry", args=[job.pk])).status_code == 302


def test_finished_job_shows_result_proof_and_what_comes_back(operator):
    root = make_root()
    disk = make_disk(root=root)
    job = make_job(
        Job.Kind.COMPACT,
        status=Job.Status.SUCCEEDED,
        disk=disk,
        started_at=timezone.now() - timedelta(seconds=61),
        finished_at=timezone.now(),
        result={
            "output": "/srv/x.vhd",
            "file_size_before_bytes": 41 * GIB,
            "file_size_after_bytes": 12 * GIB,
            "proof": "9e1f0c8d4b1a77aa",
            "commands": ["Set-VMHardDiskDrive -Path C:\\VMs\\x.vhd"],
        },
    )
    item = make_trashed_job(root, job, size_bytes=41 * GIB)
    page = text(operator.get(reverse("job", args=[job.pk])))
    assert f'title="{41 * GIB:,} bytes">41 GB' in page
    assert "9e1f0c8d4b1a77aa" in page
    assert "written, read again, and the same" in page
    assert "Set-VMHardDiskDrive" in page
    assert reverse("trash-restore", args=[item.pk]) in page
    assert "1 min 1 s" in page


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"output": "/b", "levels": ["/a", "/b"]}, "Disks that became one, uppermost first"),
        ({"output": "/new", "levels": ["/a", "/b"]}, "Disks that were read"),
        ({"output": "/new", "levels": ["/a"]}, "Disk that was read"),
        ({"relinked": ["/a"]}, "Disk whose parent path was rewritten"),
    ],
)
def test_a_list_of_the_result_says_what_its_disks_are(result, words):
    assert [one["words"] for one in job_words.result_lists(result)] == [words]


def test_job_over_many_disks_tells_each(viewer):
    job = make_job(
        Job.Kind.REPAIR_PLAN,
        status=Job.Status.SUCCEEDED,
        result={
            "rows": [
                {"child": "/srv/a.vhd", "ok": True, "was_done": False},
                {"child": "/srv/b.vhd", "ok": False, "code": "E_IN_USE", "message": "It is open."},
                {"child": "/srv/c.vhd", "ok": True, "was_done": True},
            ],
            "links": [{"child": "/srv/a.vhd", "parent": "/srv/p.vhd", "after": {"name": "p.vhd"}}],
        },
    )
    page = text(viewer.get(reverse("job", args=[job.pk])))
    assert page.count("</svg>Failed") == 1
    assert page.count("</svg>Done</span>") == 3  # the job's own badge, and two disks
    assert "It is open." in page
    assert "Names p.vhd now: " in page
    assert "Was right already." in page


def test_paths_of_known_disks_lead_to_their_pages(viewer):
    disk = make_disk()
    job = make_job(
        Job.Kind.MERGE,
        status=Job.Status.SUCCEEDED,
        result={"output": disk.path, "levels": [disk.path, "/srv/unknown.vhd"]},
    )
    page = text(viewer.get(reverse("job", args=[job.pk])))
    assert page.count(f'<a href="{reverse("disk", args=[disk.pk])}">') == 2


def test_a_repair_that_was_undone_offers_no_undo(operator):
    job = make_job(Job.Kind.REPAIR_PLAN, status=Job.Status.SUCCEEDED, result={})
    link = LinkUndo.objects.create(
        disk=make_disk(), job=job, before={}, after={}, written_at=timezone.now()
    )
    address = reverse("repair-undo", args=[job.pk])
    assert address in text(operator.get(reverse("job", args=[job.pk])))
    link.state = LinkUndo.State.UNDONE
    link.save()
    assert address not in text(operator.get(reverse("job", args=[job.pk])))


def test_job_that_needs_attention_says_what_to_do(operator):
    job = make_job(status=Job.Status.NEEDS_ATTENTION)
    page = text(operator.get(reverse("job", args=[job.pk])))
    assert "Recovery failed several times." in page
    assert "Try recovery again" in page


def test_badge_in_the_navigation_counts_what_is_active(viewer):
    make_job(status=Job.Status.RUNNING)
    make_job()
    make_job(status=Job.Status.SUCCEEDED)
    assert "seen=2" in text(viewer.get(reverse("jobs")))


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (Job.Status.RUNNING, "Until that is finished leaf.vhd reads as ever."),
        (Job.Status.PAUSED, "Do not open base.vhd by itself, and delete neither."),
        (Job.Status.NEEDS_ATTENTION, "leaf.vhd still needs base.vhd and what has moved there"),
        (Job.Status.LOST, "Within a minute another one goes on."),
    ],
)
def test_a_merge_in_place_says_what_is_safe_meanwhile(operator, status, told):
    levels = ["/srv/leaf.vhd", "/srv/middle.vhd", "/srv/base.vhd"]
    parameters = {"in_place": True, "levels": levels}
    job = make_job(
        Job.Kind.MERGE,
        status=status,
        parameters=parameters,
        cancellable=False,
        started_at=timezone.now(),
    )
    assert told in text(operator.get(reverse("job", args=[job.pk])))


def test_what_is_safe_while_it_runs_is_not_said_as_if_it_ran_already(operator):
    levels = ["/srv/leaf.vhd", "/srv/base.vhd"]
    job = make_job(Job.Kind.MERGE, parameters={"in_place": True, "levels": levels})
    told = text(operator.get(reverse("job", args=[job.pk])))
    assert "Once it runs: data moves into base.vhd where it lies." in told


def test_a_merge_in_place_is_stopped_and_one_by_copy_cancelled(operator):
    """Their buttons say so, and what is left after that."""
    for in_place, word, leaves in (
        (True, "Stop", "After that the job is paused"),
        (False, "Cancel", "Cancelling leaves every file as it was."),
    ):
        job = make_job(
            Job.Kind.MERGE,
            status=Job.Status.RUNNING,
            parameters={"in_place": in_place},
            started_at=timezone.now(),
        )
        page = text(operator.get(reverse("job", args=[job.pk])))
        assert f"</svg>{word}</button>" in page
        assert leaves in page


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"pause_requested_at": NOW, "held_at": NOW}, "Held"),
        ({"pause_requested_at": NOW}, "Pausing"),
        ({"cancel_requested_at": NOW}, "Stopping"),
    ],
)
def test_the_list_tells_what_was_asked_of_a_running_job(viewer, columns, word):
    make_job(Job.Kind.MERGE, status=Job.Status.RUNNING, started_at=NOW)
    assert f"</svg>{word}</span>" not in text(viewer.get(reverse("jobs")))
    Job.objects.update(**columns)
    assert f"</svg>{word}</span>" in text(viewer.get(reverse("jobs")))


def test_a_job_that_was_paused_before_it_started_goes_on_nowhere(operator):
    page = text(operator.get(reverse("job", args=[make_job(status=Job.Status.PAUSED).pk])))
    assert "It waits for a worker again." in page
    assert "where it stopped" not in page
    assert "stay locked" not in page
