"""Update parent path, undo, and the repair plan: seen, planned, applied, taken back."""

from __future__ import annotations

import hashlib
import html
import os
import re
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from disks import tasks
from disks.models import AuditEntry, Disk, Job, LinkUndo, StorageRoot
from disks.services import scanning
from disks.tests import builders
from disks.tests.builders import Family
from disks.tests.factories import make_disk, make_job, make_link, make_root, make_trashed_job
from disks.tests.services.catalog import family, named
from disks.views import repair

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs stay queued; tests run them themselves."""
    monkeypatch.setattr(tasks, "send", lambda job_id: True)


@pytest.fixture
def moved(tmp_path: Path, either_format: Family) -> Disk:
    """A child whose base lies in another folder than it says."""
    (tmp_path / "archive").mkdir()
    base = either_format.dynamic(tmp_path / "archive", named("base.vhd"), size=4 * builders.MIB)
    either_format.differencing(tmp_path, named("child.vhd"), parent=base)
    scanning.scan(make_root(tmp_path, views=("D:\\VMs",), name="vms"))
    child = Disk.objects.get(name=named("child.vhd"))
    assert child.health == "broken"
    return child


def base_of(child: Disk) -> Disk:
    return Disk.objects.get(name=named("base.vhd"), root=child.root)


def form_of(page: str, action: str) -> dict[str, str]:
    form = re.search(rf'<form method="post" action="{action}".*?</form>', page, re.S)
    assert form, page
    pairs = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0])
    return {name: value for name, value in pairs if name != "csrfmiddlewaretoken"}


def plan_form(client: Client, child: Disk, **query: str) -> dict[str, str]:
    page = client.get(f"/disks/{child.pk}/parent", query).content.decode()
    return form_of(page, f"/disks/{child.pk}/parent/apply")


def test_the_candidate_is_offered_with_its_reasons(viewer: Client, moved: Disk) -> None:
    page = viewer.get(f"/disks/{moved.pk}/parent").content.decode()
    assert "identity matches" in page
    assert "its content is not proven" in page
    assert f'<option value="{base_of(moved).pk}"' in page


def test_the_plan_is_shown_before_anything_is_written(viewer: Client, moved: Disk) -> None:
    page = viewer.get(f"/disks/{moved.pk}/parent?parent={base_of(moved).pk}").content.decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    field = {"vhd": "parent_unicode_name", "vhdx": "absolute_win32_path"}[moved.format]
    assert field in text
    assert f"Windows will look at: D:\\VMs\\archive\\{named('base.vhd')}" in text
    assert "It will be readable again." in text
    assert ("both headers get a new FileWriteGuid" in text) == (moved.format == "vhdx")


def test_update_and_undo(operator: Client, moved: Disk) -> None:
    path = Path(moved.path)
    before = path.read_bytes()
    form = plan_form(operator, moved, parent=str(base_of(moved).pk))
    done = operator.post(f"/disks/{moved.pk}/parent/apply", form)
    assert done.status_code == 302, done.content.decode()[-2000:]
    assert done["Location"].startswith(f"/disks/{moved.pk}?tab=parent&updated=")
    moved.refresh_from_db()
    assert moved.health == "healthy"
    assert path.read_bytes() != before
    page = operator.get(done["Location"]).content.decode()
    assert "The parent path is updated." in page
    assert "Undo last update" in page
    history = operator.get(f"/disks/{moved.pk}?tab=history").content.decode()
    assert f'href="/disks/{moved.pk}/parent/undo"' in history
    assert "The link was last updated here" in history
    undo = operator.get(f"/disks/{moved.pk}/parent/undo").content.decode()
    back = operator.post(
        f"/disks/{moved.pk}/parent/undo", form_of(undo, f"/disks/{moved.pk}/parent/undo")
    )
    assert back.status_code == 302
    moved.refresh_from_db()
    assert moved.health == "broken"
    assert "/parent/undo" not in operator.get(f"/disks/{moved.pk}?tab=history").content.decode()
    # the digest of the header: what lies behind the old end of the file is nobody's
    assert hashlib.sha256(path.read_bytes()[512:1536]).digest() == (
        hashlib.sha256(before[512:1536]).digest()
    )
    assert AuditEntry.objects.filter(disk=moved, action="parent-updated").exists()
    assert AuditEntry.objects.filter(disk=moved, action="parent-update-undone").exists()


def test_sending_the_form_twice_is_one_job(operator: Client, moved: Disk) -> None:
    """bad-input E78."""
    form = plan_form(operator, moved, parent=str(base_of(moved).pk))
    first = operator.post(f"/disks/{moved.pk}/parent/apply", form)
    second = operator.post(f"/disks/{moved.pk}/parent/apply", form)
    assert second["Location"] == first["Location"]  # its end, not a refusal
    assert Job.objects.filter(kind=Job.Kind.UPDATE_PARENT).count() == 1


@pytest.mark.parametrize("kind", ["windows", "mixed", "local"])
def test_a_typed_path_is_mapped(viewer: Client, moved: Disk, kind: str) -> None:
    typed = {
        "windows": f"D:\\VMs\\archive\\{named('base.vhd')}",
        "mixed": f"d:/vms/Archive/{named('BASE.vhd')}",
        "local": f"{moved.root.path}/archive/{named('base.vhd')}",
    }[kind]
    response = viewer.get(f"/disks/{moved.pk}/parent", {"path": typed})
    assert response.context["plan"] is not None, response.context["form"].errors
    assert response.context["plan"]["parent"] == f"{moved.root.path}/archive/{named('base.vhd')}"


@pytest.mark.parametrize(
    "typed",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "/etc/no-such-file-at-all",
        "C:\\Windows\\system32\\x.vhd",
        "\\\\host\\share\\x.vhd",
        "\\\\?\\C:\\..",
        "//host/share/x.vhd",
        "http://host/x.vhd",
        "json:{}",
        "%2e%2e%2fetc%2fpasswd",
        "%252e%252e%252fetc",
        "~/x.vhd",
        "*.vhd",
        "D:\\VMs\\..\\..\\etc\\passwd",
        "D:\\VMs\\..%2f..%2fetc",
        "archive/base.vhd",
        "\u2215etc\u2215passwd",
        "a\r\nb",
        "a\x00b",
        "x" * 10_000,
    ],
)
def test_paths_that_lead_nowhere_are_refused_in_words(
    viewer: Client, moved: Disk, typed: str
) -> None:
    """bad-input 103, 61, 62: no path is taken raw, nothing outside is asked about."""
    response = viewer.get(f"/disks/{moved.pk}/parent", {"path": typed})
    assert response.status_code == 200
    assert response.context["plan"] is None
    assert response.context["form"].errors["path"]


@pytest.mark.parametrize("typed", ["D:\\VMs\\archive\\gone.vhd", "{root}/archive/gone.vhd"])
def test_a_file_that_is_not_there_is_told_as_a_place_in_its_storage_root(
    viewer: Client, moved: Disk, typed: str
) -> None:
    """As the list of disks names it; whoever types a Windows path need not know the host's."""
    path = typed.format(root=moved.root.path)
    response = viewer.get(f"/disks/{moved.pk}/parent", {"path": path})
    assert response.context["form"].errors["path"] == [
        f"There is no file archive/gone.vhd in the storage root {moved.root.name}."
    ]


