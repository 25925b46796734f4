"""The audit's list."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from django.urls import reverse

from disks.tests.factories import make_audit, make_job, make_root
from disks.views.audit import differences

pytestmark = pytest.mark.django_db


def shown(client, **query) -> str:
    return client.get(reverse("audit"), query).content.decode()


def test_filters_by_action_user_day_words_and_job(viewer):
    job = make_job()
    make_audit("Merged alpha.vhd.", action="merge", username="ada", job=job)
    make_audit(
        "Added beta.", action="root-add", username="bob", at=datetime(2020, 5, 1, tzinfo=UTC)
    )
    assert "alpha.vhd" in shown(viewer, action="merge")
    assert "beta" not in shown(viewer, action="merge")
    assert "alpha" not in shown(viewer, user="BOB")
    assert "alpha" not in shown(viewer, until="2020-05-01")
    assert "Added beta." in shown(viewer, since="2020-05-01", until="2020-05-01")
    assert "Added beta." not in shown(viewer, since="2020-05-02")
    assert "Added beta." not in shown(viewer, q="ALPHA")
    assert "Added beta." not in shown(viewer, job=str(job.pk))


def test_shows_what_was_before_and_after(viewer):
    make_audit("Changed.", before={"a": 1, "same": 2}, after={"a": [True], "same": 2, "b": "x"})
    page = shown(viewer)
    assert "Before and after" in page
    assert "same" not in page


def test_a_file_in_a_sentence_has_the_name_that_windows_gives_it(viewer, tmp_path):
    make_root(tmp_path, views=("C:\\VMs",), name="vms")
    make_audit(f"Moved {tmp_path}/old.vhd.")
    assert "C:\\VMs\\old.vhd" in re.sub(r"<[^>]+>", "", shown(viewer))


def test_differences_leave_out_what_stayed():
    assert differences({"a": 1, "b": True}, {"a": 1, "b": False}) == [("b", "yes", "no")]
    assert differences(None, {"a": ["x", "y"]}) == [("a", "", "x, y")]
    assert differences("old", "new") == [("", "old", "new")]
    assert differences(None, None) == []


def test_address_is_for_administrators(viewer, administrator):
    make_audit("Something.", address="192.0.2.77")
    assert "192.0.2.77" not in shown(viewer)
    assert "192.0.2.77" in shown(administrator)


def test_csv_has_the_list_s_filters(viewer):
    make_audit("Merged.", action="merge")
    make_audit("Added.", action="root-add")
    body = b"".join(viewer.get(reverse("audit-csv"), {"action": "merge"})).decode("utf-8-sig")
    assert "Merged." in body
    assert "Added." not in body
    assert "audit.csv?action=merge" in shown(viewer, action="merge")
