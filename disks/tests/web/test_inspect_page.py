"""The page of one disk: whatever state its file is in, and whatever its header says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from disks.models import Disk, DiskLock, Job, ParentLink
from disks.services import scanning
from disks.tests import builders
from disks.tests.factories import (
    make_audit,
    make_disk,
    make_job,
    make_link,
    make_link_undo,
    make_root,
    make_trashed_job,
)

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "\u202edhv.exe",
    "two\nlines",
    b"caf\xe9".decode("utf-8", "surrogateescape"),
]
TABS = ("parent", "children", "findings", "layout", "history", "raw")
pytestmark = pytest.mark.django_db


def page_of(client: Client, disk: Disk, tab: str = "") -> str:
    response = client.get(f"/disks/{disk.pk}" + (f"?tab={tab}" if tab else ""))
    assert response.status_code == 200
    return response.content.decode()


def harmless(page: str) -> None:
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "two\nlines" not in page


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("health", Disk.Health.values)
def test_every_disk_has_its_page(viewer: Client, health: str, tab: str) -> None:
    """A missing, unreadable or damaged file still has all its tabs; nothing ends in a 500."""
    disk = make_disk(health=health, sentence="The verdict stands here.", format="", disk_type="")
    assert "The verdict stands here." in page_of(viewer, disk, tab)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"status": "running"}, "A job works on this disk"),
        ({"status": "paused"}, "Resume it there."),
        ({"status": "paused", "cancellable": False}, "data has moved in place"),
        ({"status": "needs-attention"}, "A job that needs attention has this disk"),
    ],
)
def test_a_disk_that_a_job_has_for_itself_says_so_and_leads_to_it(
    viewer: Client, operator: Client, columns: dict[str, Any], words: str
) -> None:
    disk = make_disk("base.vhd")
    make_link(disk, make_disk("old.vhd"))
    job = make_job(kind=Job.Kind.MERGE, summary="Merge <b>", **columns)
    assert words not in page_of(viewer, disk)
    DiskLock.objects.create(
        path=disk.path, mode="exclusive", job=job, token=1, lease_until=timezone.now()
    )
    page = page_of(viewer, disk)
    assert words in re.sub(r"\s+", " ", page)
    assert f'<a href="/jobs/{job.pk}">' in page
    assert "<b>" not in page
    assert words in operator.get(f"/disks/{disk.pk}/delete").content.decode()


def test_a_disk_that_a_job_waits_for_says_so_and_leads_to_it(operator: Client) -> None:
    disk, other = make_disk("base.vhd"), make_disk("other.vhd")
    job = make_job(
        kind=Job.Kind.COMPACT,
        sentence="Starts at 22:00.",
        parameters={"locks": {"exclusive": [disk.path], "shared": [other.path]}},
    )
    page = page_of(operator, disk)
    assert "A job waits for this disk" in page
    assert f'<a href="/jobs/{job.pk}">' in page
    assert "Starts at 22:00." in page
    assert "A job waits for this disk" not in page_of(operator, other)  # it is only read
    assert "A job waits for this disk" in operator.get(f"/disks/{disk.pk}/delete").content.decode()


def test_the_button_beside_the_verdict_mends_it(operator: Client) -> None:
    right = make_disk("archive/base.vhd")
    child = make_disk("child.vhd")
    make_link(child, suggested=right)
    page = page_of(operator, child)
    assert f'href="/disks/{child.pk}/parent?parent={right.pk}"' in page
    assert "Update parent path" in page


def test_above_a_broken_child_the_way_leads_to_the_disk_at_fault(operator: Client) -> None:
    bottom, middle, leaf = (make_disk(name) for name in ("bottom.vhd", "middle.vhd", "leaf.vhd"))
    make_link(bottom)
    make_link(middle, bottom)
    make_link(leaf, middle)
    for position, disk in enumerate((bottom, middle, leaf), start=1):
        Disk.objects.filter(pk=disk.pk).update(health="broken", chain_position=position)
    page = page_of(operator, leaf)
    assert f'<a class="btn btn-primary" href="/disks/{bottom.pk}">' in page
    assert "Go to the disk at fault" in page
    assert "Its chain is broken further down: mend the disk at fault first." in page
    assert "update the parent path first" not in page
    assert "Its chain is broken: update the parent path first." in page_of(operator, bottom)


@pytest.mark.parametrize(("kind", "told"), [(Job.Kind.MERGE, True), (Job.Kind.COMPACT, False)])
def test_a_disk_of_a_half_done_merge_says_what_may_be_opened(
    viewer: Client, kind: str, told: bool
) -> None:
    """Its own verdict, of the last scan, is as healthy as ever."""
    disk = make_disk("base.vhd")
    job = make_job(kind=kind, status=Job.Status.PAUSED, cancellable=False)
    DiskLock.objects.create(
        path=disk.path, mode="exclusive", job=job, token=1, lease_until=timezone.now()
    )
    page = page_of(viewer, disk)
    assert "A paused job has this disk" in page
    assert ("do not open the lower disks by themselves" in page) is told


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("tab", TABS)
def test_hostile_text_from_disks_stays_text(viewer: Client, value: str, tab: str) -> None:
    """bad-input 104: file, folder, parent name, creator, findings, logs, root label."""
    safe = value.encode("utf-8", "replace").decode()
    root = make_root(name=f"root {safe}"[:80])
    base = make_disk(f"{value}/base.vhd", root=root)
    child = make_disk(
        f"{value}/{value}.vhd",
        root=root,
        name=f"{value}.vhd",
        creator=safe[:60],
        sentence=safe,
        managed_by=safe[:40],
        moved_from=value,
        findings=[
            {"level": "warning", "code": safe, "message": safe, "field": safe, "value": safe}
        ],
    )
    make_link(
        child,
        base,
        named_path=safe,
        reason=safe,
        locators=[{"code": safe, "path": safe, "problem": safe, "offset": 1}],
        trace=[
            {
                "source": safe,
                "raw": safe,
                "candidate": safe,
                "verdict": "match",
                "detail": safe,
            }
        ],
        parent_written_after=True,
        parent_evidence={"sentence": safe},
    )
    sibling = make_disk(f"{value}-2.vhd", root=root, name=f"{value}-2.vhd")
    make_link(sibling, base)
    grandchild = make_disk(f"{value}-3.vhd", root=root, name=f"{value}-3.vhd")
    make_link(grandchild, child, named_path=safe, locators=[], trace=[])
    make_job(disk=child, summary=safe)
    make_audit(safe, disk=child)
    make_link_undo(child, before={"name": safe})
    harmless(page_of(viewer, child, tab))


def test_queries_do_not_grow_with_the_family(viewer: Client) -> None:
    """bad-input 110: a base with one child and one with many cost the same."""
    base = make_disk("base.vhd")
    child = make_disk("child.vhd")
    make_link(child, base)
    page_of(viewer, child)
    with CaptureQueriesContext(connection) as few:
        page_of(viewer, child)
    for number in range(12):
        make_link(make_disk(f"more-{number}.vhd"), base)
        make_link(make_disk(f"below-{number}.vhd"), child)
    with CaptureQueriesContext(connection) as many:
        page_of(viewer, child)
    assert len(many) == len(few)


def test_siblings_and_children_are_drawn_few_and_counted(viewer: Client) -> None:
    base = make_disk("base.vhd")
    child = make_disk("child.vhd")
    make_link(child, base)
    for number in range(10):
        make_link(make_disk(f"more-{number}.vhd"), base)
    response = viewer.get(f"/disks/{child.pk}")
    drawn = response.context["chain"].parts[-1]
    assert [branch.name for branch in drawn.siblings] == ["more-0.vhd", "more-1.vhd", "more-2.vhd"]
    assert drawn.siblings_more == 7


def test_a_long_chain_is_folded_around_the_disk(viewer: Client) -> None:
    parent = make_disk("00.vhd")
    disks = [parent]
    for number in range(1, 31):
        disk = make_disk(f"{number:02}.vhd")
        make_link(disk, parent)
        disks.append(disk)
        parent = disk
    page = page_of(viewer, disks[-1])
    assert "more levels" in page
    assert page.count("vd-chain-here") >= 1


def test_the_trace_tells_every_place(viewer: Client) -> None:
    child = make_disk("child.vhd")
    make_link(
        child,
        trace=[
            {"source": "W2ru", "raw": ".\\b.vhd", "candidate": "/a/b.vhd", "verdict": "not-found"},
            {"source": "W2ku", "raw": "D:\\b.vhd", "candidate": None, "verdict": "unmapped"},
        ],
    )
    page = page_of(viewer, child, "parent")
    assert "Nothing there" in page
    assert "No root maps it" in page
    assert "nowhere" in page


def test_twins_are_the_same_disk_with_content_not_proven(viewer: Client) -> None:
    base = make_disk("base.vhd")
    make_disk("backup/base.vhd", identity=base.identity)
    child = make_disk("child.vhd")
    make_link(child, base)
    page = page_of(viewer, child, "parent")
    assert "the same disk; its content is not proven" in page
    assert "backup/" in page


def test_differencing_disks_warn_of_qemu_img(viewer: Client) -> None:
    child = make_disk("child.vhd")
    make_link(child, make_disk("base.vhd"))
    assert "qemu-img would read this file wrongly" in page_of(viewer, child)
    assert "qemu-img" not in page_of(viewer, make_disk("plain.vhd"))


@pytest.mark.parametrize("number", ["0", "999999999", "99999999999999999999999"])
def test_disks_that_do_not_exist_are_not_found(viewer: Client, number: str) -> None:
    """bad-input 101."""
    assert viewer.get(f"/disks/{number}").status_code == 404


def test_an_unknown_tab_is_refused(viewer: Client) -> None:
    assert viewer.get(f"/disks/{make_disk().pk}?tab=secrets").status_code == 400


def test_real_files_show_layout_raw_bytes_and_locators(operator: Client, tmp_path: Path) -> None:
    base = builders.build_dynamic(tmp_path, "base.vhd", size=8 * builders.MIB)
    builders.build_differencing(tmp_path, "child.vhd", parent=base)
    root = make_root(tmp_path)
    scanning.scan(root)
    child = Disk.objects.get(name="child.vhd")
    assert ParentLink.objects.get(child=child).status == "found"
    raw = page_of(operator, child, "raw")
    assert "63 6f 6e 65 63 74 69 78" in raw  # "conectix"
    assert "63 78 73 70 61 72 73 65" in raw  # "cxsparse"
    layout = page_of(operator, child, "layout")
    assert "None of the 4 blocks is stored in this file." in layout
    parent = page_of(operator, child, "parent")
    assert "2e 00 5c 00" in parent or "2e 5c" in parent or "bytes at" in parent


def test_a_vhdx_shows_its_ids_its_log_and_every_key_of_its_locator(
    operator: Client, tmp_path: Path
) -> None:
    base = builders.build_dynamic_vhdx(tmp_path, "base.vhdx", size=8 * builders.MIB)
    built = builders.build_differencing_vhdx(
        tmp_path, "child.vhdx", base, allocate=[0], states={2: 2}, logical_sector=512
    )
    scanning.scan(make_root(tmp_path))
    child = Disk.objects.get(name="child.vhdx")
    page = page_of(operator, child)
    facts = dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page, re.S))
    assert built.identity in facts["DataWriteGuid"]
    assert child.virtual_disk_id in facts["Virtual disk id"]
    assert child.file_write_guid in facts["FileWriteGuid"]
    assert child.file_write_guid != built.identity
    assert "empty" in facts["Log"]
    assert "512 bytes" in facts["Logical sector size"]
    assert "4,096 bytes" in facts["Physical sector size"]
    assert "Microsoft Windows 10.0.19041.0" in facts["Created by"]
    assert not {"Unique id", "Geometry (C/H/S)"} & facts.keys()
    assert "qemu-img" not in page  # it refuses such a disk, and harms nobody
    parent = page_of(operator, child, "parent")
    for key, words in (
        ("relative_path", "Relative Windows path"),
        ("volume_path", "Path below a volume"),
        ("absolute_win32_path", "Absolute Windows path"),
        ("parent_linkage", "DataWriteGuid"),
        ("parent_linkage2", "Second DataWriteGuid, unused"),
    ):
        assert f'<code class="text">{key}</code><span class="sub">' in parent
        assert words in parent
    assert "zeros that hide the parent" in page_of(operator, child, "layout")
    raw = page_of(operator, child, "raw")
    for name in ("Header 1", "Region table 2", "Metadata table", "Parent locator", "Block alloc"):
        assert name in raw
    plain = builders.build_dynamic(tmp_path, "plain.vhd")
    scanning.scan(child.root)
    page = page_of(operator, Disk.objects.get(name=plain.path.name))
    assert "<dt>Unique id</dt>" in page
    assert "<dt>Geometry (C/H/S)</dt>" in page
    assert "Virtual disk id" not in page


def test_a_parent_written_since_is_told_with_all_that_is_known(
    operator: Client, tmp_path: Path
) -> None:
    """The third of the three answers, where Windows knows one."""
    base = builders.build_dynamic_vhdx(tmp_path, "base.vhdx", size=8 * builders.MIB)
    builders.build_differencing_vhdx(tmp_path, "child.vhdx", base)
    root = make_root(tmp_path, views=("C:\\VMs",))
    scanning.scan(root)
    base.patch_header(base.current, data_write_guid=b"\x42" * 16)
    scanning.scan(root)
    child = Disk.objects.get(name="child.vhdx")
    page = page_of(operator, child, "parent")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "The parent is not as it was" in text
    assert "Written since" in text
    assert "Another disk" not in text
    assert "This disk was made from" in text
    assert base.identity in text
    assert "42424242-4242-4242-4242-424242424242" in text
    assert f"Since then: its DataWriteGuid was {base.identity} and is 42424242" in text
    assert "Both were seen to fit" in text
    assert "parent written since" in text  # in the drawing
    overview = operator.get("/").content.decode()
    assert "1 disk names a base whose content is another one by now" in overview
    head = re.search(r'<div class="page-head".*?</div>\s*</div>', page, re.S)
    assert head
    assert "See what is known" in head[0]  # not the dangerous way


def test_damaged_files_show_what_is_left(viewer: Client, tmp_path: Path) -> None:
    (tmp_path / "broken.vhd").write_bytes(b"conectix" + bytes(600))
    (tmp_path / "text.vhd").write_text("no disk at all")
    root = make_root(tmp_path)
    scanning.scan(root)
    for disk in Disk.objects.filter(root=root):
        for tab in TABS:
            page_of(viewer, disk, tab)


def test_htmx_gets_the_tab_alone(viewer: Client) -> None:
    disk = make_disk()
    part: Any = viewer.get(f"/disks/{disk.pk}?tab=history", headers={"HX-Request": "true"})
    assert part.content.decode().lstrip().startswith('<div class="card" id="tabs"')


def test_viewers_see_every_action_disabled_with_the_reason(viewer: Client) -> None:
    """A page that asks for another role is never linked; what it would do is still told."""
    parent = make_disk("base.vhd")
    child = make_disk("child.vhd")
    make_link(child, parent)
    page = viewer.get(f"/disks/{child.pk}").content.decode()
    for key in ("merge", "compact", "create", "check"):
        assert f'aria-describedby="why-{key}"' in page
        assert f'id="why-{key}">This needs the role “operator”.' in page
    for address in (f"/disks/{child.pk}/merge", f"/disks/{child.pk}/compact", "/create", "/undo"):
        assert f'="{address}' not in page


def test_a_twin_that_is_gone_is_no_twin(viewer: Client) -> None:
    parent = make_disk("base.vhd")
    child = make_disk("child.vhd")
    make_link(child, parent)
    copy = {"identity": parent.identity}
    make_disk("copy.vhd", **copy)
    make_disk("gone.vhd", health="missing", missing_since=timezone.now(), **copy)
    page = viewer.get(f"/disks/{child.pk}?tab=parent").content.decode()
    table = page[page.index("Files with the parent") :]
    assert "copy.vhd" in table
    assert "gone.vhd" not in table


def test_a_disk_that_was_put_away_leads_to_where_it_is_restored_and_so_does_its_child(
    operator: Client,
) -> None:
    job = make_job(kind=Job.Kind.DELETE, status=Job.Status.SUCCEEDED)
    base = make_disk("base.vhd", health="missing", health_code="N_PUT_AWAY", put_away_by=job)
    child = make_disk("child.vhd", health="broken")
    make_link(child, named_identity=base.identity)
    there = f'href="/jobs/{job.pk}"'
    page = page_of(operator, base)
    assert "See the job" in page  # its trash was emptied, or is not known
    assert "is in the trash" not in page
    assert there not in page_of(operator, child)
    item = make_trashed_job(base.root, job)
    page = page_of(operator, base)
    assert "Restore…" in page
    assert there in page
    assert "A job put it into the trash." in page
    assert "put away" in page
    told = re.sub(r"<[^>]+>", "", page_of(operator, child))
    assert "put base.vhd, which has that identity, into the trash" in told
    assert there in page_of(operator, child)
    item.operation = "merge-in-place"  # a part of another disk now
    item.save()
    assert "Restore…" not in page_of(operator, base)
    assert there not in page_of(operator, child)
