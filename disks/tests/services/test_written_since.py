"""A parent that was written after its child was made: told from another disk, and what is known."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from disks.engine.errors import ImageError
from disks.models import AuditEntry, Disk, ParentLink, StorageRoot
from disks.services import overview, parent_candidates, parent_paths
from disks.services.errors import Refusal
from disks.tests.builders import BuiltVhdx
from disks.tests.factories import make_user
from disks.tests.services.catalog import base, child, declare, disk, key, scan, touch

pytestmark = pytest.mark.django_db(transaction=True)


def write_to(built: BuiltVhdx) -> str:
    """As Windows does it when somebody mounts the disk: new GUIDs, another time. The new one."""
    new = uuid.uuid4()
    other = 3 - built.current
    built.patch_header(
        other,
        sequence_number=built.header(built.current)["sequence_number"] + 1,
        data_write_guid=new.bytes_le,
        file_write_guid=uuid.uuid4().bytes_le,
    )
    touch(built.path)
    return str(new)


@pytest.fixture
def chain(tmp_path: Path) -> tuple[StorageRoot, BuiltVhdx]:
    """base.vhdx, its child and a grandchild, seen by a scan."""
    root = declare(tmp_path / "vms", "C:\\VMs")
    bottom = base(tmp_path / "vms", "base.vhdx")
    middle = child(tmp_path / "vms", "middle.vhdx", bottom)
    child(tmp_path / "vms", "leaf.vhdx", middle)
    scan(root)
    assert disk("leaf.vhdx").health == Disk.Health.HEALTHY
    assert isinstance(bottom, BuiltVhdx)
    return root, bottom


def test_it_is_the_same_disk_with_other_content_and_not_another_one(
    chain: tuple[StorageRoot, BuiltVhdx],
) -> None:
    """Where Windows only says that identifiers do not match."""
    root, bottom = chain
    new = write_to(bottom)
    scan(root)
    middle = disk("middle.vhdx")
    link = middle.parent_link
    assert (middle.health, middle.health_code) == ("broken", "E_PARENT_IDENTITY")
    assert (link.status, link.cause) == ("identity-mismatch", f"rewritten:{bottom.identity}")
    assert middle.sentence == (
        "The parent is not as it was: this disk names C:\\VMs\\base.vhdx. base.vhdx is that disk "
        "by its virtual disk id, but its content is another one: it was written after this disk "
        "was made, or an older copy was put in its place. No disk with the identity "
        f"{bottom.identity} is known."
    )
    assert link.status_words == "Written since"
    told = link.parent_evidence["written"]
    assert told["disk"] == disk("base.vhdx").pk
    assert told["changes"][0] == (f"its DataWriteGuid was {bottom.identity} and is {new} now")
    assert told["changes"][1].startswith("it was last written ")
    assert "identity-mismatch" in {step["verdict"] for step in link.trace if step.get("same_chain")}
    (group,) = overview.broken_groups()
    assert (group.count, group.above, group.kind) == (1, 1, "rewritten")
    assert group.sentence == (
        "1 disk names a base whose content is another one by now: C:\\VMs\\base.vhdx"
    )
    assert disk("leaf.vhdx").health == Disk.Health.BROKEN


def test_a_really_other_disk_in_its_place_is_said_to_be_one(
    chain: tuple[StorageRoot, BuiltVhdx], tmp_path: Path
) -> None:
    root, bottom = chain
    bottom.path.unlink()
    base(tmp_path / "vms", "base.vhdx")
    scan(root)
    link = disk("middle.vhdx").parent_link
    assert (link.status, link.status_words) == ("identity-mismatch", "")
    assert link.cause.startswith("replaced:")
    assert "is another disk" in link.reason


def test_the_parent_as_it_was_is_offered_where_a_copy_of_it_lies(
    chain: tuple[StorageRoot, BuiltVhdx], tmp_path: Path
) -> None:
    """The second answer beats the third: a backup with the right identity mends it safely."""
    root, bottom = chain
    (tmp_path / "vms" / "backup").mkdir()
    backup = tmp_path / "vms" / "backup" / "base.vhdx"
    backup.write_bytes(bottom.path.read_bytes())
    write_to(bottom)
    scan(root)
    link = disk("middle.vhdx").parent_link
    assert link.suggested == Disk.objects.get(relative_path="backup/base.vhdx")
    assert link.reason.endswith("A disk with the right identity lies at backup/base.vhdx.")
    best = parent_candidates.candidates_for(disk("middle.vhdx"))
    assert [(one.path, one.verdict) for one in best] == [
        (str(backup), "match"),
        (str(bottom.path), "identity-mismatch"),
    ]
    assert "is of the child's own chain by its virtual disk id" in best[1].reasons[0]


def test_what_was_put_back_ends_it(chain: tuple[StorageRoot, BuiltVhdx]) -> None:
    root, bottom = chain
    before = bottom.path.read_bytes()
    write_to(bottom)
    scan(root)
    bottom.path.write_bytes(before)
    scan(root)
    middle = disk("middle.vhdx")
    assert middle.health == Disk.Health.HEALTHY
    assert "written" not in middle.parent_link.parent_evidence


def test_a_parent_never_seen_before_has_no_before(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    bottom = base(tmp_path / "vms", "base.vhdx")
    child(tmp_path / "vms", "leaf.vhdx", bottom)
    assert isinstance(bottom, BuiltVhdx)
    write_to(bottom)
    scan(root)
    told = disk("leaf.vhdx").parent_link.parent_evidence["written"]
    assert told["changes"] == []
    assert "first" not in told


def test_only_an_administrator_can_take_it_all_the_same_and_the_audit_has_both_identities(
    chain: tuple[StorageRoot, BuiltVhdx],
) -> None:
    root, bottom = chain
    new = write_to(bottom)
    scan(root)
    middle, target = disk("middle.vhdx"), str(bottom.path)
    with pytest.raises(ImageError) as refused:
        parent_paths.plan(middle, target)
    assert refused.value.code == "E_PARENT_IDENTITY"
    assert "By its virtual disk id it is of this disk's own chain" in refused.value.message
    with pytest.raises(Refusal) as denied:
        parent_paths.request_update(
            middle, target, user=make_user(), idempotency_key=key(), ignore_identity=True
        )
    assert denied.value.code == "E_NOT_ALLOWED"
    planned = parent_paths.plan(middle, target, ignore_identity=True)
    (warning,) = [one for one in planned.warnings if one.code == "W_PARENT_IDENTITY"]
    assert bottom.identity in warning.message
    assert "may be damaged without a sign" in warning.message
    before = disk("leaf.vhdx").identity, disk("middle.vhdx").identity
    job = forced(middle, target)
    assert job.status == "succeeded"
    middle = disk("middle.vhdx")
    assert middle.parent_link.status == ParentLink.Status.FOUND
    # It reads again, and the doubt stays until somebody says that it is right.
    assert (middle.health, middle.health_code) == ("suspect", "W_PARENT_WRITTEN")
    assert (disk("leaf.vhdx").identity, middle.identity) == before
    line = AuditEntry.objects.get(action="parent-updated")
    assert line.sentence == (
        "Updated the parent path of middle.vhdx, and its parent's identity from "
        f"{bottom.identity} to {new}."
    )
    assert (line.before["identity"], line.after["identity"]) == (bottom.identity, new)


def forced(middle: Disk, target: str) -> Any:
    return parent_paths.request_update(
        middle,
        target,
        user=make_user(is_superuser=True),
        idempotency_key=key(),
        ignore_identity=True,
    )


def test_a_mounted_parent_that_was_not_written_stays_right(
    chain: tuple[StorageRoot, BuiltVhdx],
) -> None:
    """Windows gives it another FileWriteGuid and time; the DataWriteGuid says: nothing new."""
    root, bottom = chain
    bottom.patch_header(
        3 - bottom.current,
        sequence_number=bottom.header(bottom.current)["sequence_number"] + 1,
        file_write_guid=uuid.uuid4().bytes_le,
    )
    touch(bottom.path)
    scan(root)
    assert disk("middle.vhdx").health == Disk.Health.HEALTHY
    assert not disk("middle.vhdx").parent_link.parent_written_after


def test_the_place_beside_the_child_is_told_when_the_path_leads_nowhere(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    bottom = base(tmp_path / "vms", "base.vhdx")
    assert isinstance(bottom, BuiltVhdx)
    names = [
        ("parent_linkage", f"{{{bottom.identity}}}"),
        ("absolute_win32_path", "D:\\old\\base.vhdx"),
    ]
    child(tmp_path / "vms", "leaf.vhdx", bottom, locator=names)
    write_to(bottom)
    scan(root)
    link = disk("leaf.vhdx").parent_link
    assert link.status == "missing"
    assert link.reason.endswith(
        "base.vhdx is that disk by its virtual disk id, but its content is another one: it was "
        "written after this disk was made, or it is an older copy."
    )
    assert link.parent_evidence["written"]["disk"] == disk("base.vhdx").pk
