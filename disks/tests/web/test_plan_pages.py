"""Merge, compact and create: what will happen is shown, then one job is asked for."""

from __future__ import annotations

import contextvars
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.utils import timezone

from disks import tasks
from disks.engine.errors import ImageError
from disks.models import AuditEntry, Disk, DiskLock, Job, StorageRoot
from disks.operations import locks, new_copy
from disks.services import compacting, jobs, merging, scanning
from disks.tests import builders
from disks.tests.factories import make_disk, make_job, make_link, make_root
from disks.tests.operations import worlds

pytestmark = pytest.mark.django_db


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def chain(storage: Path) -> list[Disk]:
    """base, middle and leaf on real storage, scanned."""
    base = builders.build_dynamic(storage, "base.vhd", size=8 * builders.MIB)
    middle = builders.build_differencing(storage, "middle.vhd", parent=base)
    builders.build_differencing(storage, "leaf.vhd", parent=middle)
    root = make_root(storage, views=("C:\\VMs",), name="vms")
    scanning.scan(root)
    disks = {disk.name: disk for disk in Disk.objects.all()}
    return [disks["base.vhd"], disks["middle.vhd"], disks["leaf.vhd"]]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.vhd"))
    }


def hidden(page: str) -> dict[str, str]:
    """The hidden inputs of the page's posting form."""
    form = re.search(
        r'<form method="post" action="[^"]*'
        r'(?:merge|compact|convert|expand|create|copy|move|delete)".*?</form>',
        page,
        re.S,
    )
    assert form, page
    pairs = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0])
    return {name: value for name, value in pairs if name != "csrfmiddlewaretoken"}


def test_merge_shows_levels_bytes_and_the_verb(operator: Client, chain: list[Disk]) -> None:
    leaf = chain[2]
    page = operator.get(f"/disks/{leaf.pk}/merge").content.decode()
    for words in ("Bytes to move", "Room needed", "Free there now", "Size afterwards"):
        assert words in page
    assert "Set-VMHardDiskDrive" in page
    assert "Merge leaf.vhd into middle.vhd" in re.sub(r"<[^>]+>", "", page)


def test_merging_several_levels_counts_them(operator: Client, chain: list[Disk]) -> None:
    base, _, leaf = chain
    page = operator.get(f"/disks/{leaf.pk}/merge?into=parent&base={base.pk}").content.decode()
    assert "Merge 2 disks into base.vhd" in re.sub(r"<[^>]+>", "", page)


def test_a_merge_becomes_one_job_however_often_it_is_sent(
    operator: Client, chain: list[Disk], storage: Path
) -> None:
    """bad-input E78: double click, replayed POST."""
    leaf = chain[2]
    before = digests(storage)
    form = hidden(operator.get(f"/disks/{leaf.pk}/merge").content.decode())
    first = operator.post(f"/disks/{leaf.pk}/merge", form)
    second = operator.post(f"/disks/{leaf.pk}/merge", form)
    job = Job.objects.get(kind=Job.Kind.MERGE)
    assert first.status_code == second.status_code == 302
    assert first["Location"] == second["Location"] == f"/jobs/{job.pk}"
    assert digests(storage) == before
    jobs.run_now(job)
    third = operator.post(f"/disks/{leaf.pk}/merge", form)
    assert third["Location"] == f"/jobs/{job.pk}"  # its end, not “changed since”


def test_a_disk_that_changed_since_gives_409_and_a_fresh_view(
    operator: Client, chain: list[Disk], storage: Path
) -> None:
    """bad-input E77: the form is about another state of the disk."""
    leaf = chain[2]
    form = hidden(operator.get(f"/disks/{leaf.pk}/merge").content.decode())
    path = storage / "leaf.vhd"
    path.touch()
    response = operator.post(f"/disks/{leaf.pk}/merge", form)
    assert response.status_code == 409
    page = response.content.decode()
    assert "This has changed since you looked" in page
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()
    assert operator.post(f"/disks/{leaf.pk}/merge", hidden(page)).status_code == 302


