"""The pages of checkpoint piles: reached from three sides, tell all, start one job."""

from __future__ import annotations

import html
import itertools
import os
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from disks.models import Disk, Job, StorageRoot
from disks.services import jobs, scanning
from disks.tests.factories import make_disk, make_job, make_link, make_root
from disks.tests.operations.piles import FORMATS, Pile, make
from disks.tests.operations.worlds import content_of

pytestmark = pytest.mark.django_db
every_format = pytest.mark.parametrize("format", FORMATS)


@pytest.fixture(params=FORMATS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Pile:
    """Five checkpoints in `srv`, scanned."""
    made = make(tmp_path / "srv", request.param)
    scanning.scan(make_root(tmp_path, views=("C:\\VMs",), name="vms"))
    return made


def scan() -> None:
    scanning.scan(StorageRoot.objects.get())


def disk(path: str) -> Disk:
    return Disk.objects.select_related("root").get(name=os.path.basename(path))


def address(**query: object) -> str:
    return f"/piles/folder?{urlencode(query)}"


def folder(client: Client, **query: object) -> str:
    root = StorageRoot.objects.get()
    answer = client.get(address(**({"root": root.pk, "folder": "srv"} | query)))
    assert answer.status_code == 200
    return answer.content.decode()


def words(page: str) -> str:
    """What a reader sees, spaces made one."""
    text = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", text)))


def hidden(page: str) -> dict[str, str]:
    """The hidden inputs of the form that starts the job."""
    form = re.search(r'<form method="post" action="/piles/merge".*?</form>', page, re.S)
    assert form, page
    pairs = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0])
    return {name: html.unescape(value) for name, value in pairs if name != "csrfmiddlewaretoken"}


DECLARED = {"offline": "on", "unmanaged": "on"}


# ---------------------------------------------------------------------- the ways to it


def test_the_overview_leads_to_the_pile(viewer: Client, made: Pile) -> None:
    page = viewer.get("/").content.decode()
    size = sum(disk(path).allocated_bytes for path in made.paths(*"abcde"))
    assert f"5 checkpoints without a host: 5 files, {size // 1024} KB, in vms: srv" in words(page)
    leaf = disk(made.path("e"))
    target = f"/piles/folder?at={leaf.pk}&amp;leaf={leaf.pk}"
    assert f'href="{target}"' in page
    assert "5 differencing disks" in words(viewer.get(html.unescape(target)).content.decode())


def test_fewer_than_three_or_with_a_manager_are_no_row_of_the_overview(
    viewer: Client, made: Pile
) -> None:
    (made.folder / "srv.vmcx").write_bytes(b"")
    scan()
    assert "without a host" not in viewer.get("/").content.decode()


def test_disks_that_are_no_checkpoints_by_name_are_not_called_so(viewer: Client) -> None:
    make_root(name="vms")
    below = make_disk("web/base.vhd")
    for number in range(4):
        above = make_disk(f"web/d{number}.vhd")
        make_link(above, below)
        below = above
    text = words(viewer.get("/").content.decode())
    assert "4 disks in one chain, and no host beside them: 4 files, 256 MB, in vms: web" in text


def test_the_overview_asks_the_same_queries_for_one_pile_and_for_six(viewer: Client) -> None:
    make_root(name="vms")
    counts = []
    for pile in range(6):
        below = make_disk(f"m{pile}/base.vhd")
        for number in range(3):
            above = make_disk(f"m{pile}/d{number}.avhd")
            make_link(above, below)
            below = above
        with CaptureQueriesContext(connection) as asked:
            page = viewer.get("/").content.decode()
        counts.append(len(asked))
    assert counts[0] == counts[-1]
    assert "2 more piles of such disks." in words(page)


def test_every_disk_of_the_chain_leads_to_its_pile(operator: Client, made: Pile) -> None:
    leaf = disk(made.path("e"))
    for name in ("vm", "c", "e"):
        one = disk(made.path(name))
        assert f'href="/disks/{one.pk}/pile"' in operator.get(f"/disks/{one.pk}").content.decode()
        answer = operator.get(f"/disks/{one.pk}/pile")
        assert answer["Location"] == f"/piles/folder?at={one.pk}&leaf={leaf.pk}"
    assert operator.get("/disks/99999/pile").status_code == 404


