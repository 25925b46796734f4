"""The trash's page: what lies there, restoring, emptying."""

from __future__ import annotations

import pytest
from django.urls import reverse

from disks.models import Job
from disks.tests.factories import make_job, make_root, make_trashed_job

pytestmark = pytest.mark.django_db
GIB = 1024**3


def text(answer) -> str:
    return answer.content.decode()


def test_lists_what_jobs_replaced_with_its_size_and_totals(viewer):
    root = make_root()
    job = make_job(summary="Merge c.vhd into b.vhd")
    make_trashed_job(root, job, size_bytes=3 * GIB)
    make_trashed_job(root, size_bytes=GIB)
    page = text(viewer.get(reverse("trash")))
    assert "Merge c.vhd into b.vhd" in page.replace('<span class="part">', "").replace(
        "</span>", ""
    )
    assert "4 GB</span></strong> come free" in page
    assert "child.vhd" in page


def test_empty_trash_says_what_it_is_for(viewer):
    assert "The trash is empty" in text(viewer.get(reverse("trash")))


def test_only_administrators_are_offered_to_delete(operator, administrator):
    item = make_trashed_job(make_root())
    address = reverse("trash-empty", args=[item.pk])
    assert address not in text(operator.get(reverse("trash")))
    assert address in text(administrator.get(reverse("trash")))


def test_restore_where_others_open_disks_asks_for_the_declaration(operator):
    make_trashed_job(make_root(opened_by="hyper-v"))
    assert "These disks and everything below them are offline" in text(
        operator.get(reverse("trash"))
    )


def test_restore_of_what_is_gone_is_409_with_the_reason(operator, tmp_path):
    item = make_trashed_job(make_root(tmp_path))
    answer = operator.post(reverse("trash-restore", args=[item.pk]))
    assert answer.status_code == 409
    assert "This was refused" in text(answer)
    assert not Job.objects.exists()


def test_emptying_is_one_job_however_often_it_is_pressed(administrator):
    root = make_root()
    make_trashed_job(root)
    make_trashed_job(root)
    address = reverse("trash-empty-root", args=[root.pk])
    first = administrator.post(address, {"key": "once"})
    second = administrator.post(address, {"key": "once"})
    job = Job.objects.get()
    assert first["Location"] == second["Location"] == f"/jobs/{job.pk}"
    assert job.kind == "empty-trash"
    assert len(job.parameters["trash"]) == 2


def test_emptying_an_empty_trash_goes_back_to_the_list(administrator):
    root = make_root()
    answer = administrator.post(reverse("trash-empty-root", args=[root.pk]))
    assert answer["Location"] == reverse("trash")
