"""Who else looks after a disk, told from the files that lie beside it.

Hyper-V, backup software, Citrix PVS, FSLogix and XenServer keep books about their disks
of their own. Changing one behind their back can cost a machine its checkpoints or a
backup its increments, so writing asks for one declaration more (product.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

_CHECKPOINT = (".avhd", ".avhdx")
_MACHINE = (".vmcx", ".vmrs", ".vsv", ".xml")
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UUID_DISK = re.compile(rf"{_UUID}\.vhdx?")
_CHECKPOINT_END = re.compile(rf"{_UUID}\.avhdx?")
_CHECKPOINT_STEM = re.compile(rf"_{_UUID}$")
_FSLOGIX_ENDS = (".rw", "_rw", "-rw")


# Codes that say what a disk is, but not that somebody still looks after it: a checkpoint
# by its name alone, and files that backups of a machine that is gone left behind.
NO_CLAIM = frozenset({"hyper-v-checkpoint", "change-tracking"})


# What lies beside a managed disk: the rest of a folder's names says nothing, and there can be a
# million of them.
_TELLING = (
    *(".avhd", ".avhdx", ".vhds", ".vmcx", ".vmrs", ".vsv", ".xml", ".rct", ".mrt", ".pvp"),
    ".lok",
)


def is_telling(name: str) -> bool:
    """Whether a name in a folder can say who manages its disks."""
    return name.lower().endswith(_TELLING)


@dataclass(frozen=True, slots=True)
class Manager:
    """code: stable word; sentence: what was found; way_out: the manager's own way."""

    code: str
    sentence: str
    way_out: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def manager_of(folder_listing: Iterable[str], name: str, *, hidden: bool = False) -> Manager | None:
    """Who manages the disk of this name in a folder with these names; None if nobody shows.

    hidden: the disk carries blktap's hidden byte.
    """
    own = name.casefold()
    stem, extension = os.path.splitext(own)
    disk = _Disk(own, stem, extension, {entry.casefold() for entry in folder_listing}, hidden)
    for rule in _RULES:
        found = rule(disk)
        if found is not None:
            return found
    return None


class _Disk(NamedTuple):
    """A disk's name, taken apart, and what else its folder holds; case does not count."""

    own: str
    stem: str
    extension: str
    names: set[str]
    hidden: bool


def _vhd_set(disk: _Disk) -> Manager | None:
    stems = (disk.stem, _CHECKPOINT_STEM.sub("", disk.stem)) if disk.names else ()
    if disk.own.endswith(".vhds") or any(f"{stem}.vhds" in disk.names for stem in stems):
        return Manager(
            "vhd-set",
            "The disk belongs to a VHD Set (a .vhds file lies beside it): several machines can "
            "share it, and Hyper-V keeps its checkpoints.",
            "Work on it with Hyper-V: Optimize-VHDSet, Remove-VHDSnapshot.",
        )
    return None


def _checkpoint(disk: _Disk) -> Manager | None:
    if disk.extension in _CHECKPOINT:
        machine = any(entry.endswith(_MACHINE) for entry in disk.names)
        seen = " and a machine's files lie beside it" if machine else ""
        return Manager(
            "hyper-v-machine" if machine else "hyper-v-checkpoint",
            f"The disk is a Hyper-V checkpoint by its name (.avhd, .avhdx){seen}.",
            "If the machine still exists, delete the checkpoint in Hyper-V Manager, which merges "
            "it. Work on the file only when Hyper-V does not know it any more.",
        )
    if not disk.names:
        return None
    begin = f"{disk.stem}_"
    beside = [entry for entry in disk.names if entry.startswith(begin)]
    if any(_CHECKPOINT_END.fullmatch(entry, len(begin)) for entry in beside):
        return Manager(
            "hyper-v-checkpoint",
            "A Hyper-V checkpoint of this disk lies beside it.",
            "Delete the checkpoint in Hyper-V Manager, which merges it into this disk.",
        )
    return None


def _change_tracking(disk: _Disk) -> Manager | None:
    if disk.names and (f"{disk.own}.rct" in disk.names or f"{disk.own}.mrt" in disk.names):
        return Manager(
            "change-tracking",
            "Hyper-V tracks this disk's changes for backups (.rct and .mrt files lie beside it).",
            "After a change behind its back the next backup must be a full one: plan it.",
        )
    return None


def _provisioning(disk: _Disk) -> Manager | None:
    if not disk.names:
        return None
    is_locked = f"{disk.stem}.lok" in disk.names or f"{disk.own}.lok" in disk.names
    if is_locked or f"{disk.stem}.pvp" in disk.names:
        locked = " and in use (.lok)" if is_locked else ""
        return Manager(
            "citrix-pvs",
            f"The disk is a vDisk of Citrix Provisioning (.pvp){locked}.",
            "Merge its versions in the Provisioning console, or take it out of the store first.",
        )
    return None


def _fslogix(disk: _Disk) -> Manager | None:
    is_named_so = disk.stem == "rw" or disk.stem.endswith(_FSLOGIX_ENDS)
    if is_named_so and disk.extension in (".vhd", ".vhdx"):
        return Manager(
            "fslogix",
            "The name is that of an FSLogix read-write session disk, which the clients merge "
            "themselves when the user signs out.",
            "Let the user sign in and out again; work on it only if that session is gone for good.",
        )
    return None


def _xcp_ng(disk: _Disk) -> Manager | None:
    if disk.hidden or _UUID_DISK.fullmatch(disk.own):
        why = "it is marked as hidden" if disk.hidden else "its name is a UUID"
        return Manager(
            "xcp-ng",
            f"The disk looks like one of a XenServer or XCP-ng storage repository: {why}.",
            "Use the repository's own coalescing, or export the disk first.",
        )
    return None


_Rule = Callable[[_Disk], Manager | None]
_RULES: tuple[_Rule, ...] = (
    _vhd_set,
    _checkpoint,
    _change_tracking,
    _provisioning,
    _fslogix,
    _xcp_ng,
)