def test_a_disk_of_a_short_chain_offers_no_pile(operator: Client) -> None:
    make_root()
    base = make_disk("base.vhd")
    child = make_disk("child.vhd")
    make_link(child, base)
    assert "/pile" not in operator.get(f"/disks/{child.pk}").content.decode()


def test_the_list_leads_to_piles_and_to_any_folder(viewer: Client, made: Pile) -> None:
    page = viewer.get("/piles").content.decode()
    leaf = disk(made.path("e"))
    assert f"/piles/folder?at={leaf.pk}&amp;leaf={leaf.pk}" in page
    assert 'name="folder"' in page
    assert viewer.get("/piles/folder")["Location"] == "/piles"
    assert "No pile here" in folder(viewer, folder="elsewhere")


# ---------------------------------------------------------------------- what the page tells


def test_it_tells_the_order_the_figures_and_the_verb(operator: Client, made: Pile) -> None:
    page = folder(operator)
    names = [Path(path).name for path in made.paths(*"edcba", "vm")]
    order = re.search(r'<ol class="vd-order">(.*?)</ol>', page, re.S)
    assert order
    steps = [
        (re.sub(r"<[^>]+>", "", child), re.sub(r"<[^>]+>", "", parent))
        for child, parent in re.findall(
            r"<li><a [^>]+>(.*?)</a>.*?into (.*?)</span></li>", order[1], re.S
        )
    ]
    assert steps == list(itertools.pairwise(names))
    text = words(page)
    for told in ("Bytes to move, in one pass", "Room needed", "Free there now", "Pair by pair"):
        assert told in text
    assert f"Merge 5 disks into {names[-1]}" in text
    assert "The 5 files whose data moved" in text
    assert "can be stopped and resumed" in text
    by_copy = words(folder(operator, way="copy"))
    assert "All 6 old files" in by_copy
    assert "can be undone until then" in by_copy


def test_the_time_is_guessed_from_this_machines_last_jobs(operator: Client, made: Pile) -> None:
    assert "no job to guess from yet" in folder(operator)
    result = {"seconds": 100.0, "bytes_written": 1024, "output": ""}
    make_job("merge", status="succeeded", result=result)
    assert "no job to guess from yet" in folder(operator)  # a copy is no measure
    assert "no job to guess from yet" not in folder(operator, way="copy")
    make_job("merge", status="succeeded", result=result | {"in_place": True})
    assert "no job to guess from yet" not in folder(operator)


def test_the_name_that_survives_can_be_chosen(operator: Client, made: Pile) -> None:
    leaf, base = (Path(path).name for path in made.paths("e", "vm"))
    assert f"\\srv\\{base}, dynamic" in words(folder(operator))
    chosen = words(folder(operator, keep_name="child"))
    assert f"\\srv\\{leaf}, dynamic" in chosen
    assert "that of a checkpoint" in chosen
    assert operator.get(address(root=1, keep_name="both")).status_code == 400


def test_a_branch_is_told_with_its_leaves_and_the_way_out(operator: Client, made: Pile) -> None:
    made.child("x", "c")
    os.utime(made.path("x"), (2_000_000_000, 2_000_000_000))
    scan()
    page = folder(operator)
    text = words(page)
    assert f"2 disks build on {Path(made.path('c')).name}" in text
    assert "ruin the others" in text
    assert re.search(rf"{Path(made.path('x')).name} last written [^·]*, the newest", text)
    assert f'href="/disks/{disk(made.path("x")).pk}/merge?into=new"' in page
    assert "Merge 2 piles, one after the other" in text
    only = address(root=StorageRoot.objects.get().pk, folder="srv", leaf=disk(made.path("e")).pk)
    assert html.escape(only) in page
    one = words(operator.get(only).content.decode())
    assert "1 more pile in this folder: show all" in one


def test_orphans_strangers_and_unread_files_are_told_with_reasons(
    operator: Client, made: Pile
) -> None:
    made.disks["vm"].path.unlink()
    made.base("alone")
    (made.folder / ("notes" + made.kind.base_ending)).write_text("no disk" * 100)
    made.damaged()
    scan()
    page = folder(operator)
    text = words(page)
    assert "This pile cannot be merged now" in text
    assert "Orphans: the parent is missing" in text
    assert "Strangers: they belong to no chain" in text
    assert "Not read" in text
    assert "See where we looked" in text
    assert 'aria-disabled="true"' in page
    assert "There is no script for this" in text