def test_a_plan_says_that_a_disk_is_open_elsewhere_and_can_be_started_all_the_same(
    operator: Client, chain: list[Disk]
) -> None:
    """bad-input E72: only now does a machine run on it; the job may be meant for the night."""
    leaf = chain[2]
    pages = [f"/disks/{leaf.pk}/{verb}" for verb in ("merge", "compact", "delete")]
    pages += [f"/disks/{leaf.pk}/move?name=new.vhd", f"/disks/compact?disk={leaf.pk}"]
    with worlds.machine(leaf.path):
        told = [operator.get(page).content.decode() for page in pages]
        form = hidden(told[0])
    for page in told:
        assert "C:\\VMs\\leaf.vhd is open in another program now" in re.sub(r"<[^>]+>", "", page)
        assert "It cannot be done now" not in page
    assert operator.post(pages[0], form).status_code == 302
    for page in pages:
        assert "open in another program" not in operator.get(page).content.decode()


def test_a_plan_leads_to_the_job_that_only_reads_a_disk_that_it_changes(
    operator: Client, chain: list[Disk], storage: Path
) -> None:
    """bad-input E68: of the disk itself, and of the one that it is merged into."""
    _, middle, leaf = chain
    changing = [f"/disks/{leaf.pk}/{verb}" for verb in ("compact", "merge", "delete")]
    changing += [f"/disks/compact?disk={leaf.pk}", f"/disks/{leaf.pk}/parent?parent={middle.pk}"]
    reading = [f"/disks/{leaf.pk}/convert"]
    job = make_job(kind=Job.Kind.CONVERT, summary="Convert <b>", status="running")
    for disk in (leaf, middle):
        DiskLock.objects.create(
            path=disk.path, mode="shared", job=job, token=1, lease_until=timezone.now()
        )
    elsewhere = contextvars.copy_context()
    with locks.hold(worlds.roots_of(storage), [], [leaf.path, middle.path]):
        for urls, leads in ((changing, True), (reading, False)):
            for url in urls:
                page = elsewhere.run(operator.get, url).content.decode()
                assert (f'It is <a href="/jobs/{job.pk}">job {job.pk}</a>' in page) is leads, url
                assert "<b>" not in page
        into = elsewhere.run(operator.get, changing[1]).content.decode()
    assert into.count("It is <a href=") == 2
    assert "It is <a href=" not in operator.get(changing[0]).content.decode()


def test_siblings_are_named_and_a_new_disk_is_the_way_out(
    operator: Client, chain: list[Disk], storage: Path
) -> None:
    leaf = chain[2]
    sibling = storage / "sibling.vhd"
    sibling.write_bytes((storage / "leaf.vhd").read_bytes())
    scanning.scan(leaf.root)
    page = operator.get(f"/disks/{leaf.pk}/merge").content.decode()
    assert "sibling.vhd" in page
    assert "Other disks depend on a disk that would change" not in page  # told once, with links
    assert page.count("E_SIBLINGS") == 1
    assert page.count('id="error-panel"') == 1  # what the button that is off refers to
    assert "It cannot be done now: see above." in page
    assert "Merge to a new disk instead" in page
    assert "Bytes to move" not in page  # a refused plan has none, which is not the same as 0
    way_out = re.search(r'href="([^"]*into=new[^"]*)"', page)
    assert way_out
    new = operator.get(way_out[1].replace("&amp;", "&")).content.decode()
    assert "The disks that exist are only read" in new  # why nothing has to be declared
    assert "nobody else opens" not in new
    form = hidden(new)
    assert operator.post(f"/disks/{leaf.pk}/merge", form).status_code == 302


def test_what_cannot_be_read_is_named_and_must_be_declared_no_sibling(
    operator: Client, chain: list[Disk], storage: Path
) -> None:
    """bad-input D66: the checkbox speaks of the files that are named beside it, and is kept."""
    leaf = chain[2]
    (storage / "torn.vhd").write_bytes(b"conectix" + bytes(4096))
    scanning.scan(leaf.root)
    address = f"/disks/{leaf.pk}/merge"
    page = operator.get(address).content.decode()
    assert "1 file or folder could not be read" in page
    assert "torn.vhd" in page
    form = hidden(page)
    refused = operator.post(address, form)
    assert refused.status_code == 422
    assert "Say that none of these builds on a disk that is merged" in refused.content.decode()
    box = re.search(r'name="unrelated" value="([^"]+)"', page)
    assert box

    # another file is unreadable by the time that the form is sent: it was not named
    (storage / "late.vhd").write_bytes(b"conectix" + bytes(4096))
    scanning.scan(leaf.root)
    late = operator.post(address, form | {"unrelated": box[1]})
    assert late.status_code == 422
    assert "late.vhd" in late.content.decode()
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()

    page = operator.get(address).content.decode()
    box = re.search(r'name="unrelated" value="([^"]+)"', page)
    assert box
    assert operator.post(address, hidden(page) | {"unrelated": box[1]}).status_code == 302
    job = Job.objects.get(kind=Job.Kind.MERGE)
    both = [str(storage / "late.vhd"), str(storage / "torn.vhd")]
    assert job.parameters["unrelated"] == both
    entry = AuditEntry.objects.get(job=job, action="job-requested")
    assert entry.after["declared_unrelated"] == both
    assert "2 files or folders declared to build on none of its disks" in entry.sentence
    assert jobs.run_now(job).status == Job.Status.SUCCEEDED


