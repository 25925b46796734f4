"""What can be done to a disk, and why not: the same list in every row menu and on its page.

The reasons are for people who look; the rules themselves are enforced by the services
and, under lock, by the operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from disks.models import Disk, StorageRoot
from disks.services import declarations
from disks.services.mending import MENDINGS, Mending
from disks.services.pile_catalog import LEAST_CHECKPOINTS
from disks.views.addresses import disk_address, page_address


@dataclass(frozen=True, slots=True)
class Action:
    """One verb for one disk.

    posts   the address changes something at once: a button in a form, not a link
    reason  why it is not possible now; empty when it is
    """

    key: str
    label: str
    icon: str
    url: str
    posts: bool = False
    reason: str = ""

    @property
    def possible(self) -> bool:
        return not self.reason


def actions_for(disk: Disk, *, may_operate: bool) -> list[Action]:
    """Every action of the product in its order; asks no query when root is selected along.

    What mends a disk (Replay log, Repair headers) is there for disks that need it only, the pile
    where there is one.
    """
    actions = []
    for key, label, icon, name, posts, why_not in _ACTIONS:
        if key in MENDINGS:
            if not MENDINGS[key].is_needed(disk):
                continue  # of no use to the thousands of disks that are sound
            label = MENDINGS[key].words_for(disk).label
        if key == "disk-pile" and disk.chain_depth <= LEAST_CHECKPOINTS:
            continue  # a chain, but no pile
        if key == "create":
            url = f"{page_address(name)}?parent={disk.pk}"
        else:
            url = disk_address(name, disk.pk)
        reason = "" if may_operate else "This needs the role “operator”."
        actions.append(Action(key, label, icon, url, posts, reason or why_not(disk)))
    return actions


def action(disk: Disk, key: str, *, may_operate: bool) -> Action:
    """One of them. StopIteration for one that this disk has not."""
    return next(one for one in actions_for(disk, may_operate=may_operate) if one.key == key)


def _why_not_read(disk: Disk) -> str:
    if disk.root.state in (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED):
        return f"Its storage root “{disk.root.name}” is offline."
    if disk.is_put_away:
        return "A job put it into the trash."  # which may be emptied by now
    if disk.health == Disk.Health.MISSING:
        return "The file is not there any more."
    return ""


def _why_not_copy(disk: Disk) -> str:
    """For what only reads the disk's content, as its log says where that waits."""
    return _why_unsound(disk) or _why_broken(disk)


def _why_not_use(disk: Disk) -> str:
    """For everything that needs a sound disk that nobody has open, and nothing waiting in it."""
    return _why_unsound(disk) or (declarations.LOG_WAITS if disk.log_waits else "")


def _why_unsound(disk: Disk) -> str:
    reasons = {
        Disk.Health.NOT_A_DISK: "This file is not a disk.",
        Disk.Health.UNREADABLE: "The file cannot be read.",
        Disk.Health.IN_USE: "Somebody has this disk open.",
        Disk.Health.DAMAGED: "The disk is damaged; its findings say where.",
    }
    return _why_not_read(disk) or reasons.get(Disk.Health(disk.health), "")


def _why_not_write(disk: Disk) -> str:
    return _why_not_use(disk) or _why_read_only(disk)


def _why_read_only(disk: Disk) -> str:
    if not disk.root.read_only:
        return ""
    return f"The storage root “{disk.root.name}” is read-only; an administrator can change it."


def _why_not_relink(disk: Disk) -> str:
    if disk.disk_type and disk.disk_type != "differencing":
        return "Only a differencing disk has a parent."
    return _why_not_write(disk)


def _why_not_mend(what: Mending) -> Callable[[Disk], str]:
    return lambda disk: _why_not_read(disk) or _why_read_only(disk) or what.why_not(disk)


def _why_not_merge(disk: Disk) -> str:
    if disk.disk_type and disk.disk_type != "differencing":
        return "Only a differencing disk can be merged."
    return _why_not_use(disk) or _why_broken(disk)


def _why_not_compact(disk: Disk) -> str:
    if disk.disk_type == "fixed":
        return "A fixed disk has no blocks to give back."
    return _why_not_write(disk) or _why_broken(disk)


def _why_not_parent(disk: Disk) -> str:
    return _why_not_use(disk) or _why_broken(disk)


def _why_not_expand(disk: Disk) -> str:
    # Children are no reason here: the form lists them, with the way out.
    return _why_not_write(disk) or _why_broken(disk)


def _why_not_move(disk: Disk) -> str:
    # A log that waits, or a broken chain, allows a new name in the same folder.
    return _why_unsound(disk) or _why_read_only(disk)


def _why_not_delete(disk: Disk) -> str:
    """A damaged disk may go; children are no reason here: the form names them."""
    if disk.health in (Disk.Health.NOT_A_DISK, Disk.Health.IN_USE):
        return _why_unsound(disk)
    return _why_not_read(disk) or _why_read_only(disk)


def _why_broken(disk: Disk) -> str:
    if disk.health != Disk.Health.BROKEN:
        return ""
    if disk.chain_position > 1:  # its own parent was found: nothing to update here
        return "Its chain is broken further down: mend the disk at fault first."
    return "Its chain is broken: update the parent path first."


# key, label, icon, name of its address, whether it posts, why it is not possible
_ACTIONS: tuple[tuple[str, str, str, str, bool, Callable[[Disk], str]], ...] = (
    *((key, "", one.icon, one.address, False, _why_not_mend(one)) for key, one in MENDINGS.items()),
    ("parent-path", "Update parent path", "link", "parent-path", False, _why_not_relink),
    ("merge", "Merge", "git-merge", "merge", False, _why_not_merge),
    ("disk-pile", "Merge checkpoint pile", "stack-2", "disk-pile", False, _why_not_read),
    ("compact", "Compact", "arrows-minimize", "compact", False, _why_not_compact),
    ("convert", "Convert", "transform", "convert", False, _why_not_copy),
    ("expand", "Expand", "arrows-maximize", "expand", False, _why_not_expand),
    ("create", "Create child disk", "plus", "create", False, _why_not_parent),
    ("copy", "Copy", "copy", "copy", False, _why_not_copy),
    ("move", "Move or rename", "arrow-right", "move", False, _why_not_move),
    ("delete", "Delete", "trash", "delete", False, _why_not_delete),
    ("check", "Check", "shield-check", "check", True, _why_not_read),
)