def test_a_disk_in_the_trash_cannot_be_typed_as_parent(viewer: Client, moved: Disk) -> None:
    put_away = Path(moved.root.path) / ".vdtrash" / "job-1" / "base.vhd"
    put_away.parent.mkdir(parents=True)
    put_away.write_bytes(Path(base_of(moved).path).read_bytes())
    response = viewer.get(f"/disks/{moved.pk}/parent", {"path": str(put_away)})
    assert response.context["plan"] is None
    assert "This path is not below a storage root" in response.context["form"].errors["path"][0]


def test_a_refused_parent_that_was_typed_as_windows_names_it_says_where_it_lies(
    viewer: Client, moved: Disk, either_format: Family
) -> None:
    other = named("other.vhd")
    either_format.dynamic(Path(moved.root.path) / "archive", other, size=4 * builders.MIB)
    typed = f"D:\\VMs\\archive\\{other}"
    page = viewer.get(f"/disks/{moved.pk}/parent", {"path": typed}).content.decode()
    told = re.sub(r"<[^>]+>", "", page)
    local = f"{moved.root.path}/archive/{other}"
    assert f"{typed} is {local} on this host." in told
    page = viewer.get(f"/disks/{moved.pk}/parent", {"path": local}).content.decode()
    assert "E_PARENT_IDENTITY" in page
    assert "on this host." not in re.sub(r"<[^>]+>", "", page)