def test_a_declaration_that_nobody_was_shown_is_none(
    operator: Client, chain: list[Disk], storage: Path
) -> None:
    (storage / "torn.vhd").write_bytes(b"conectix" + bytes(4096))
    scanning.scan(chain[2].root)
    address = f"/disks/{chain[2].pk}/merge"
    form = hidden(operator.get(address).content.decode())
    forged = operator.post(address, form | {"unrelated": str(storage / "torn.vhd")})
    assert forged.status_code == 422
    assert "This form does not come from the console" in forged.content.decode()


def test_the_page_says_what_an_unreadable_disk_named_when_it_could_be_read(
    operator: Client, chain: list[Disk], storage: Path
) -> None:
    other = builders.build_dynamic(storage, "other.vhd", size=8 * builders.MIB)
    child = builders.build_differencing(storage, "child-of-other.vhd", parent=other)
    scanning.scan(chain[2].root)
    child.patch(child.header_offset + 40, b"?")
    os.utime(child.path, (1, 1))  # within one tick of the clock a scan would see no change
    scanning.scan(chain[2].root)
    page = operator.get(f"/disks/{chain[2].pk}/merge").content.decode()
    words = re.sub(r"<[^>]+>", "", page)
    assert re.search(r"could last be read, it named \S*other\.vhd as its parent", words)


def test_the_declaration_is_asked_for_where_others_open_the_disks(
    operator: Client, chain: list[Disk]
) -> None:
    StorageRoot.objects.update(opened_by="hyper-v")
    leaf = chain[2]
    form = hidden(operator.get(f"/disks/{leaf.pk}/merge").content.decode())
    refused = operator.post(f"/disks/{leaf.pk}/merge", form)
    assert refused.status_code == 422
    assert "Say that nobody has these disks open" in refused.content.decode()
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()
    assert operator.post(f"/disks/{leaf.pk}/merge", form | {"offline": "on"}).status_code == 302
    assert Job.objects.get(kind=Job.Kind.MERGE).declared_offline


def test_a_made_up_fingerprint_is_refused(operator: Client, chain: list[Disk]) -> None:
    leaf = chain[2]
    form = hidden(operator.get(f"/disks/{leaf.pk}/merge").content.decode())
    assert operator.post(f"/disks/{leaf.pk}/merge", form | {"seen": "{}"}).status_code == 422
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("folder", "../../etc"),
        ("folder", "a/../../b"),
        ("folder", "a\x00b"),
        ("folder", "a\r\nSet-Cookie: x"),
        ("name", "../x.vhd"),
        ("name", "a/b.vhd"),
        ("name", "n" * 300),
        ("root", "999"),
        ("root", "abc"),
        ("base", "999"),
        ("into", "elsewhere"),
        ("disk_type", "raw"),
    ],
)
def test_no_path_is_taken_raw(operator: Client, chain: list[Disk], field: str, value: str) -> None:
    """bad-input 103: root, relative folder and name; what leaves the root is no form."""
    leaf = chain[2]
    sent = {"into": "new", field: value}
    response = operator.get(f"/disks/{leaf.pk}/merge", sent)
    assert response.status_code == 200
    assert response.context["plan"] is None
    assert operator.post(f"/disks/{leaf.pk}/merge", sent).status_code == 422
    assert not Job.objects.exclude(kind=Job.Kind.SCAN).exists()


