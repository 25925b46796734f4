"""Copy, move and delete: what will change is shown, then one job is asked for and does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import Client

from disks.models import AuditEntry, Disk, Job, ParentLink, StorageRoot, TrashedJob
from disks.services import scanning
from disks.tests.builders import Family
from disks.tests.factories import make_root
from disks.tests.operations.worlds import chain, content_of, roots_of
from disks.tests.web.test_convert_expand_pages import done, words
from disks.tests.web.test_plan_pages import digests, hidden

pytestmark = pytest.mark.django_db

Disks = dict[str, Disk]
SOUND = (Disk.Health.HEALTHY, Disk.Health.NOTICE)  # the rounded geometry of so small a VHD


@pytest.fixture
def disks(tmp_path: Path, family: Family) -> Disks:
    """base ← middle ← leaf on real storage, scanned; a folder `far` beside them."""
    chain(tmp_path, family=family)
    (tmp_path / "far").mkdir()
    scanning.scan(make_root(tmp_path, views=("C:\\VMs",), name="vms"))
    return {Path(disk.name).stem: disk for disk in Disk.objects.select_related("root")}


def test_the_disk_page_offers_all_three(operator: Client, viewer: Client, disks: Disks) -> None:
    leaf = disks["leaf"]
    page = operator.get(f"/disks/{leaf.pk}").content.decode()
    for verb in ("copy", "move", "delete"):
        assert f'href="/disks/{leaf.pk}/{verb}"' in page
        assert viewer.get(f"/disks/{leaf.pk}/{verb}").status_code == 403
    StorageRoot.objects.update(read_only=True)
    text = words(operator.get(f"/disks/{leaf.pk}").content.decode())
    assert "is read-only; an administrator can change it." in text
    page = operator.get(f"/disks/{leaf.pk}").content.decode()
    assert f'href="/disks/{leaf.pk}/copy"' in page  # it only reads
    assert f'href="/disks/{leaf.pk}/delete"' not in page


def test_a_chain_is_copied_and_listed_without_a_scan(
    operator: Client, disks: Disks, family: Family, tmp_path: Path
) -> None:
    address = f"/disks/{disks['leaf'].pk}/copy"
    before = digests(tmp_path)
    first = words(operator.get(address).content.decode())
    assert "Choose another folder than the disk's own" in first
    page = operator.get(f"{address}?folder=far").content.decode()
    text = words(page)
    for each in ("Room needed", "Free there now", "Copy 3 disks", "twins of the originals"):
        assert each in text
    assert f"Windowswilllookat:C:\\VMs\\far\\middle.{family.name}" in text.replace(" ", "")
    form = hidden(page)
    job = done(operator.post(address, form))
    assert operator.post(address, form)["Location"] == f"/jobs/{job.pk}"  # bad-input E78
    copies = Disk.objects.filter(relative_path__startswith="far/")
    assert {Path(disk.name).stem for disk in copies} == {"base", "middle", "leaf"}
    assert {disk.health for disk in copies} <= set(SOUND)
    link = ParentLink.objects.get(child__relative_path=f"far/{family.file('leaf')}")
    assert link.parent is not None
    assert link.parent.relative_path == f"far/{family.file('middle')}"
    assert {name: value for name, value in digests(tmp_path).items() if name in before} == before
    text = words(operator.get(f"/jobs/{job.pk}").content.decode())
    for each in ("3 disks lie there now.", "Content proof", "written, read again, and the same"):
        assert each in text
    assert "Size before" not in text, "nothing became larger or smaller"
    assert AuditEntry.objects.filter(job=job, action="disk-copied").count() == 1


@pytest.fixture
def elsewhere(tmp_path: Path, family: Family) -> tuple[Disk, StorageRoot]:
    """A disk in the folder `srv` of its storage root, and another root."""
    (tmp_path / "vms" / "srv").mkdir(parents=True)
    (tmp_path / "archive").mkdir()
    family.dynamic(tmp_path / "vms" / "srv", family.file("base"))
    scanning.scan(make_root(tmp_path / "vms", name="vms"))
    return Disk.objects.get(), make_root(tmp_path / "archive", name="archive")


@pytest.mark.parametrize("verb", ["copy", "move", "convert"])
def test_in_another_root_a_folder_is_proposed_that_is_there(
    operator: Client, elsewhere: tuple[Disk, StorageRoot], verb: str
) -> None:
    disk, other = elsewhere
    address = f"/disks/{disk.pk}/{verb}?root={other.pk}&folder=srv&name={disk.name}"
    answer = operator.get(address)
    assert (answer.context["form"].data["folder"], answer.context["refused"]) == ("", None)
    (Path(other.path) / "srv").mkdir()
    answer = operator.get(address)
    assert (answer.context["form"].data["folder"], answer.context["refused"]) == ("srv", None)


def test_where_the_disks_own_root_is_read_only_another_is_proposed(
    operator: Client, elsewhere: tuple[Disk, StorageRoot]
) -> None:
    disk, other = elsewhere
    StorageRoot.objects.filter(pk=disk.root_id).update(read_only=True)
    answer = operator.get(f"/disks/{disk.pk}/copy")
    assert answer.context["plan"]["folder"] == other.path
    assert not answer.context["form"].errors


def test_a_copy_into_a_folder_that_is_not_there_says_so(
    operator: Client, disks: Disks, tmp_path: Path
) -> None:
    address = f"/disks/{disks['leaf'].pk}/copy"
    text = words(operator.get(f"{address}?folder=nowhere").content.decode())
    assert "ThereisnofolderC:\\VMs\\nowhere." in text.replace(" ", "")
    assert "Make it first, or choose another." in text
    assert "Look whether it was moved" not in text  # that is for a disk
    assert "Room needed 0 bytes" not in text
    assert "Free there now" not in text
    assert "No parent link has to change" not in text


def test_a_moved_disk_keeps_its_page_and_its_children(
    operator: Client, disks: Disks, family: Family, tmp_path: Path
) -> None:
    middle = disks["middle"]
    address = f"/disks/{middle.pk}/move"
    was = content_of(tmp_path / family.file("leaf"))
    query = f"?folder=far&name={family.file('renamed')}"
    page = operator.get(address + query).content.decode()
    text = words(page)
    assert "only its name changes: no byte of its content is copied" in text
    assert "Rewrite these parent links in the same job." in text
    form = hidden(page)
    refused = operator.post(address, form)
    assert refused.status_code == 422
    assert "Say that these links are rewritten" in refused.content.decode()
    job = done(operator.post(address, form | {"relink": "on"}))
    middle.refresh_from_db()
    assert middle.relative_path == f"far/{family.file('renamed')}"
    assert middle.name == family.file("renamed")
    assert middle.health in SOUND
    leaf = Disk.objects.select_related("parent_link").get(pk=disks["leaf"].pk)
    assert leaf.health in SOUND
    assert leaf.parent_link.parent_id == middle.pk
    assert Disk.objects.count() == 3
    assert content_of(tmp_path / family.file("leaf"), roots_of(tmp_path)) == was
    result = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert "Moved, and 2 parent links rewritten." in result
    entry = AuditEntry.objects.get(job=job, action="disk-moved")
    assert entry.after == {"path": str(tmp_path / "far" / family.file("renamed"))}
    # back again: the row follows
    again = operator.get(f"{address}?folder=&name={family.file('middle')}").content.decode()
    done(operator.post(address, hidden(again) | {"relink": "on"}))
    middle.refresh_from_db()
    assert middle.relative_path == family.file("middle")


def test_a_moved_disk_leaves_a_child_behind_only_by_typing_the_name(
    operator: Client, disks: Disks, family: Family, tmp_path: Path
) -> None:
    middle, leaf = disks["middle"], tmp_path / family.file("leaf")
    was = leaf.read_bytes()
    address = f"/disks/{middle.pk}/move"
    query = {"folder": "far", "name": family.file("renamed"), "breaks": str(leaf)}
    page = operator.get(address, query).content.decode()
    assert "Left behind, and not readable until its parent path is updated" in words(page)
    form = hidden(page) | {"relink": "on"}
    assert form["breaks"] == str(leaf)
    refused = operator.post(address, form)
    assert refused.status_code == 422
    assert "Type the disk&#x27;s name exactly as it is shown." in refused.content.decode()
    named = form | {"confirm_name": middle.name}
    overtaken = operator.post(address, {key: named[key] for key in named if key != "breaks"})
    assert overtaken.status_code == 409
    job = done(operator.post(address, named))
    assert leaf.read_bytes() == was
    assert Disk.objects.get(pk=disks["leaf"].pk).health == Disk.Health.BROKEN
    assert Disk.objects.get(pk=middle.pk).health in SOUND
    entry = AuditEntry.objects.get(job=job, action="disk-moved")
    assert entry.sentence.endswith(f"Given up with it: {leaf}.")


def test_a_deleted_leaf_is_in_the_trash_and_can_be_restored(
    operator: Client, disks: Disks, family: Family, tmp_path: Path
) -> None:
    leaf = disks["leaf"]
    address = f"/disks/{leaf.pk}/delete"
    page = operator.get(address).content.decode()
    assert "type the disk's name" not in words(page)
    job = done(operator.post(address, hidden(page)))
    leaf.refresh_from_db()
    assert leaf.health == Disk.Health.MISSING
    assert leaf.put_away_by_id == job.pk
    item = TrashedJob.objects.get(job=job)
    assert item.operation == "delete"
    assert Disk.objects.get(pk=disks["middle"].pk).child_count == 0
    text = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert "Restore" in text
    done(operator.post(f"/trash/{item.pk}/restore", {"offline": "on", "key": "a" * 32}))
    leaf.refresh_from_db()
    assert leaf.health in SOUND


def test_children_are_named_and_given_up_only_by_typing_the_name(
    operator: Client, disks: Disks, family: Family, tmp_path: Path
) -> None:
    base = disks["base"]
    address = f"/disks/{base.pk}/delete"
    page = operator.get(address).content.decode()
    text = words(page)
    assert "Deleting breaks 1 child, and 1 further below" in text
    assert family.file("middle") in text
    assert family.file("leaf") in text
    form = hidden(page)
    for typed in ("", "base"):
        answer = operator.post(address, form | {"confirm_name": typed})
        assert answer.status_code == 422
        assert "Type the disk&#x27;s name exactly as it is shown." in answer.content.decode()
    assert (tmp_path / base.name).exists()
    job = done(operator.post(address, form | {"confirm_name": base.name}))
    assert not (tmp_path / base.name).exists()
    assert Disk.objects.get(pk=disks["leaf"].pk).health == Disk.Health.BROKEN
    entry = AuditEntry.objects.get(job=job, action="disk-deleted")
    assert family.file("middle") in entry.sentence


def test_a_form_that_was_overtaken_shows_the_fresh_view(
    operator: Client, disks: Disks, family: Family, tmp_path: Path
) -> None:
    leaf = disks["leaf"]
    address = f"/disks/{leaf.pk}/delete"
    form = hidden(operator.get(address).content.decode())
    data = (tmp_path / leaf.name).read_bytes()
    (tmp_path / leaf.name).write_bytes(data)
    answer = operator.post(address, form)
    assert answer.status_code == 409
    assert "This has changed since you looked" in answer.content.decode()
    assert not Job.objects.filter(kind=Job.Kind.DELETE).exists()


@pytest.mark.parametrize("query", ["?folder=../x&name=a", "?folder=none&name=a.vhd", "?name=a/b"])
def test_places_that_cannot_be_are_said_on_the_form(
    operator: Client, disks: Disks, query: str
) -> None:
    answer = operator.get(f"/disks/{disks['leaf'].pk}/move{query}")
    assert answer.status_code == 200
    assert 'btn btn-primary"><' not in answer.content.decode()
    assert "errorlist" in answer.content.decode() or "error-panel" in answer.content.decode()