def test_the_answer_does_not_tell_what_exists_outside(viewer: Client, moved: Disk) -> None:
    """bad-input 103."""
    answers = {
        str(viewer.get(f"/disks/{moved.pk}/parent", {"path": path}).context["form"].errors)
        for path in ("/etc/passwd", "/etc/no-such-file-at-all")
    }
    assert len(answers) == 1


def test_a_stale_form_gives_409_and_the_fresh_view(operator: Client, moved: Disk) -> None:
    """bad-input E77: somebody else has updated the link since this page was drawn."""
    query = str(base_of(moved).pk)
    mine, theirs = (plan_form(operator, moved, parent=query) for _ in range(2))
    assert operator.post(f"/disks/{moved.pk}/parent/apply", theirs).status_code == 302
    written = Path(moved.path).read_bytes()
    answer = operator.post(f"/disks/{moved.pk}/parent/apply", mine)
    assert answer.status_code == 409
    assert "This has changed since you looked" in answer.content.decode()
    assert Path(moved.path).read_bytes() == written


def test_another_identity_is_refused_and_only_administrators_may_overrule(
    operator: Client, administrator: Client, moved: Disk, tmp_path: Path
) -> None:
    """bad-input D55, D58: the role, the typed name, and the audit."""
    family(moved.name).dynamic(tmp_path, named("other.vhd"), size=4 * builders.MIB)
    scanning.scan(moved.root)
    other = Disk.objects.get(name=named("other.vhd"))
    address = f"/disks/{moved.pk}/parent"
    query = {"parent": str(other.pk)}
    assert operator.get(address, query).context["refused"]["code"] == "E_PARENT_IDENTITY"
    assert "An administrator can overrule this" in operator.get(address, query).content.decode()
    forced = operator.get(address, query | {"ignore_identity": "on"})
    assert forced.context["plan"] is None
    assert "Use it all the same" in administrator.get(address, query).content.decode()
    form = plan_form(administrator, moved, **query, ignore_identity="on")
    wrong = administrator.post(f"{address}/apply", form | {"confirm_name": "child"})
    assert wrong.status_code == 422
    assert not Job.objects.filter(kind=Job.Kind.UPDATE_PARENT).exists()
    right = administrator.post(f"{address}/apply", form | {"confirm_name": named("child.vhd")})
    assert right.status_code == 302
    assert AuditEntry.objects.filter(disk=moved, action="parent-updated").exists()


def test_operators_cannot_overrule_by_sending_the_field(
    operator: Client, administrator: Client, moved: Disk, tmp_path: Path
) -> None:
    """bad-input 101: role fields in the body are ignored."""
    family(moved.name).dynamic(tmp_path, named("other.vhd"), size=4 * builders.MIB)
    scanning.scan(moved.root)
    other = Disk.objects.get(name=named("other.vhd"))
    form = plan_form(administrator, moved, parent=str(other.pk), ignore_identity="on")
    answer = operator.post(
        f"/disks/{moved.pk}/parent/apply", form | {"confirm_name": named("child.vhd"), "role": "4"}
    )
    assert answer.status_code == 422
    assert not Job.objects.filter(kind=Job.Kind.UPDATE_PARENT).exists()


def test_a_disk_is_never_its_own_parent(operator: Client, moved: Disk) -> None:
    """bad-input D60: refused in the form already."""
    response = operator.get(f"/disks/{moved.pk}/parent?parent={moved.pk}")
    assert response.context["plan"] is None
    assert response.context["refused"]["code"] in ("E_CYCLE", "E_PARENT_IDENTITY")


def test_a_read_only_root_is_not_written(operator: Client, moved: Disk) -> None:
    """bad-input 94."""
    StorageRoot.objects.update(read_only=True)
    response = operator.get(f"/disks/{moved.pk}/parent?parent={base_of(moved).pk}")
    assert response.context["refused"]["code"] == "E_READ_ONLY"
    page = operator.get(f"/disks/{moved.pk}").content.decode()
    assert "is read-only; an administrator can change it." in page