def test_into_the_parent_is_in_place_with_the_copy_beside_it(
    operator: Client, chain: list[Disk]
) -> None:
    base, _, leaf = chain
    address = f"/disks/{leaf.pk}/merge"
    page = operator.get(address, {"base": base.pk, "keep_name": "child"}).content.decode()
    text = re.sub(r"<[^>]+>", "", page)
    assert "can be stopped and resumed. It cannot be undone once data moves." in text
    assert re.search(
        r"needs \d[^a-z]+B until the trash is emptied, and can\s+be undone until", text
    )
    assert "Room needed, at most" in text
    (other,) = re.findall(r'id="way-copy" href="([^"]+)"', page)
    assert operator.post(address, hidden(page)).status_code == 302
    job = Job.objects.get(kind=Job.Kind.MERGE)
    assert job.parameters["in_place"] is True
    job.delete()

    by_copy = operator.get(other.replace("&amp;", "&")).content.decode()
    form = hidden(by_copy)
    kept = {key: form[key] for key in ("base", "keep_name", "way")}
    assert kept == {"base": str(base.pk), "keep_name": "child", "way": "copy"}
    assert "It needs the room until the trash is emptied" in by_copy
    assert operator.post(address, form).status_code == 302
    assert Job.objects.get(kind=Job.Kind.MERGE).parameters["in_place"] is False


def test_a_new_disk_is_neither_in_place_nor_in_the_way(operator: Client, chain: list[Disk]) -> None:
    page = operator.get(f"/disks/{chain[2].pk}/merge?into=new").content.decode()
    assert 'class="ways"' not in page
    assert operator.post(f"/disks/{chain[2].pk}/merge", hidden(page)).status_code == 302
    assert Job.objects.get(kind=Job.Kind.MERGE).parameters["in_place"] is False


def test_what_cannot_be_done_in_place_leads_to_the_copy(
    operator: Client, chain: list[Disk], storage: Path
) -> None:
    os.link(storage / "middle.vhd", storage / "second-name")
    page = operator.get(f"/disks/{chain[2].pk}/merge").content.decode()
    assert "E_HARD_LINKS" in page
    (way_out,) = re.findall(r'<a class="btn" href="([^"]+)">Look at it by copy instead', page)
    by_copy = operator.get(way_out.replace("&amp;", "&")).content.decode()
    assert "This cannot be done now" not in by_copy


