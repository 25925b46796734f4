"""Repair headers and Replay log: offered where they help, planned, sent, done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.test import Client

from disks import tasks
from disks.models import Disk, Job, StorageRoot
from disks.services import scanning
from disks.tests import builders
from disks.tests.factories import make_root

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs stay queued; tests run them themselves."""
    monkeypatch.setattr(tasks, "send", lambda job_id: True)


@pytest.fixture
def damaged(tmp_path: Path) -> Disk:
    built = builders.build_dynamic(tmp_path, "old.vhd", size=4 * builders.MIB, allocate=[0])
    built.patch(built.footer_offset, b"\xde\xad\xbe\xef" * 16)
    scanning.scan(make_root(tmp_path, name="vms"))
    return Disk.objects.get(name="old.vhd")


def form_of(client: Client, disk: Disk) -> dict[str, str]:
    page = client.get(f"/disks/{disk.pk}/repair-headers").content.decode()
    form = re.search(
        r'<form method="post" action="/disks/\d+/repair-headers".*?</form>', page, re.S
    )
    assert form, page
    pairs = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0])
    return {name: value for name, value in pairs if name != "csrfmiddlewaretoken"}


@pytest.fixture
def dirty(tmp_path: Path) -> Disk:
    """A child whose log waits; its parent is where it says."""
    base = builders.build_dynamic_vhdx(tmp_path, "base.vhdx")
    built = builders.build_differencing_vhdx(tmp_path, "child.vhdx", base, allocate=[0])
    built.move_into_log(built.table_offset)
    scanning.scan(make_root(tmp_path, name="vms"))
    return Disk.objects.get(name="child.vhdx")


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_button_that_mends_is_repair_footer(operator: Client, damaged: Disk) -> None:
    """bad-input A4: the repair is offered where the damage is told."""
    page = operator.get(f"/disks/{damaged.pk}").content.decode()
    address = f'href="/disks/{damaged.pk}/repair-headers"'
    assert page.count(address) == 2  # beside the verdict, and among the actions
    assert "Repair footer writes the sound copy over the damage." in page
    assert address in operator.get("/disks").content.decode()


def test_sound_disks_are_not_offered_a_repair(operator: Client, tmp_path: Path) -> None:
    builders.build_dynamic(tmp_path, "sound.vhd", size=4 * builders.MIB)
    scanning.scan(make_root(tmp_path, name="vms"))
    disk = Disk.objects.get(name="sound.vhd")
    assert "repair-headers" not in operator.get(f"/disks/{disk.pk}").content.decode()
    page = operator.get(f"/disks/{disk.pk}/repair-headers")
    assert page.context["refused"]["code"] == "E_NOTHING_TO_REPAIR"
    assert page.context["plan"] is None
    assert operator.post(f"/disks/{disk.pk}/repair-headers", {}).status_code == 422


def test_a_cut_off_disk_says_why_it_cannot_be_repaired(operator: Client, tmp_path: Path) -> None:
    """bad-input A27."""
    built = builders.build_dynamic(tmp_path, "cut.vhd", size=4 * builders.MIB, allocate=[0])
    with built.path.open("r+b") as file:
        file.truncate(built.footer_offset - 4096)
    scanning.scan(make_root(tmp_path, name="vms"))
    disk = Disk.objects.get(name="cut.vhd")
    text = text_of(operator.get(f"/disks/{disk.pk}").content.decode())
    assert "see the findings." in text
    answer = operator.get(f"/disks/{disk.pk}/repair-headers")
    assert answer.context["refused"]["code"] == "E_TRUNCATED"


def test_the_plan_is_shown_and_nothing_is_written(operator: Client, damaged: Disk) -> None:
    before = Path(damaged.path).read_bytes()
    page = operator.get(f"/disks/{damaged.pk}/repair-headers").content.decode()
    here = re.findall(r'<a[^>]*aria-current="page"[^>]*>.*?</a>', page, re.S)
    assert [text_of(link).split()[0] for link in here] == ["Disks"]
    text = text_of(page)
    for words in ("Field", "Now", "After", "Where", "footer at the end", "its cookie is gone"):
        assert words in text
    assert "keeps its size" in text
    assert Path(damaged.path).read_bytes() == before


def test_repair_is_one_job_and_the_disk_is_healthy_afterwards(
    operator: Client, damaged: Disk
) -> None:
    """bad-input A4, E78: sent twice, done once."""
    form = form_of(operator, damaged)
    answer = operator.post(f"/disks/{damaged.pk}/repair-headers", form)
    job = Job.objects.get(kind=Job.Kind.REPAIR)
    assert (answer.status_code, answer["Location"]) == (302, f"/jobs/{job.pk}")
    operator.post(f"/disks/{damaged.pk}/repair-headers", form)
    assert Job.objects.count() == 1
    tasks.run_job(job.pk)
    damaged.refresh_from_db()
    assert damaged.health == "healthy"
    page = operator.get(f"/jobs/{job.pk}").content.decode()
    assert "The footer is repaired" in page
    history = operator.get(f"/disks/{damaged.pk}?tab=history").content.decode()
    assert "Repaired the footer of old.vhd from its sound copy." in history


