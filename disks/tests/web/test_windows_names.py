"""Files are shown as Windows names them, where a storage root says how; the host's path beside."""

from __future__ import annotations

import html
import re
import time

import pytest
from django.template.loader import render_to_string
from django.test import Client

from disks.models import Job
from disks.services import windows_names
from disks.templatetags.names import place, told
from disks.tests.factories import make_disk, make_job, make_root

pytestmark = pytest.mark.django_db


def plain(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html)


@pytest.fixture
def roots() -> None:
    make_root("/srv/vms", views=("C:\\VMs", "\\\\nas\\vms"))
    make_root("/srv/vms/far away", views=("\\\\nas\\far",))
    make_root("/mnt/plain")
    make_root("/srv/vms old")


@pytest.mark.usefixtures("roots")
@pytest.mark.parametrize(
    ("host", "windows"),
    [
        ("/srv/vms/Web server/base.vhd", "C:\\VMs\\Web server\\base.vhd"),
        ("/srv/vms/far away/base.vhd", "\\\\nas\\far\\base.vhd"),
        ("/srv/vms", "C:\\VMs"),
        ("/srv/vms2/base.vhd", "/srv/vms2/base.vhd"),
        ("/srv/vms/a:b.vhd", "/srv/vms/a:b.vhd"),  # no name that Windows could open
        ("/mnt/plain/base.vhd", "/mnt/plain/base.vhd"),
        ("C:\\elsewhere\\base.vhd", "C:\\elsewhere\\base.vhd"),
        ("folder/base.vhd", "folder/base.vhd"),
    ],
)
def test_a_path_is_named_by_the_preferred_view_of_its_root(host: str, windows: str) -> None:
    with windows_names.for_one_request():
        shown = place(host)
    assert plain(shown) == windows
    assert (f'title="{host}"' in shown) is (host != windows)


@pytest.mark.usefixtures("roots")
@pytest.mark.parametrize(
    ("host", "windows"),
    [
        (
            "/srv/vms/Web server/base.vhd was changed since the plan was made.",
            "C:\\VMs\\Web server\\base.vhd was changed since the plan was made.",
        ),
        (
            "An operation on /srv/vms/a b/My long name.VHDX, and and/or: /mnt/plain/x y.vhd.",
            "An operation on C:\\VMs\\a b\\My long name.VHDX, and and/or: /mnt/plain/x y.vhd.",
        ),
        ("There is no folder /srv/vms/nowhere.", "There is no folder C:\\VMs\\nowhere."),
        (
            "“/srv/vms/far away/x.vhd” and /srv/vms/y.vhd",
            "“\\\\nas\\far\\x.vhd” and C:\\VMs\\y.vhd",
        ),
        ("Mount /srv/vms again.", "Mount C:\\VMs again."),
        (
            "It is /srv/vms2/x.vhd, or /a/srv/vms/x.vhd.",
            "It is /srv/vms2/x.vhd, or /a/srv/vms/x.vhd.",
        ),
        (
            "It is /srv/vms-old/x.vhd, /srv/vms.2/x.vhd, or /srv/vms old/x.vhd.",
            "It is /srv/vms-old/x.vhd, /srv/vms.2/x.vhd, or /srv/vms old/x.vhd.",
        ),
        ("Look into “/srv/vms”, or (/srv/vms).", "Look into “C:\\VMs”, or (C:\\VMs)."),
        ("Nothing of the kind.", "Nothing of the kind."),
    ],
)
def test_paths_in_a_sentence_are_named_so_too(host: str, windows: str) -> None:
    with windows_names.for_one_request():
        assert plain(told(host)) == windows


@pytest.mark.usefixtures("roots")
@pytest.mark.parametrize(
    "name",
    [
        "x.vhd backup/disk of may.vhd",
        "“new” (2) [old]/ä, b; c.raw",
        "no extension at all/x y",
        "two.vhd.old",
    ],
)
def test_a_refusal_names_the_file_that_it_is_about_whatever_that_is_called(name: str) -> None:
    """Its end in the sentence is known, and not only guessed."""
    path, windows = f"/srv/vms/{name}", "C:\\VMs\\" + name.replace("/", "\\")
    message = f"{path} and {path}.bak: not on /srv/vms/other.vhd; {path}."
    error = {"code": "E_NOSPC", "message": message, "file": path}
    with windows_names.for_one_request():
        page = plain(render_to_string("components/error_panel.html", {"error": error}))
    start, _, rest = page.strip().removeprefix("This was refused").strip().partition(" and ")
    assert html.unescape(start) == windows
    assert html.unescape(rest).split("\n")[0].endswith(f"not on C:\\VMs\\other.vhd; {windows}.")


def test_what_comes_from_disks_stays_text() -> None:
    make_root("/srv/<b>", views=("C:\\A&B",))
    with windows_names.for_one_request():
        for shown in (place('/srv/<b>/"x.vhd'), told('Not /srv/<b>/"x.vhd')):
            assert "<b>" not in shown
            assert '"x' not in shown


@pytest.mark.usefixtures("roots")
@pytest.mark.parametrize("text", ["a", ".vhd", "/srv/vms", "/srv/vms/.vhd", "0123456-"])
def test_text_of_any_length_without_a_space_is_shown_at_once(text: str) -> None:
    began = time.process_time()
    with windows_names.for_one_request():
        told(text * (20_000 // len(text)))
    assert time.process_time() - began < 1  # some 20 ms; where it grows with the square: 4 s


def test_the_page_of_a_disk_tells_both_names(viewer: Client) -> None:
    root = make_root("/srv/vms", views=("C:\\VMs",))
    page = plain(viewer.get(f"/disks/{make_disk('a/x.vhd', root=root).pk}").content.decode())
    assert "C:\\VMs\\a\\x.vhd" in page
    assert "/srv/vms/a/x.vhd" in page


def test_a_job_tells_its_refusal_in_the_names_of_windows_and_the_hosts_path_beside(
    viewer: Client,
) -> None:
    make_root("/srv/vms", views=("C:\\VMs",))
    path = "/srv/vms/x.vhd of may/disk 1.raw"
    error = {"code": "E_CHANGED", "message": f"{path} was changed.", "file": path}
    job = make_job(
        Job.Kind.MERGE, status=Job.Status.FAILED, sentence=f"{path} was changed.", error=error
    )
    page = plain(viewer.get(f"/jobs/{job.pk}").content.decode())
    assert "C:\\VMs\\x.vhd of may\\disk 1.raw was changed." in page
    assert f"{path} was changed." not in page
    assert path in page