def test_a_copy_that_does_not_fit_leads_to_the_way_in_place(
    operator: Client, chain: list[Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = new_copy.shortage

    def full(plan: Any, roots: Any) -> ImageError | None:
        found = real(plan, roots)
        return found if plan.request.in_place else ImageError("E_NOSPC", "It does not fit.")

    monkeypatch.setattr(new_copy, "shortage", full)
    page = operator.get(f"/disks/{chain[2].pk}/merge?way=copy").content.decode()
    (way_out,) = re.findall(r'<a class="btn" href="([^"]+)">Look at it in place instead', page)
    assert (
        "This cannot be done now"
        not in operator.get(way_out.replace("&amp;", "&")).content.decode()
    )
    # Where neither way can be gone, none is offered.
    monkeypatch.setattr(new_copy, "shortage", lambda plan, roots: ImageError("E_NOSPC", "Full."))
    assert "Look at it" not in operator.get(f"/disks/{chain[2].pk}/merge").content.decode()


@pytest.mark.parametrize("way", ["in-place", "copy"])
def test_who_only_looks_may_merge_neither_way(viewer: Client, chain: list[Disk], way: str) -> None:
    address = f"/disks/{chain[2].pk}/merge"
    assert viewer.get(address, {"way": way}).status_code == 403
    sent = {"into": "parent", "base": chain[1].pk, "way": way, "key": "k", "seen": ""}
    assert viewer.post(address, sent).status_code == 403
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()


def test_a_disk_without_a_chain_has_nothing_to_merge(operator: Client) -> None:
    child = make_disk("child.vhd")
    make_link(child)
    response = operator.get(f"/disks/{child.pk}/merge")
    assert response.status_code == 409
    assert "update the parent path first" in response.content.decode()


def test_compact_tells_gain_and_why_the_rest_stays(operator: Client, storage: Path) -> None:
    builders.build_dynamic(
        storage, "zeros.vhd", size=8 * builders.MIB, content=[(0, b"\1" * 512), (4096, bytes(512))]
    )
    scanning.scan(make_root(storage))
    disk = Disk.objects.get()
    page = operator.get(f"/disks/{disk.pk}/compact").content.decode()
    assert "can be won back" in page
    assert "Why the rest stays" in page
    assert "Of zeros" in page
    assert "Room needed meanwhile</dt><dd>none" in page
    response = operator.post(f"/disks/{disk.pk}/compact", hidden(page))
    job = Job.objects.get(kind=Job.Kind.COMPACT)
    assert response["Location"] == f"/jobs/{job.pk}"
    assert job.parameters["in_place"] is True


def test_compact_by_copy_is_the_other_way(operator: Client, storage: Path) -> None:
    builders.build_dynamic(storage, "zeros.vhd", content=[(0, b"\1" * 512), (4096, bytes(512))])
    scanning.scan(make_root(storage))
    disk = Disk.objects.get()
    page = operator.get(f"/disks/{disk.pk}/compact?way=copy").content.decode()
    assert "Free there now" in page
    assert operator.post(f"/disks/{disk.pk}/compact", hidden(page)).status_code == 302
    assert Job.objects.get(kind=Job.Kind.COMPACT).parameters["in_place"] is False


def test_a_fixed_disk_is_not_compacted(operator: Client, storage: Path) -> None:
    builders.build_fixed(storage, "fixed.vhd", size=builders.MIB)
    scanning.scan(make_root(storage))
    disk = Disk.objects.get()
    response = operator.get(f"/disks/{disk.pk}/compact")
    assert response.status_code == 200
    assert response.context["refused"]["code"]


@pytest.fixture
def with_zeros(storage: Path) -> list[Disk]:
    """base, its child leaf, full and slack: only the first two hold blocks that can go, and the
    last has some room between its blocks.
    """
    block = 512 * 1024
    base = builders.VHD.dynamic(
        storage, "base.vhd", size=8 * block, block_size=block,
        content=[(0, bytes(block)), (1024, b"\1" * block)],
    )  # fmt: skip
    builders.VHD.differencing(storage, "leaf.vhd", base, content=[(1024, b"\1" * 512)])
    builders.VHD.dynamic(
        storage, "full.vhd", size=8 * block, block_size=block, content=[(0, b"\1" * block)]
    )
    slack = builders.VHD.dynamic(
        storage, "slack.vhd", size=8 * block, block_size=block, content=[(0, b"\1" * block)]
    )
    with slack.path.open("r+b") as file:
        footer = file.read()[-512:]
        file.seek(-512, os.SEEK_END)
        file.write(bytes(3_584) + footer)
    scanning.scan(make_root(storage))
    names = ("base.vhd", "leaf.vhd", "full.vhd", "slack.vhd")
    return [Disk.objects.get(name=name) for name in names]


def compacting_many(client: Client, disks: list[Disk]) -> tuple[str, dict[str, Any]]:
    """The page, and what its form sends."""
    query = "&".join(f"disk={disk.pk}" for disk in disks)
    page = client.get(f"/disks/compact?{query}").content.decode()
    return page, hidden(page) | {"disk": [disk.pk for disk in disks]}


@pytest.mark.django_db(transaction=True)
def test_several_disks_are_compacted_by_a_job_each_and_those_that_give_nothing_are_left_alone(
    operator: Client, with_zeros: list[Disk]
) -> None:
    page, form = compacting_many(operator, with_zeros)
    assert "Compact 2 disks" in page
    assert "the other 2 of the selected disks are left alone" in page
    assert "No block can go: all are of data.</td>" in page
    assert "Room between the blocks; no block can go: all are of data. Too little for a" in page
    for _ in range(2):  # a double click
        assert operator.post("/disks/compact", form)["Location"] == "/jobs"
    asked = Job.objects.filter(kind=Job.Kind.COMPACT).order_by("pk")
    assert [job.disk.name for job in asked if job.disk] == ["leaf.vhd", "base.vhd"]
    for job in asked:  # in the order in which they were asked for
        job = jobs.run_now(job)
        assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)


def test_what_is_being_compacted_already_is_not_asked_for_again(
    operator: Client, with_zeros: list[Disk]
) -> None:
    page, form = compacting_many(operator, with_zeros)
    operator.post("/disks/compact", form)
    page, form = compacting_many(operator, with_zeros)
    assert "Nothing to compact" in page
    assert page.count("compacts it already: waiting.") == 2
    assert operator.post("/disks/compact", form).status_code == 422
    assert Job.objects.filter(kind=Job.Kind.COMPACT).count() == 2


@pytest.mark.django_db(transaction=True)
def test_what_a_job_wrote_a_moment_ago_is_no_reason_to_suspect_a_machine(
    operator: Client, with_zeros: list[Disk]
) -> None:
    base = with_zeros[0]
    suspicion = "perhaps somebody has it open"
    assert suspicion in operator.get(f"/disks/{base.pk}/compact").content.decode()
    _, form = compacting_many(operator, [base])
    operator.post("/disks/compact", form)
    assert jobs.run_now(Job.objects.get(kind=Job.Kind.COMPACT)).status == Job.Status.SUCCEEDED
    assert suspicion not in operator.get(f"/disks/{base.pk}/compact").content.decode()
    os.utime(base.path)
    assert suspicion in operator.get(f"/disks/{base.pk}/compact").content.decode()


def test_the_bulk_buttons_of_the_list(operator: Client, chain: list[Disk]) -> None:
    ids = [disk.pk for disk in chain]
    operator.post("/disks/bulk", {"action": "check", "disk": ids})
    assert Job.objects.filter(kind=Job.Kind.CHECK).count() == 1
    operator.post("/disks/bulk", {"action": "scan", "disk": ids})
    assert Job.objects.filter(kind=Job.Kind.SCAN).count() == 1
    compact = operator.post("/disks/bulk", {"action": "compact", "disk": ids})
    assert compact["Location"].startswith("/disks/compact?disk=")
    assert operator.post("/disks/bulk", {"action": "check"})["Location"] == "/disks"
    assert operator.post("/disks/bulk", {"action": "drop", "disk": ids}).status_code == 400
    assert operator.post("/disks/bulk", {"action": "check", "disk": ["x"]}).status_code == 400


def test_checks_and_scans_are_one_job_however_often_they_are_pressed(
    operator: Client, chain: list[Disk]
) -> None:
    """bad-input E78: on the page of a disk, in its row's menu, and below the list."""
    base, middle, leaf = chain
    for page in (f"/disks/{leaf.pk}", "/disks"):
        keys = re.findall(r'name="key" value="([0-9a-f]{32})"', operator.get(page).content.decode())
        assert len(keys) == len(set(keys)) > 0
        form = {"key": keys[0]}
        answers = [operator.post(f"/disks/{leaf.pk}/check", form) for _ in range(2)]
        assert answers[0]["Location"] == answers[1]["Location"]
        other = operator.post(f"/disks/{base.pk}/check", form)
        assert other["Location"] != answers[0]["Location"]
    assert Job.objects.filter(kind=Job.Kind.CHECK).count() == 4
    for action, kind in (("check", Job.Kind.CHECK), ("scan", Job.Kind.SCAN)):
        many = {"key": keys[-1], "action": action, "disk": [base.pk, middle.pk]}
        answers = [operator.post("/disks/bulk", many) for _ in range(2)]
        assert answers[0]["Location"] == answers[1]["Location"]
        assert Job.objects.filter(kind=kind, disk=None).count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
@pytest.mark.parametrize("form", ["vhd", "vhdx"])
def test_create_shows_the_plan_and_asks_for_a_job(
    operator: Client, storage: Path, kind: str, form: str
) -> None:
    root = make_root(storage)
    query = {
        "show": "1",
        "disk_type": kind,
        "format": form,
        "root": root.pk,
        "folder": "",
        "name": "new",
        "size": "8",
        "unit": "MB",
    }
    page = operator.get("/create", query).content.decode()
    assert f"Create new.{form}" in re.sub(r"<[^>]+>", "", page)
    assert "Takes at once" in page
    response = operator.post("/create", hidden(page))
    job = Job.objects.get(kind=Job.Kind.CREATE)
    assert response["Location"] == f"/jobs/{job.pk}"
    assert list(storage.glob("*.vhd*")) == []
    tasks.run_job(job.pk)
    made = Disk.objects.get(name=f"new.{form}")
    assert (made.format, made.disk_type, made.virtual_size_bytes) == (form, kind, 8 * 1024**2)


@pytest.mark.parametrize(
    ("sent", "name", "block", "sector"),
    [
        ({"name": "new"}, "new.vhdx", 32 * 1024**2, 512),
        ({"name": "new.vhd"}, "new.vhd", 2 * 1024**2, 512),
        ({"name": "disk 1.5"}, "disk 1.5.vhdx", 32 * 1024**2, 512),
        # drawn with VHDX; the extension was typed, the button left alone
        ({"name": "new.vhd", "format": "vhdx", "was_format": "vhdx"}, "new.vhd", 2 * 1024**2, 512),
        # drawn with VHDX; the button was changed
        ({"name": "a.vhdx", "format": "vhd", "was_format": "vhdx"}, "a.vhd", 2 * 1024**2, 512),
        ({"name": "a", "block_size": "1048576"}, "a.vhdx", 1024**2, 512),
        ({"name": "a", "sector_size": "4096"}, "a.vhdx", 32 * 1024**2, 4096),
        # what the other format had to offer
        ({"name": "a.vhd", "block_size": "33554432"}, "a.vhd", 2 * 1024**2, 512),
        ({"name": "a", "block_size": "-1", "sector_size": "x"}, "a.vhdx", 32 * 1024**2, 512),
    ],
)
def test_format_and_extension_follow_each_other(
    operator: Client, storage: Path, sent: dict[str, str], name: str, block: int, sector: int
) -> None:
    """VHDX unless somebody says otherwise, by the button or by the name."""
    query = {"show": "1", "disk_type": "dynamic", "root": make_root(storage).pk, "size": "40"}
    page = operator.get("/create", query | {"unit": "GB"} | sent)
    plan = page.context["plan"]
    assert (Path(plan["output"]).name, plan["block_size_bytes"]) == (name, block)
    assert plan["logical_sector_bytes"] == sector
    assert page.context["format"] == name.rsplit(".", 1)[1]


def test_changing_the_format_offers_its_own_sizes(operator: Client, storage: Path) -> None:
    make_root(storage)
    typed = {"disk_type": "dynamic", "name": "a.vhdx", "was_format": "vhdx"}
    page = operator.get("/create", typed | {"format": "vhd"}).content.decode()
    assert 'value="a.vhd"' in page
    assert "512 KB" in page
    assert "Logical sectors" not in page
    page = operator.get("/create", typed | {"format": "vhdx"}).content.decode()
    assert "32 MB, as Windows makes them" in page
    assert "Logical sectors" in page
    assert "up to 2,040 GB" in page
    assert "up to 64 TB" in page


def test_create_a_child_of_a_disk(operator: Client, chain: list[Disk]) -> None:
    base = chain[0]
    start = operator.get(f"/create?parent={base.pk}").content.decode()
    assert "base-child.vhd" in start
    query = {
        "show": "1",
        "disk_type": "differencing",
        "root": base.root_id,
        "name": "child2.vhd",
        "parent": base.pk,
    }
    page = operator.get("/create", query).content.decode()
    assert "Windows will look at" in page
    assert operator.post("/create", hidden(page)).status_code == 302


def test_an_existing_name_is_refused(operator: Client, chain: list[Disk]) -> None:
    query = {
        "show": "1",
        "disk_type": "dynamic",
        "root": chain[0].root_id,
        "name": "base.vhd",
        "size": "1",
        "unit": "GB",
    }
    response = operator.get("/create", query)
    assert response.context["refused"]["code"] == "E_EXISTS"


@pytest.mark.parametrize("size", ["0", "-1", "1e9", "abc", "99999999999999999999", ""])
def test_impossible_sizes_are_refused(operator: Client, storage: Path, size: str) -> None:
    root = make_root(storage)
    query = {
        "show": "1",
        "disk_type": "dynamic",
        "root": root.pk,
        "name": "x.vhd",
        "size": size,
        "unit": "TB",
    }
    response = operator.get("/create", query)
    assert response.status_code == 200
    assert response.context["plan"] is None or response.context["refused"]


def test_without_a_writable_root_the_page_says_what_to_do(operator: Client) -> None:
    make_root(read_only=True)
    assert "No storage root may be written to" in operator.get("/create").content.decode()


@pytest.mark.parametrize("page", ["merge", "compact", "check", "parent/apply"])
def test_viewers_change_nothing(viewer: Client, chain: list[Disk], page: str) -> None:
    """bad-input 99: the role is asked for by every address that changes something."""
    leaf = chain[2]
    assert viewer.post(f"/disks/{leaf.pk}/{page}").status_code == 403
    assert not Job.objects.exists()


def test_get_changes_nothing(operator: Client, chain: list[Disk], storage: Path) -> None:
    """bad-input 100: a GET never changes state."""
    before = digests(storage)
    for page in ("merge", "compact", "parent", "merge?into=new"):
        operator.get(f"/disks/{chain[2].pk}/{page}")
    for page in ("check", "parent/apply"):
        assert operator.get(f"/disks/{chain[2].pk}/{page}").status_code == 405
    assert operator.get("/disks/bulk").status_code == 405
    assert not Job.objects.exists()
    assert digests(storage) == before


def test_another_target_begins_with_its_own_levels(operator: Client, chain: list[Disk]) -> None:
    _, middle, leaf = chain
    query = {"into": "new", "was": "parent", "base": middle.pk, "name": "all.vhd"}
    page = operator.get(f"/disks/{leaf.pk}/merge", query).content.decode()
    assert "Merge 3 disks into all.vhd" in re.sub(r"<[^>]+>", "", page)


@pytest.mark.parametrize(
    ("page", "service", "name"),
    [("merge", merging, "plan"), ("compact", compacting, "plan")],
    ids=["merge", "compact"],
)
def test_a_disk_written_while_the_form_is_answered_is_not_worked_on_unseen(
    operator: Client,
    chain: list[Disk],
    storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    service: Any,
    name: str,
) -> None:
    """bad-input E76, E77: the job keeps what the person saw, not what came a moment later."""
    leaf = chain[2]
    form = hidden(operator.get(f"/disks/{leaf.pk}/{page}").content.decode())
    plan = getattr(service, name)
    asked: list[int] = []

    def overtaken(*args: Any, **options: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:  # the page has compared; now the service plans
            (storage / "leaf.vhd").touch()
        return plan(*args, **options)

    monkeypatch.setattr(service, name, overtaken)
    answer = operator.post(f"/disks/{leaf.pk}/{page}", form)
    assert (answer.status_code, len(asked)) == (409, 2)
    assert not Job.objects.exists()


def test_a_plan_that_a_broken_chain_refuses_leads_to_the_mend(
    operator: Client, storage: Path, chain: list[Disk]
) -> None:
    base, middle, leaf = chain
    (storage / "base.vhd").rename(storage / "elsewhere.vhd")
    scanning.scan(base.root)
    for disk, label, address in [
        (middle, "Update parent path", f"/disks/{middle.pk}/parent"),
        (leaf, "Go to the disk at fault", f"/disks/{middle.pk}"),
    ]:
        for verb in ("compact", "copy?folder=other", "convert?to=fixed", "merge"):
            page = operator.get(f"/disks/{disk.pk}/{verb}").content.decode()
            button = re.search(rf'<a class="btn[^"]*" href="{address}[^"]*">(.*?)</a>', page, re.S)
            assert button, (verb, page)
            assert label in button[1], (verb, button[1])


# --- the way out of a refusal; long lists -------------------------------------------------


def test_a_plan_in_a_read_only_root_leads_to_that_root(operator: Client, chain: list[Disk]) -> None:
    root = StorageRoot.objects.get()
    StorageRoot.objects.update(read_only=True)
    for address in (f"/disks/{chain[2].pk}/merge", f"/disks/{chain[2].pk}/compact"):
        page = operator.get(address)
        assert page.context["refused"]["code"] == "E_READ_ONLY"
        assert f'<a class="btn btn-primary" href="/roots/{root.pk}">' in page.content.decode()


def test_a_fixed_disk_is_offered_to_be_converted_and_has_no_blocks_to_tell_of(
    operator: Client, storage: Path
) -> None:
    builders.build_fixed(storage, "fixed.vhd")
    scanning.scan(make_root(storage))
    disk = Disk.objects.get()
    page = operator.get(f"/disks/{disk.pk}/compact")
    assert page.context["refused"]["code"] == "E_FIXED"
    assert f'href="/disks/{disk.pk}/convert"' in page.content.decode()
    assert "Why the rest stays" not in page.content.decode()


def test_a_long_list_of_files_is_folded_and_a_short_one_is_not() -> None:
    def listed(count: int) -> str:
        rows = [{"path": f"/vms/disk-{number}.vhd", "disk": None} for number in range(count)]
        return render_to_string("disks/parts/path_list.html", {"rows": rows})

    short, long = listed(10), listed(255)
    assert (short.count("<li>"), "<details" in short) == (10, False)
    before, _, folded = long.partition("<details")
    assert (before.count("<li>"), folded.count("<li>")) == (10, 245)
    assert "<summary>245 more</summary>" in folded