@every_format
def test_hostile_names_are_shown_and_never_run(
    operator: Client, tmp_path: Path, format: str
) -> None:
    # what Windows can name, and on top what only this host can
    hostile = ["'; $(calc) #", "\u202egnp", "&quot;`x`", "<img src=x onerror=alert(1)>\n\udcff"]
    made = Pile(tmp_path / "ÿ\udcff", format)
    made.base()
    below = "vm"
    for name in hostile:
        made.child(name, below)
        below = name
    scanning.scan(make_root(tmp_path, views=("C:\\VMs",), name="vms"))
    leaf = Disk.objects.get(child_count=0)
    answer = operator.get(f"/disks/{leaf.pk}/pile", follow=True)
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "<img src=x" not in page
    assert "\u202e" not in page
    form = hidden(page) | DECLARED
    assert operator.post("/piles/merge", form).status_code == 302
    job = jobs.run_now(Job.objects.get(kind=Job.Kind.MERGE))
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert content_of(made.path("vm")) == made.disks[hostile[-1]].sha256


# ---------------------------------------------------------------------- the script


def test_the_script_is_a_file_for_windows(viewer: Client, made: Pile) -> None:
    root = StorageRoot.objects.get()
    page = folder(viewer)
    target = f"/piles/script?{urlencode({'root': root.pk, 'folder': 'srv'})}"
    assert html.escape(target) in page
    answer = viewer.get(target)
    assert answer["Content-Disposition"] == 'attachment; filename="merge-pile.ps1"'
    assert answer["X-Content-Type-Options"] == "nosniff"
    text = answer.content.decode()
    assert text.count("\n") == text.count("\r\n")
    leaf, below = (Path(path).name for path in made.paths("e", "d"))
    line = f"Merge-VHD -Path 'C:\\VMs\\srv\\{leaf}' -DestinationPath 'C:\\VMs\\srv\\{below}'"
    assert line in text
    assert line in words(page)


@pytest.mark.parametrize("query", ["", "?root=99999", "?at=99999", "?root=1&folder=../x"])
def test_no_script_for_what_is_no_folder(viewer: Client, made: Pile, query: str) -> None:
    assert viewer.get(f"/piles/script{query}").status_code in (400, 404)


# ---------------------------------------------------------------------- the job


def test_it_becomes_one_job_however_often_it_is_sent(operator: Client, made: Pile) -> None:
    form = hidden(folder(operator)) | DECLARED
    first = operator.post("/piles/merge", form)
    second = operator.post("/piles/merge", form)
    job = Job.objects.get(kind=Job.Kind.MERGE)
    assert first["Location"] == second["Location"] == f"/jobs/{job.pk}"
    jobs.run_now(job)
    assert content_of(made.path("vm")) == made.disks["e"].sha256
    assert operator.post("/piles/merge", form)["Location"] == f"/jobs/{job.pk}"
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert "each batch read back, and the same" in page
    assert "they do not come back" in page


def test_several_piles_are_one_job_whose_page_tells_of_each(operator: Client, made: Pile) -> None:
    made.child("x", "c")
    scan()
    form = hidden(folder(operator)) | DECLARED
    answer = operator.post("/piles/merge", form)
    job = Job.objects.get(kind=Job.Kind.PILE)
    assert answer["Location"] == f"/jobs/{job.pk}"
    jobs.run_now(job)
    page = words(operator.get(f"/jobs/{job.pk}").content.decode())
    assert "Merged 2 piles: 6 disks became 2." in page
    assert page.count("disks became this one") == 2
    assert page.count("What it merged away is in the trash") == 2


def test_a_pile_that_cannot_be_merged_is_left_out_and_said_so(operator: Client, made: Pile) -> None:
    made.base("gone")
    made.tower("orphan", "above", on="gone")
    made.disks["gone"].path.unlink()
    made.base("other")
    made.child("o", "other")
    scan()
    page = folder(operator)
    text = words(page)
    assert "2 of 3 piles can be merged now" in text
    assert "Merge 2 of 3 piles, one after the other" in text
    assert "left out: see above what stands in its way" in text
    assert operator.post("/piles/merge", hidden(page) | DECLARED).status_code == 302
    job = jobs.run_now(Job.objects.get(kind=Job.Kind.PILE))
    assert job.status == Job.Status.SUCCEEDED
    assert content_of(made.path("vm")) == made.disks["e"].sha256
    assert content_of(made.path("other")) == made.disks["o"].sha256
    assert Path(made.path("orphan")).exists()


