"""Convert and expand: what will happen is shown, then one job is asked for and does it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from disks.models import AuditEntry, Disk, Job, StorageRoot
from disks.services import converting, expanding, jobs, scanning
from disks.tests import builders
from disks.tests.factories import make_root
from disks.tests.operations.worlds import content_of
from disks.tests.web.test_plan_pages import digests, hidden

pytestmark = pytest.mark.django_db

MIB = builders.MIB


@pytest.fixture
def chain(tmp_path: Path) -> list[Disk]:
    """base and leaf on real storage, scanned."""
    base = builders.build_dynamic(tmp_path, "base.vhd", size=8 * MIB, content=[(3, b"b" * 512)])
    builders.build_differencing(tmp_path, "leaf.vhd", parent=base, content=[(9, b"l" * 512)])
    scanning.scan(make_root(tmp_path, views=("C:\\VMs",), name="vms"))
    disks = {disk.name: disk for disk in Disk.objects.all()}
    return [disks["base.vhd"], disks["leaf.vhd"]]


@pytest.fixture
def fixed(tmp_path: Path) -> Disk:
    builders.build_fixed(tmp_path, "fixed.vhd", size=MIB, content=[(0, b"f" * 1024)])
    scanning.scan(make_root(tmp_path))
    return Disk.objects.get()


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def done(response: Any) -> Job:
    """The job that an answer leads to, carried out."""
    assert response.status_code == 302, response.content.decode()
    job = jobs.run_now(Job.objects.get(pk=int(response["Location"].rsplit("/", 1)[1])))
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    return job


# ---------------------------------------------------------------------- convert


def test_convert_shows_at_once_what_it_would_do(operator: Client, chain: list[Disk]) -> None:
    leaf = chain[1]
    page = operator.get(f"/disks/{leaf.pk}/convert").content.decode()
    text = words(page)
    for each in ("Bytes to read", "Room needed", "Free there now", "Size of the copy, at most"):
        assert each in text
    assert "Convert to leaf-copy.vhd" in text
    assert "Set-VMHardDiskDrive" in text
    assert "base.vhd" in text  # what is read into it
    other = words(operator.get(f"/disks/{chain[0].pk}/convert").content.decode())
    assert "VHD, dynamic, 8" in other  # the source's own type, as on the command line


def test_a_fixed_disk_is_offered_a_fixed_copy(operator: Client, fixed: Disk) -> None:
    assert "VHD, fixed, 1" in words(operator.get(f"/disks/{fixed.pk}/convert").content.decode())


def test_converting_makes_the_copy_and_its_row(
    operator: Client, chain: list[Disk], tmp_path: Path
) -> None:
    leaf = chain[1]
    before = digests(tmp_path)
    page = operator.get(f"/disks/{leaf.pk}/convert?disk_type=fixed&name=flat").content.decode()
    form = hidden(page)
    first = operator.post(f"/disks/{leaf.pk}/convert", form)
    again = operator.post(f"/disks/{leaf.pk}/convert", form)
    assert first["Location"] == again["Location"]  # bad-input E78
    job = done(first)
    made = Disk.objects.get(name="flat.vhd")
    assert (made.disk_type, made.health) == ("fixed", Disk.Health.HEALTHY)
    assert made.identity != leaf.identity
    assert content_of(tmp_path / "flat.vhd") == content_of(tmp_path / "leaf.vhd")
    assert {
        name: value for name, value in digests(tmp_path).items() if name != "flat.vhd"
    } == before
    result = operator.get(f"/jobs/{job.pk}").content.decode()
    assert f'href="/disks/{made.pk}"' in result
    assert "read again, and the same" in words(result)
    assert AuditEntry.objects.filter(job=job, action="job-succeeded").exists()


def test_a_chain_of_vhds_becomes_one_vhdx_and_that_is_expanded(
    operator: Client, chain: list[Disk], tmp_path: Path
) -> None:
    leaf = chain[1]
    page = operator.get(f"/disks/{leaf.pk}/convert?format=vhdx").content.decode()
    assert "Convert to leaf-copy.vhdx" in words(page)
    done(operator.post(f"/disks/{leaf.pk}/convert", hidden(page)))
    made = Disk.objects.get(name="leaf-copy.vhdx")
    assert (made.format, made.disk_type, made.health) == ("vhdx", "dynamic", Disk.Health.HEALTHY)
    assert content_of(tmp_path / made.name) == content_of(tmp_path / "leaf.vhd")
    page = operator.get(f"/disks/{made.pk}/expand?size=64&unit=MB").content.decode()
    assert "a new one: by the rules of the format" in words(page)
    done(operator.post(f"/disks/{made.pk}/expand", hidden(page)))
    larger = Disk.objects.get(pk=made.pk)
    assert larger.virtual_size_bytes == 64 * MIB
    assert larger.identity != made.identity


def test_a_plain_image_is_made_and_not_listed_and_the_form_says_so(
    operator: Client, chain: list[Disk], tmp_path: Path
) -> None:
    leaf = chain[1]
    page = operator.get(f"/disks/{leaf.pk}/convert?format=raw").content.decode()
    assert "this console will not list it" in words(page)
    assert "Convert to leaf-copy.raw" in words(page)
    assert 'name="disk_type" value="fixed"' not in page.split("<form")[1]
    job = done(operator.post(f"/disks/{leaf.pk}/convert", hidden(page)))
    data = (tmp_path / "leaf-copy.raw").read_bytes()
    assert hashlib.sha256(data).hexdigest() == content_of(tmp_path / "leaf.vhd")
    scanning.scan(leaf.root)
    assert set(Disk.objects.values_list("name", flat=True)) == {"base.vhd", "leaf.vhd"}
    assert "leaf-copy.raw" in words(operator.get(f"/jobs/{job.pk}").content.decode())


@pytest.mark.parametrize(
    ("typed", "format_name", "named"),
    [("x", "vhd", "x.vhd"), ("x.vhd", "raw", "x.raw"), ("x.img", "raw", "x.img"),
     ("x.img", "vhd", "x.vhd"), ("x.tar", "vhd", "x.tar.vhd")],
)  # fmt: skip
def test_the_name_ends_as_the_format_wants(
    operator: Client, chain: list[Disk], typed: str, format_name: str, named: str
) -> None:
    address = f"/disks/{chain[1].pk}/convert"
    page = operator.get(address, {"name": typed, "format": format_name}).content.decode()
    assert f"Convert to {named}" in words(page)
    assert hidden(page)["name"] == named


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("folder", "../../etc"),
        ("folder", "a\x00b"),
        ("name", "../x.vhd"),
        ("name", "a/b.vhd"),
        ("name", "n" * 300),
        ("root", "999"),
        ("format", "qcow2"),
        ("format", ""),
        ("disk_type", "differencing"),
    ],
)
def test_no_path_and_no_format_is_taken_raw(
    operator: Client, chain: list[Disk], field: str, value: str
) -> None:
    """bad-input 103: what leaves the root is no form."""
    response = operator.get(f"/disks/{chain[1].pk}/convert", {field: value})
    assert response.status_code == 200
    if value:
        assert response.context["plan"] is None
        posted = operator.post(f"/disks/{chain[1].pk}/convert", {field: value})
        assert posted.status_code == 422
    assert not Job.objects.exists()


def test_a_taken_name_is_refused_with_the_button_off(operator: Client, chain: list[Disk]) -> None:
    response = operator.get(f"/disks/{chain[1].pk}/convert?name=base.vhd")
    assert response.context["refused"]["code"] == "E_EXISTS"
    page = response.content.decode()
    assert 'type="button" aria-disabled="true"' in page
    form = hidden(page)
    assert operator.post(f"/disks/{chain[1].pk}/convert", form).status_code == 422
    assert not Job.objects.exists()


# ---------------------------------------------------------------------- expand


def test_expand_begins_with_the_size_that_is_there(operator: Client, chain: list[Disk]) -> None:
    page = operator.get(f"/disks/{chain[1].pk}/expand").content.decode()
    assert 'name="size" value="8"' in page
    assert '<option value="MB" selected>' in page
    assert "What will happen</h2>" not in page


def test_expand_shows_every_field_and_then_does_it(
    operator: Client, chain: list[Disk], tmp_path: Path
) -> None:
    leaf = chain[1]
    before = content_of(tmp_path / "leaf.vhd")
    page = operator.get(f"/disks/{leaf.pk}/expand?size=64&unit=MB").content.decode()
    text = words(page)
    for each in ("The file grows by", "Virtual size", "8,388,608", "67,108,864", "growpart"):
        assert each in text
    assert "0xC03A0017" in text  # Windows wants parent and child of one size
    job = done(operator.post(f"/disks/{leaf.pk}/expand", hidden(page)))
    leaf.refresh_from_db()
    assert leaf.virtual_size_bytes == 64 * MIB
    model = bytearray(64 * MIB)
    model[3 * 512 : 4 * 512], model[9 * 512 : 10 * 512] = b"b" * 512, b"l" * 512
    assert content_of(tmp_path / "leaf.vhd") == hashlib.sha256(model).hexdigest() != before
    assert "enlarge them in the machine" in job.sentence
    entry = AuditEntry.objects.get(action="disk-expanded")
    assert (entry.disk_id, entry.job_id) == (leaf.pk, job.pk)
    assert entry.before == {"virtual_size_bytes": 8 * MIB}
    assert entry.after == {"virtual_size_bytes": 64 * MIB}
    assert "Virtual size before" in words(operator.get(f"/jobs/{job.pk}").content.decode())


def test_children_are_listed_with_the_ways_out(operator: Client, chain: list[Disk]) -> None:
    base, leaf = chain
    response = operator.get(f"/disks/{base.pk}/expand?size=1&unit=GB")
    page = response.content.decode()
    assert response.context["refused"]["code"] == "E_CHILDREN"
    assert "Expanding breaks 1 child" in words(page)
    assert f'href="/disks/{leaf.pk}/expand"' in page
    assert f'href="/create?parent={base.pk}"' in page
    assert operator.post(f"/disks/{base.pk}/expand", hidden(page)).status_code == 422
    assert not Job.objects.exists()


def test_a_child_in_an_offline_root_stands_in_the_way(
    operator: Client, chain: list[Disk], tmp_path: Path
) -> None:
    """bad-input 67: it would be broken unseen."""
    base, leaf = chain
    away = make_root(tmp_path / "away", name="away", state=StorageRoot.State.OFFLINE)
    Disk.objects.filter(pk=leaf.pk).update(root=away)
    response = operator.get(f"/disks/{base.pk}/expand?size=1&unit=GB")
    assert response.context["refused"]["code"] == "E_ROOT_OFFLINE"
    assert response.context["plan"] is None


@pytest.mark.parametrize(
    ("size", "unit", "code"),
    [("1", "MB", "E_SHRINK"), ("0.5", "MB", "E_SHRINK"), ("3", "TB", "E_TOO_LARGE"),
     ("2", "TB", "E_TOO_LARGE"), ("1.9", "TB", "E_NOSPC")],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(
    operator: Client, fixed: Disk, size: str, unit: str, code: str
) -> None:
    response = operator.get(f"/disks/{fixed.pk}/expand", {"size": size, "unit": unit})
    assert response.context["refused"]["code"] == code


@pytest.mark.parametrize("size", ["", "abc", "-1", "0", "1e9", "9" * 30, "NaN"])
def test_what_is_no_size_is_told_beside_the_field(operator: Client, fixed: Disk, size: str) -> None:
    response = operator.get(f"/disks/{fixed.pk}/expand", {"size": size, "unit": "GB"})
    assert response.status_code == 200
    assert response.context["plan"] is None
    assert response.context["form"].errors["size"]
    posted = operator.post(f"/disks/{fixed.pk}/expand", {"size": size, "unit": "GB"})
    assert posted.status_code == 422


def test_the_declaration_is_asked_for_where_others_open_the_disks(
    operator: Client, fixed: Disk
) -> None:
    StorageRoot.objects.update(opened_by="hyper-v")
    address = f"/disks/{fixed.pk}/expand"
    form = hidden(operator.get(address, {"size": 2, "unit": "MB"}).content.decode())
    refused = operator.post(address, form)
    assert refused.status_code == 422
    assert "Say that nobody has these disks open" in refused.content.decode()
    done(operator.post(address, form | {"offline": "on"}))
    assert Job.objects.get().declared_offline


# ---------------------------------------------------------------------- both


@pytest.mark.parametrize("page", ["convert", "expand?size=64&unit=MB"])
def test_a_disk_that_changed_since_gives_409_and_a_fresh_view(
    operator: Client, chain: list[Disk], tmp_path: Path, page: str
) -> None:
    """bad-input E77."""
    address = f"/disks/{chain[1].pk}/{page}"
    form = hidden(operator.get(address).content.decode())
    (tmp_path / "base.vhd").touch()
    response = operator.post(address.partition("?")[0], form)
    assert response.status_code == 409
    assert "This has changed since you looked" in response.content.decode()
    assert not Job.objects.exists()
    fresh = hidden(response.content.decode())
    assert operator.post(address.partition("?")[0], fresh).status_code == 302


@pytest.mark.parametrize(
    ("page", "service"), [("convert", converting), ("expand?size=64&unit=MB", expanding)]
)
def test_a_disk_written_while_the_form_is_answered_is_not_worked_on_unseen(
    operator: Client,
    chain: list[Disk],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    service: Any,
) -> None:
    """bad-input E76, E77."""
    address = f"/disks/{chain[1].pk}/{page}"
    form = hidden(operator.get(address).content.decode())
    plan, asked = service.plan, []

    def overtaken(*args: Any, **options: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            (tmp_path / "leaf.vhd").touch()
        return plan(*args, **options)

    monkeypatch.setattr(service, "plan", overtaken)
    answer = operator.post(address.partition("?")[0], form)
    assert (answer.status_code, len(asked)) == (409, 2)
    assert not Job.objects.exists()


@pytest.mark.parametrize("page", ["convert", "expand"])
def test_viewers_and_gets_change_nothing(
    viewer: Client, operator: Client, chain: list[Disk], tmp_path: Path, page: str
) -> None:
    """bad-input 99, 100."""
    before = digests(tmp_path)
    assert viewer.get(f"/disks/{chain[1].pk}/{page}").status_code == 403
    assert viewer.post(f"/disks/{chain[1].pk}/{page}").status_code == 403
    operator.get(f"/disks/{chain[1].pk}/{page}?size=1&unit=GB")
    assert digests(tmp_path) == before
    assert not Job.objects.exists()


def test_the_disks_page_offers_both_and_says_why_not(
    operator: Client, viewer: Client, chain: list[Disk]
) -> None:
    leaf = chain[1]
    page = operator.get(f"/disks/{leaf.pk}").content.decode()
    for name in ("convert", "expand"):
        assert f'href="/disks/{leaf.pk}/{name}"' in page
    assert 'id="why-expand"' in viewer.get(f"/disks/{leaf.pk}").content.decode()
    StorageRoot.objects.update(read_only=True)
    page = operator.get(f"/disks/{leaf.pk}").content.decode()
    assert f'href="/disks/{leaf.pk}/convert"' in page  # it may go to another root
    assert 'id="why-expand"' in page


@pytest.mark.parametrize("page", ["convert", "expand?size=1&unit=GB"])
def test_a_broken_chain_is_told_with_the_way_out(
    operator: Client, chain: list[Disk], tmp_path: Path, page: str
) -> None:
    base, leaf = chain
    (tmp_path / "base.vhd").rename(tmp_path / "gone.txt")
    scanning.scan(base.root)
    response = operator.get(f"/disks/{leaf.pk}/{page}")
    assert response.context["refused"]["code"].startswith("E_PARENT")
    assert "update the parent path" in response.content.decode()


@pytest.mark.parametrize("name", ['"><script>x.vhd', "a'b&c.vhd"])
def test_names_made_by_others_are_text(operator: Client, tmp_path: Path, name: str) -> None:
    """bad-input 104."""
    builders.build_dynamic(tmp_path, name.replace("/", ""), size=MIB)
    scanning.scan(make_root(tmp_path))
    disk = Disk.objects.get()
    for page in ("convert", "expand?size=1&unit=GB"):
        text = operator.get(f"/disks/{disk.pk}/{page}").content.decode()
        assert "<script>x" not in text
