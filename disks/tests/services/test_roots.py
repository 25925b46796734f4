"""Storage roots: declaring, trying out, changing, forgetting."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from disks.models import AuditEntry, Disk, Job, StorageRoot
from disks.services import root_declarations
from disks.services.errors import Refusal
from disks.tests.factories import make_job, make_user
from disks.tests.services.catalog import base, declare

pytestmark = pytest.mark.django_db

BROWSER = StorageRoot.DeclaredBy.BROWSER


def test_a_new_root_is_read_only_and_tried_out(tmp_path: Path) -> None:
    root = root_declarations.declare(
        path=str(tmp_path), declared_by=StorageRoot.DeclaredBy.COMMAND_LINE
    )
    assert root.read_only
    assert {key: root.probe[key] for key in ("readable", "writable", "locks", "hard_links")} == {
        "readable": True,
        "writable": True,
        "locks": True,
        "hard_links": True,
    }
    assert root.probe["ownership"] is True
    assert root.free_bytes > 0
    assert os.listdir(tmp_path) == []  # the probe leaves nothing behind, nor does declaring


def test_a_writable_root_gets_a_marker(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    assert (tmp_path / "vms" / ".vdroot").read_text().strip() == root.marker != ""


def test_the_browser_declares_only_below_allowed_folders(tmp_path: Path, settings: Any) -> None:
    """bad-input G103: what lies elsewhere is not told."""
    allowed = tmp_path / "allowed"
    (allowed / "vms").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (allowed / "link").symlink_to(tmp_path / "secret")
    settings.ROOTS_BELOW = [str(allowed)]
    assert root_declarations.declare(path=str(allowed / "vms"), declared_by=BROWSER).name == "vms"
    answers = set()
    for path in ("secret", "absent", "allowed/../secret", "allowed/link"):
        with pytest.raises(Refusal) as refused:
            root_declarations.declare(path=f"{tmp_path}/{path}", declared_by=BROWSER)
        answers.add((refused.value.code, refused.value.message))
    assert len(answers) == 1


def test_folders_of_the_system_are_refused() -> None:
    for path in ("/", "/proc", "/etc", "relative", "/dev/shm/.."):
        with pytest.raises(Refusal) as refused:
            root_declarations.declare(path=path, declared_by=StorageRoot.DeclaredBy.COMMAND_LINE)
        assert refused.value.code == "E_ROOT_PATH"


def test_changes_are_audited_before_and_after(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms", "D:\\VMs")
    user = make_user()
    says = root_declarations.Declaration(
        windows_views=["\\\\nas\\vms\\", "D:\\VMs"], read_only=True
    )
    root_declarations.change(root, says=says, user=user)
    line = AuditEntry.objects.get(action="root-change")
    assert line.before["windows_views"] == ["D:\\VMs"]
    assert line.after["windows_views"][0] == "\\\\nas\\vms"
    assert line.after["read_only"] is True
    with pytest.raises(Refusal) as refused:
        root_declarations.change(
            root, says=root_declarations.Declaration(windows_views=["not a windows path"])
        )
    assert refused.value.code == "E_NAME"


def test_a_root_is_not_removed_under_a_running_job(tmp_path: Path) -> None:
    """bad-input E80."""
    root = declare(tmp_path / "vms")
    job = make_job(root=root, status=Job.Status.RUNNING)
    with pytest.raises(Refusal) as refused:
        root_declarations.remove(root)
    assert refused.value.code == "E_ROOT_BUSY"
    Job.objects.filter(pk=job.pk).update(status=Job.Status.SUCCEEDED)
    root_declarations.remove(root)
    assert (tmp_path / "vms").is_dir()


def test_settings_declare_roots_and_are_followed(tmp_path: Path, settings: Any) -> None:
    (tmp_path / "vms").mkdir()
    row = {"name": "vms", "path": str(tmp_path / "vms"), "windows_views": ["C:\\VMs"]}
    settings.STORAGE_ROOTS = [row, {"name": "later", "path": str(tmp_path / "later")}]
    root_declarations.sync_from_settings()
    settings.STORAGE_ROOTS[0]["windows_views"] = ["E:\\VMs"]
    root_declarations.sync_from_settings()
    assert list(StorageRoot.objects.values_list("name", "state")) == [
        ("later", "offline"),
        ("vms", "new"),
    ]
    views = StorageRoot.objects.get(name="vms").windows_views
    assert list(views.values_list("prefix", flat=True)) == ["E:\\VMs"]


def test_the_commands_add_list_scan_and_remove(tmp_path: Path) -> None:
    base(tmp_path / "vms")
    out = StringIO()
    call_command("root", "add", str(tmp_path / "vms"), "--view", "C:\\VMs", stdout=out)
    call_command("root", "list", stdout=out)
    assert "vms: " in out.getvalue()
    assert "C:\\VMs" in out.getvalue()
    with pytest.raises(CommandError, match="--opened-by"):
        call_command("root", "set", "vms", "--writable")
    call_command("root", "set", "vms", "--writable", "--opened-by", "nobody", stdout=out)
    assert not StorageRoot.objects.get(name="vms").read_only
    call_command("root", "remove", "vms", stdout=out)
    assert not Disk.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_scan_command_runs_a_job(tmp_path: Path) -> None:
    declare(tmp_path / "vms")
    base(tmp_path / "vms")
    out = StringIO()
    call_command("scan", stdout=out)
    assert out.getvalue() == "1 disks seen, 1 new.\n"
    assert Job.objects.get().status == Job.Status.SUCCEEDED