def test_repair_plan_mends_all_and_undoes_all(
    operator: Client, tmp_path: Path, either_format: Family
) -> None:
    (tmp_path / "archive").mkdir()
    base = either_format.dynamic(tmp_path / "archive", named("base.vhd"), size=4 * builders.MIB)
    for number in range(5):
        either_format.differencing(tmp_path, named(f"child-{number}.vhd"), parent=base)
    root = make_root(tmp_path, views=("D:\\VMs",), name="vms")
    scanning.scan(root)
    page = operator.get("/repair").content.decode()
    assert "5 disks name one missing base" in page
    assert page.count('name="row"') == 5
    assert "its content is not proven" in page  # of a disk with the right identity
    form = form_of(page, "/repair/apply")
    rows = re.findall(r'name="row" value="([^"]+)"', page)
    answer = operator.post("/repair/apply", form | {"row": rows})
    job = Job.objects.get(kind=Job.Kind.REPAIR_PLAN)
    assert answer["Location"] == f"/jobs/{job.pk}"
    tasks.run_job(job.pk)
    assert not Disk.objects.filter(health="broken").exists()
    assert "Nothing to repair" in operator.get("/repair").content.decode()
    undo = operator.get(f"/repair/{job.pk}/undo").content.decode()
    assert "5 disks get" in undo
    operator.post(f"/repair/{job.pk}/undo", form_of(undo, f"/repair/{job.pk}/undo"))
    tasks.run_job(Job.objects.get(kind=Job.Kind.UNDO_PLAN).pk)
    assert Disk.objects.filter(health="broken").count() == 5
    assert not LinkUndo.objects.filter(state=LinkUndo.State.AVAILABLE).exists()


def test_where_the_parent_itself_is_in_the_trash_a_copy_of_it_is_not_taken_for_sure(
    operator: Client, tmp_path: Path, either_format: Family
) -> None:
    (tmp_path / "backup").mkdir()
    base = either_format.dynamic(tmp_path, named("base.vhd"), size=4 * builders.MIB)
    either_format.differencing(tmp_path, named("child.vhd"), parent=base)
    copy = tmp_path / "backup" / named("base.vhd")
    copy.write_bytes(base.path.read_bytes())
    os.utime(copy, (1e9, 1e9))  # before the child was made
    root = make_root(tmp_path, views=("D:\\VMs",), name="vms")
    scanning.scan(root)
    os.unlink(base.path)
    scanning.scan(root)
    assert "Same disk</span>" in operator.get("/repair").content.decode()
    job = make_job(Job.Kind.DELETE, status=Job.Status.SUCCEEDED)
    make_trashed_job(root, job)
    Disk.objects.filter(health="missing").update(put_away_by=job)
    gone_for_good = make_job(Job.Kind.DELETE, status=Job.Status.SUCCEEDED)
    make_disk(
        "twin.vhd",
        root=root,
        identity=Disk.objects.get(health="missing").identity,
        health="missing",
        put_away_by=gone_for_good,
    )
    page = operator.get("/repair").content.decode()
    assert "Same disk</span>" not in page
    assert f"the disk itself may be in the trash, where job {job.pk} put it" in page


def test_another_choice_after_the_back_button_is_another_repair(
    operator: Client, tmp_path: Path, either_format: Family
) -> None:
    """bad-input E78: the key of the page alone would swallow the second choice."""
    (tmp_path / "archive").mkdir()
    base = either_format.dynamic(tmp_path / "archive", named("base.vhd"), size=4 * builders.MIB)
    for number in range(2):
        either_format.differencing(tmp_path, named(f"child-{number}.vhd"), parent=base)
    scanning.scan(make_root(tmp_path, views=("D:\\VMs",), name="vms"))
    page = operator.get("/repair").content.decode()
    form = form_of(page, "/repair/apply")
    one, other = re.findall(r'name="row" value="([^"]+)"', page)
    first = operator.post("/repair/apply", form | {"row": [one]})
    assert operator.post("/repair/apply", form | {"row": [one]})["Location"] == first["Location"]
    tasks.run_job(Job.objects.get().pk)
    assert operator.post("/repair/apply", form | {"row": [one]})["Location"] == first["Location"]
    second = operator.post("/repair/apply", form | {"row": [other]})
    assert second["Location"] != first["Location"]
    tasks.run_job(Job.objects.first().pk)
    assert not Disk.objects.filter(health="broken").exists()


def test_repair_without_a_choice_says_so(operator: Client, moved: Disk) -> None:
    form = form_of(operator.get("/repair").content.decode(), "/repair/apply")
    answer = operator.post("/repair/apply", form)
    assert answer.status_code == 422
    assert "Choose at least one disk." in answer.content.decode()
    bad = operator.post("/repair/apply", form | {"row": ["1:x", "'", "9" * 40 + ":1"]})
    assert bad.status_code == 422