def test_the_declarations_are_asked_for(operator: Client, made: Pile) -> None:
    StorageRoot.objects.update(opened_by="hyper-v")
    page = folder(operator)
    assert "5 disks: The disk is a Hyper-V checkpoint by its name" in words(page)
    form = hidden(page)
    refused = operator.post("/piles/merge", form)
    assert refused.status_code == 422
    text = words(refused.content.decode())
    assert "Say that nobody has these disks open" in text
    assert "Say that the manager is stopped" in text
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()
    assert operator.post("/piles/merge", form | DECLARED).status_code == 302


@pytest.mark.parametrize("several", [False, True], ids=["one pile", "several"])
def test_what_cannot_be_read_is_named_and_must_be_declared_no_sibling(
    operator: Client, made: Pile, several: bool
) -> None:
    """bad-input D66: what the checkbox speaks of stands beside it, signed."""
    if several:
        made.child("x", "c")
    damaged = made.damaged()
    scan()
    page = folder(operator)
    assert "1 file or folder could not be read" in words(page)
    refused = operator.post("/piles/merge", hidden(page) | DECLARED)
    assert refused.status_code == 422
    assert "Say that none of these builds on a disk" in words(refused.content.decode())
    assert not Job.objects.exclude(kind=Job.Kind.SCAN).exists()
    box = re.search(r'name="unrelated" value="([^"]+)"', page)
    assert box
    declared = DECLARED | {"unrelated": box[1]}
    assert operator.post("/piles/merge", hidden(page) | declared).status_code == 302
    job = Job.objects.get(kind=Job.Kind.PILE if several else Job.Kind.MERGE)
    assert job.parameters["unrelated"] == [str(damaged)]
    assert jobs.run_now(job).status == Job.Status.SUCCEEDED


def test_a_disk_that_changed_since_gives_409_and_a_fresh_view(operator: Client, made: Pile) -> None:
    form = hidden(folder(operator)) | DECLARED
    os.utime(made.path("b"))
    answer = operator.post("/piles/merge", form)
    assert answer.status_code == 409
    page = answer.content.decode()
    assert "This has changed since you looked" in page
    assert operator.post("/piles/merge", hidden(page) | DECLARED).status_code == 302


def test_a_refused_pile_starts_nothing(operator: Client, made: Pile) -> None:
    form = hidden(folder(operator)) | DECLARED
    copy = made.folder / ("copy" + made.kind.checkpoint_ending)
    copy.write_bytes(Path(made.path("e")).read_bytes())
    scan()
    answer = operator.post("/piles/merge", form)
    assert answer.status_code in (409, 422)
    assert "the same disk twice" in words(answer.content.decode())
    assert not Job.objects.exclude(kind=Job.Kind.SCAN).exists()


def test_who_may_only_look_is_told_so_and_cannot_start_it(viewer: Client, made: Pile) -> None:
    page = folder(viewer)
    assert "This needs the role “operator”." in words(page)
    assert "offline" not in hidden(page)
    assert viewer.post("/piles/merge", hidden(page) | DECLARED).status_code == 403
    assert viewer.get("/piles/merge").status_code == 403
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()


def test_starting_asks_for_a_post(operator: Client, made: Pile) -> None:
    assert operator.get("/piles/merge").status_code == 405


def test_a_made_up_fingerprint_is_refused(operator: Client, made: Pile) -> None:
    form = hidden(folder(operator)) | DECLARED | {"seen": "{}"}
    assert operator.post("/piles/merge", form).status_code == 422


def test_htmx_gets_the_changing_part_alone(operator: Client, made: Pile) -> None:
    root = StorageRoot.objects.get()
    answer = operator.get(address(root=root.pk, folder="srv"), headers={"HX-Request": "true"})
    page = answer.content.decode()
    assert page.lstrip().startswith('<div id="pile">')
    assert "HX-Request" in answer["Vary"]