def test_a_stale_form_gives_409_and_the_fresh_view(operator: Client, damaged: Disk) -> None:
    """bad-input E77."""
    form = form_of(operator, damaged)
    Path(damaged.path).touch()
    answer = operator.post(f"/disks/{damaged.pk}/repair-headers", form)
    assert answer.status_code == 409
    assert "This has changed since you looked" in answer.content.decode()
    assert not Job.objects.exists()


def test_a_root_that_others_open_asks_for_the_declaration(operator: Client, damaged: Disk) -> None:
    StorageRoot.objects.update(opened_by="windows")
    form = form_of(operator, damaged)
    assert operator.post(f"/disks/{damaged.pk}/repair-headers", form).status_code == 422
    sent = operator.post(f"/disks/{damaged.pk}/repair-headers", form | {"offline": "on"})
    assert sent.status_code == 302


def test_a_read_only_root_is_not_written(operator: Client, damaged: Disk) -> None:
    StorageRoot.objects.update(read_only=True)
    answer = operator.get(f"/disks/{damaged.pk}/repair-headers")
    assert answer.context["refused"]["code"] == "E_READ_ONLY"
    page = operator.get(f"/disks/{damaged.pk}").content.decode()
    assert "See what was found" in page


def test_viewers_are_told_which_role_it_needs(viewer: Client, damaged: Disk) -> None:
    """bad-input G99."""
    assert viewer.get(f"/disks/{damaged.pk}/repair-headers").status_code == 403
    assert viewer.post(f"/disks/{damaged.pk}/repair-headers", {}).status_code == 403
    page = viewer.get(f"/disks/{damaged.pk}").content.decode()
    assert "This needs the role “operator”." in page
    assert f'href="/disks/{damaged.pk}/repair-headers"' not in page
    assert not Job.objects.exists()


def test_a_log_that_waits_is_the_verdict_with_the_one_button_that_mends_it(
    operator: Client, dirty: Disk
) -> None:
    """bad-input C41: and nothing else may be written until then."""
    page = operator.get(f"/disks/{dirty.pk}").content.decode()
    text = text_of(page)
    assert "The log waits to be replayed: it holds 1 entry of changes" in text
    address = f'href="/disks/{dirty.pk}/replay-log"'
    assert page.count(address) == 2  # beside the verdict, and among the actions
    for verb in ("parent-path", "merge", "compact", "expand", "create"):
        assert re.search(
            rf'id="why-{verb}">Its log waits to be replayed: replay it first\.<', page
        ), verb
    assert 'id="why-convert"' not in page  # it only reads
    listed = operator.get("/disks").content.decode()
    assert address in listed
    assert listed.count("Its log waits to be replayed") == 5  # each that writes


def test_replaying_the_log_is_one_job_and_leaves_the_disk_healthy(
    operator: Client, dirty: Disk
) -> None:
    address = f"/disks/{dirty.pk}/replay-log"
    page = operator.get(address).content.decode()
    text = text_of(page)
    for words in ("1 entry with 1 update, 4,096 bytes", "empty", "block allocation table"):
        assert words in text
    pairs = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page)
    form = {name: value for name, value in pairs if name in ("key", "seen")}
    answer = operator.post(address, form)
    job = Job.objects.get(kind=Job.Kind.REPLAY_LOG)
    assert (answer.status_code, answer["Location"]) == (302, f"/jobs/{job.pk}")
    tasks.run_job(job.pk)
    again = operator.post(address, form)  # the back button, and once more
    assert (again.status_code, again["Location"]) == (302, f"/jobs/{job.pk}")
    dirty.refresh_from_db()
    assert (dirty.health, dirty.log_waits) == ("healthy", False)
    assert "The log is replayed and empty." in operator.get(f"/jobs/{job.pk}").content.decode()
    history = operator.get(f"/disks/{dirty.pk}?tab=history").content.decode()
    assert "Replayed the log of child.vhdx." in history
    assert "replay-log" not in operator.get(f"/disks/{dirty.pk}").content.decode()


def test_vhdx_headers_are_repaired_under_their_own_name(operator: Client, tmp_path: Path) -> None:
    """bad-input C39."""
    builders.build_dynamic_vhdx(tmp_path, "one.vhdx", damaged=["header1", "region2"])
    scanning.scan(make_root(tmp_path, name="vms"))
    disk = Disk.objects.get(name="one.vhdx")
    page = operator.get(f"/disks/{disk.pk}").content.decode()
    assert text_of(page).count("Repair headers ") >= 2
    assert "Repair footer" not in page
    text = text_of(operator.get(f"/disks/{disk.pk}/repair-headers").content.decode())
    assert "header 1" in text
    assert "region table 2" in text