def test_viewers_see_the_plan_and_change_nothing(viewer: Client, moved: Disk) -> None:
    page = viewer.get("/repair").content.decode()
    assert "Repairing needs the role “operator”." in page
    assert viewer.post("/repair/apply", {}).status_code == 403
    assert viewer.post(f"/disks/{moved.pk}/parent/undo", {}).status_code == 403
    assert not Job.objects.exists()


def test_many_rows_take_as_many_queries_as_one(viewer: Client) -> None:
    """bad-input 110."""
    base = make_disk("base.vhd")
    make_link(make_disk("c.vhd"), suggested=base, cause="missing:x")
    viewer.get("/repair")
    with CaptureQueriesContext(connection) as one:
        viewer.get("/repair")
    for number in range(30):
        make_link(make_disk(f"c-{number}.vhd"), suggested=base, cause="missing:x")
    with CaptureQueriesContext(connection) as many:
        viewer.get("/repair")
    assert len(many) == len(one)


def test_a_repair_plan_that_is_too_long_says_what_it_leaves_out(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a silent cut: those that can be mended come first, the rest is counted."""
    monkeypatch.setattr(repair, "MOST_ROWS", 3)
    base = make_disk("base.vhd")
    for number in range(3):
        make_link(make_disk(f"a-{number}.vhd"), cause="missing:a")
    for number in range(2):
        make_link(make_disk(f"z-{number}.vhd"), suggested=base, cause="missing:z")
    page = viewer.get("/repair").content.decode()
    assert page.count('name="row"') == 2
    assert "5 disks are broken by at least 2 causes. 2 can be mended here" in page
    assert "2 more disks are broken and not shown here: this page takes 3 at once." in page
    monkeypatch.setattr(repair, "MOST_ROWS", 6)
    assert "not shown here" not in viewer.get("/repair").content.decode()


def test_a_repair_plan_counts_the_disks_that_stand_on_broken_ones(viewer: Client) -> None:
    """As the overview does; those that stand on an offline root are none of its disks."""
    middle, other = make_disk("middle.vhd"), make_disk("other.vhd")
    make_link(middle, cause="missing:a")
    make_link(make_disk("leaf.vhd"), middle, cause="missing:a")
    make_link(make_disk("far.vhd"), other, cause="offline:nas")
    make_link(make_disk("sound.vhd"), other)
    page = viewer.get("/repair").content.decode()
    assert "1 disk is broken by 1 cause, and 1 more stands on it. " in page
    page = viewer.get("/repair?cause=missing:a").content.decode()
    assert "1 disk is broken by 1 cause, and 1 more stands on it. " in page


def test_a_parent_written_since_is_forced_with_its_own_warning(
    operator: Client, administrator: Client, tmp_path: Path
) -> None:
    """The same disk with other content: an administrator types the name, the audit has both ids."""
    base = builders.build_dynamic_vhdx(tmp_path, "base.vhdx", size=4 * builders.MIB)
    builders.build_differencing_vhdx(tmp_path, "child.vhdx", base)
    root = make_root(tmp_path, views=("C:\\VMs",))
    base.patch_header(base.current, data_write_guid=b"\x42" * 16)
    scanning.scan(root)
    child, parent = Disk.objects.get(name="child.vhdx"), Disk.objects.get(name="base.vhdx")
    address, query = f"/disks/{child.pk}/parent", {"parent": str(parent.pk)}
    page = text_of(operator.get(address, query))
    assert "its chain, written since" in page
    assert "By its virtual disk id it is of this disk's own chain" in page
    assert "An administrator can overrule this" in page
    assert "most likely its parent, written after the child was made" in text_of(
        administrator.get(address, query)
    )
    forced = administrator.get(address, query | {"ignore_identity": "on"})
    assert "may be damaged without a sign" in text_of(forced)
    form = plan_form(administrator, child, **query, ignore_identity="on")
    sent = administrator.post(f"{address}/apply", form | {"confirm_name": "child.vhdx"})
    assert sent.status_code == 302
    entry = AuditEntry.objects.get(action="parent-updated")
    assert entry.sentence.endswith(f"from {base.identity} to 42424242-4242-4242-4242-424242424242.")
    audit = text_of(administrator.get("/audit"))
    assert base.identity in audit
    child.refresh_from_db()
    assert child.health == "healthy"  # the two were never seen to fit, so nothing is suspect


def text_of(response: Any) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", response.content.decode())))
