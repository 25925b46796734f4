"""Every code of an error or a finding: what it means, and what a person does next."""

from __future__ import annotations

import os
import shlex
from typing import NamedTuple


class Code(NamedTuple):
    """title: what it means in a few words; advice: the next step, as a sentence.

    command  the same for who sits at a terminal, where that is another; {folder} is that of the
             file at fault
    """

    title: str
    advice: str
    command: str = ""


_RESTORE = "Restore the file from a backup; the console does not write to it."
_KEEP = "Nothing needs to be done."

CODES: dict[str, Code] = {
    # What the file is
    "E_TOO_SMALL": Code(
        "Too small to be a disk", "If it should be a disk, copy it here again; the copy broke off."
    ),
    "E_NO_FOOTER": Code(
        "Not a virtual disk",
        "If it should be a VHD, its end is missing: copy the file again or restore it. "
        "Disks of other formats than VHD and VHDX are not read by this version.",
    ),
    "E_AMBIGUOUS_FORMAT": Code(
        "Two formats at once",
        "Find out who made this file; it is not opened, because tools would disagree about it.",
    ),
    "E_FORMAT": Code("Unknown format", "Choose one of the formats that are listed."),
    "E_FILE_SIZE": Code(
        "Odd file size",
        "The file was probably cut off or something was appended: copy it again or restore it.",
    ),
    # Footer
    "E_FOOTER_CHECKSUM": Code("Footer damaged", _RESTORE),
    "E_FOOTER_END": Code(
        "Footer at the end damaged",
        "Repair footer writes the sound copy over the damage.",
    ),
    "E_FOOTER_FRONT": Code(
        "Footer copy at the beginning damaged",
        "Repair footer writes the sound copy over the damage.",
    ),
    "E_FOOTERS_LOST": Code("Both footers lost", _RESTORE),
    "E_FOOTERS_DIFFER": Code(
        "The two footers disagree",
        "Compare both in the raw view.",
    ),
    "E_NOTHING_TO_REPAIR": Code("Nothing to repair", _KEEP),
    "E_FOREIGN_JOURNAL": Code(
        "Another tool stopped halfway",
        "On the XenServer or XCP-ng host run “vhd-util revert” with this disk's journal file.",
    ),
    "E_TRAILING": Code(
        "Foreign bytes behind the disk",
        "Something was appended to the file. Copy the disk again from where it came.",
    ),
    "E_VERSION": Code("Unknown version", "The disk was made by a tool newer than this console."),
    "E_DISK_TYPE": Code("Unknown disk type", _RESTORE),
    "E_TYPE_CONFLICT": Code("Two types at once", _RESTORE),
    "E_SIZE": Code("Impossible size", _RESTORE),
    "E_IDENTITY": Code(
        "No identity",
        "Copy it to a new disk to give it an identity.",
    ),
    "E_SAVED_STATE": Code(
        "A saved machine uses this disk",
        "Resume and shut down the machine, or discard what was saved.",
    ),
    "W_SAVED_STATE": Code(
        "A saved machine uses this disk",
        "Resume and shut down the machine, or discard what was saved.",
    ),
    "W_OLD_FOOTER": Code(
        "Old Virtual PC footer", "Copy the disk to a new one to make it readable everywhere."
    ),
    "W_FEATURES": Code("Unknown features", _KEEP),
    "W_RESERVED": Code("Reserved bytes in use", _KEEP),
    "W_DATA_OFFSET": Code("Odd data offset", _KEEP),
    "W_GEOMETRY": Code(
        "Geometry and size disagree",
        "Tell QEMU to use the size: -o driver=vpc,force_size_calc=current_size.",
    ),
    "N_GEOMETRY": Code("Geometry is rounded otherwise", _KEEP),
    "N_HIDDEN": Code(
        "Hidden by XenServer or XCP-ng", "It is an inner part of a chain there; leave it to them."
    ),
    "N_CREATOR": Code("Unknown creator", _KEEP),
    "N_CREATION_TIME": Code("Odd creation time", _KEEP),
    "W_FILE_SIZE": Code("Longer than needed", _KEEP),
    # Header and blocks
    "E_DATA_OFFSET": Code("Header cannot be found", _RESTORE),
    "E_HEADER_CHECKSUM": Code("Header damaged", _RESTORE),
    "E_TABLE_OFFSET": Code("Block table cannot be found", _RESTORE),
    "E_BAT_SIZE": Code("Block table too small or too large", _RESTORE),
    "E_BLOCK_SIZE": Code("Impossible block size", _RESTORE),
    "E_BAT_IN_HEADER": Code("A block lies over the headers", _RESTORE),
    "E_BAT_PAST_EOF": Code("A block lies outside the file", _RESTORE),
    "E_BAT_OVERLAP": Code("Two blocks share one place", _RESTORE),
    "E_OVERLAP": Code("Structures overlap", _RESTORE),
    "E_TRUNCATED": Code(
        "The file was cut off",
        "Copy the file again from its origin or restore it; the part before the cut can be read.",
    ),
    "E_DAMAGED": Code("The disk is damaged", "Run a check to see what is wrong, and restore it."),
    # VHDX structures
    "E_VHDX_HEADER": Code("Headers damaged", _RESTORE),
    "E_VHDX_REGION": Code("Region table damaged", _RESTORE),
    "E_VHDX_METADATA": Code("Metadata damaged", _RESTORE),
    "E_VHDX_BAT": Code("Block table damaged", _RESTORE),
    "E_VHDX_LOG": Code(
        "Log damaged",
        "What it held is lost. Restore the file from a backup; the console does not write to it.",
    ),
    "E_LOG": Code("The log waits to be replayed", "Replay the log, then repeat the step."),
    "E_NOTHING_TO_REPLAY": Code("Nothing to replay", _KEEP),
    "E_REPLAY": Code(
        "The replay did not read back",
        "Look at the storage and at the disk's findings before anybody uses the disk.",
    ),
    "W_LOG": Code(
        "The log waits to be replayed",
        "Make sure that nobody has it open, and replay the log.",
    ),
    "W_HEADER_COPY": Code(
        "One header damaged",
        "Repair headers writes the sound one over the damage.",
    ),
    "W_REGION_COPY": Code(
        "One region table damaged",
        "Repair headers writes the sound one over the damage.",
    ),
    "W_REGIONS_DIFFER": Code("The two region tables differ", "Compare both in the raw view."),
    "N_HEADERS_EQUAL": Code("Both headers are the same", _KEEP),
    "N_HEADERS_DIFFER": Code("The headers name two identities", _KEEP),
    "N_REGION_REQUIRED": Code("Region not marked as required", _KEEP),
    "W_REGION_UNKNOWN": Code("Unknown region", _KEEP),
    "N_METADATA_ITEM": Code("Unknown metadata item", _KEEP),
    "W_VIRTUAL_DISK_ID": Code(
        "Different virtual disk ids",
        "Make sure that the parent is the right one.",
    ),
    "W_BAT_OFFSET": Code("Empty block with a place", "Compacting the disk mends it."),
    "W_BITMAP_UNUSED": Code("Sector bitmap that is not used", _KEEP),
    "W_LINKAGE2": Code("Second identity of the parent", _KEEP),
    "W_NEXT_HEADER": Code("Unknown second header", _KEEP),
    "W_BLOCK_SIZE": Code("Unusual block size", "Some tools may refuse it; copy to a new disk."),
    "W_BAT_SIZE": Code("Block table longer than needed", _KEEP),
    "N_BAT_SIZE": Code("Block table one entry longer", _KEEP),
    "W_BAT_BEYOND_SIZE": Code(
        "Blocks beyond the disk's end", "Compacting the disk drops what is never read."
    ),
    "W_SHORT_BLOCK": Code("Last block cut short", "Copy to a new disk; some tools refuse it."),
    "W_BITMAP_BEYOND_SIZE": Code("Marks beyond the disk's end", _KEEP),
    "W_CLEAR_SECTOR": Code(
        "Leftovers in unwritten sectors",
        "Compacting removes the leftovers.",
    ),
    "W_BATMAP": Code(
        "blktap's map is wrong", "Check the disk with “vhd-util check” before blktap merges it."
    ),
    "N_EMPTY_BLOCK": Code("Empty block", "Compacting gives its room back."),
    "N_UNUSED_SPACE": Code("Unused room in the file", "Compacting gives it back."),
    # Parent link
    "E_PARENT_MISSING": Code(
        "Parent not found",
        "Update the parent path: choose the disk that is offered, or bring the file back.",
    ),
    "E_PARENT_IDENTITY": Code(
        "Another disk lies where the parent should be",
        "Find the disk with the right identity. Content read through another one is wrong.",
    ),
    "E_PARENT_AMBIGUOUS": Code(
        "Several disks could be the parent",
        "Compare their last-written times and choose one; copies of one disk may have diverged.",
    ),
    "E_PARENT_UNREADABLE": Code(
        "Parent cannot be read", "Open the parent's own page to see what is wrong with it."
    ),
    "E_PARENT_SIZE": Code(
        "Child smaller than its parent", "Merge the chain to a new disk instead."
    ),
    "E_PARENT_FORMAT": Code("Parent of another format", "Choose one of the same format."),
    "E_PARENT_SECTOR_SIZE": Code(
        "Parent with other sectors", "Choose a parent with the same sector size."
    ),
    "E_RAW_PARENT": Code(
        "Raw parent",
        "Only blktap reads such a chain; coalesce it with “vhd-util” on the host it came from.",
    ),
    "E_NO_PARENT": Code("No parent given", "Name the parent of the new disk."),
    "E_NO_PARENT_NAME": Code(
        "The header names no parent", "Update the parent path and choose the parent by hand."
    ),
    "E_NOT_DIFFERENCING": Code("Not a differencing disk", "Choose a differencing disk."),
    "E_NOT_IN_CHAIN": Code("Not part of this chain", "Choose one of the disk's own ancestors."),
    "E_CYCLE": Code("The chain leads in a circle", "Give one of the disks its right parent again."),
    "E_CHAIN_DEPTH": Code(
        "Chain too long", "Merge its lower levels first: choose a disk that rests on fewer."
    ),
    "E_LOCATOR": Code("Parent locator unusable", "Updating the parent path writes a new one."),
    "E_LOCATOR_ENCODING": Code(
        "Parent locator's text damaged", "Updating the parent path writes a new one."
    ),
    "W_CHAIN_DEPTH": Code("Long chain", "Merge some levels."),
    "W_PARENT_SIZE": Code("Child larger than its parent", "Merge to a new disk."),
    "W_PARENT_NAME": Code("Parent name unusable", "Updating the parent path writes a new one."),
    "W_PARENT_NAMES_DIFFER": Code(
        "Different names for the parent", "Updating the parent path makes them agree."
    ),
    "W_PARENT_FIELDS": Code("Parent fields without a parent", _KEEP),
    "W_PARENT_TIMESTAMP": Code("Recorded time in the future", _KEEP),
    "W_PARENT_WRITTEN": Code(
        "Parent written after its child",
        "If the parent was started or changed, its children are damaged: compare with a backup.",
    ),
    "W_PARENT_ELSEWHERE": Code(
        "Parent found at another place", "Update the parent path so that Windows finds it too."
    ),
    "W_LOCATOR_CODE": Code("Unknown kind of locator", _KEEP),
    "W_LOCATOR_TWICE": Code("Locator twice", "Updating the parent path leaves one of each."),
    "N_LOCATOR_SPACE": Code("Odd space of a locator", _KEEP),
    "N_LOCATOR_SLOT": Code("Leftovers in a free slot", _KEEP),
    "N_PARENT_TIMESTAMP": Code("Parent's time is another", _KEEP),
    "N_PARENT_TWINS": Code("Copies of the parent exist", "Keep copies out of the storage roots."),
    "N_TWINS": Code("Copies with the same identity", "Keep copies out of the storage roots."),
    # Files and storage
    "E_NOT_FOUND": Code(
        "File not found",
        "Look whether it was moved; scan the storage root.",
        "Look whether it was moved.",
    ),
    "E_NOT_A_FILE": Code("Not a plain file", "Choose a plain file: no folder, pipe or device."),
    "E_NAME": Code("Name not allowed", "Choose a name that Windows and this system both accept."),
    "E_OUTSIDE_ROOTS": Code(
        "Outside of the storage roots",
        "Declare a storage root that covers it, with the path as Windows sees it.",
        "Name its folder with --root, or with --map as Windows sees it.",
    ),
    "E_UNMAPPED": Code(
        "Windows path not mapped",
        "Add this drive or share to a storage root's Windows views.",
        "Add a --map for this drive or share, like --map 'C:\\VMs=/srv/vms'.",
    ),
    "E_ACCESS": Code("No permission", "Give the console's service account access to the file."),
    "E_IO": Code("The storage failed", "Look at the storage and its connection, then try again."),
    "E_NOSPC": Code("The storage is full", "Free some room, or empty the trash, and try again."),
    "E_TOO_LARGE": Code(
        "Too large",
        "Choose a smaller size, another format, or a file system that holds such a file.",
    ),
    "E_SECTOR_SIZE": Code(
        "Sectors of another size", "Convert within the format, or to a plain image."
    ),
    "E_READ_ONLY": Code(
        "Read-only",
        "Tell in the storage root who opens its disks, or mount it writable.",
        "Mount it writable.",
    ),
    "E_RANGE": Code("Beyond the disk's end", "Ask for sectors inside the virtual size."),
    "E_IN_USE": Code("In use", "Shut that down, or detach the disk there, and try again."),
    "E_LOCKED": Code("Locked by another job", "Wait until that job has ended, then try again."),
    "E_NO_LOCKS": Code("Locks do not work here", "Mount it in a way that has them."),
    "E_CHANGED": Code("Changed in the meantime", "Look at the disk again and repeat the step."),
    "E_EXISTS": Code("Name already taken", "Choose another name, or move that file away."),
    "E_HARD_LINKS": Code(
        "The file has a second name", "Remove the other hard link, or work on a copy."
    ),
    "W_HARD_LINKS": Code(
        "The file has a second name", "Remove the other hard link, if it is not needed."
    ),
    "E_OWNER": Code(
        "Owner and rights would be lost", "Merge to a new disk and set its rights yourself."
    ),
    "E_UNFINISHED": Code(
        "Unfinished work",
        "Open the Jobs page: resume the job of this disk, or try it again. What no job there began "
        "is put right by the console itself within minutes; a merge that was stopped at a "
        "terminal is finished from the page of its disk.",
        "Finish or undo it first: “manage.py disk recover {folder}”.",
    ),
    "W_HALF_MERGED": Code(
        "Unfinished merge",
        "Resume its job, or finish it from the page of this disk.",
    ),
    "E_SIDECAR": Code("Record of a job damaged", "Ask for help; do not delete the record."),
    "E_NEEDS_ATTENTION": Code("Needs a person", "Read the record beside the disk and decide."),
    "E_MANAGED": Code(
        "Another manager knows this disk",
        "If it is stopped, or does not know the disk any more, declare that.",
        "If it is stopped, or does not know the disk any more, declare that with --offline.",
    ),
    "E_NOT_OFFLINE": Code(
        "Not declared offline",
        "Shut the machines down and declare that nobody has it open.",
        "Shut the machines down and declare with --offline that nobody has it open.",
    ),
    "E_FIXED": Code("A fixed disk", "Copy it into a dynamic disk if it shall take less room."),
    "E_SIBLINGS": Code(
        "Other disks would be ruined",
        "Merge to a new disk: it leaves every existing file as it is.",
    ),
    "E_CHILDREN": Code(
        "Other disks build on it",
        "Expand the lowest disk of the chain instead, or create a child disk and expand that.",
    ),
    "E_RELINK": Code(
        "Parent links would break",
        "Let them be rewritten in the same job, or name the disks that may break.",
        "Let them be rewritten with --relink, or name the disks that may break with --breaks.",
    ),
    "E_SHRINK": Code(
        "Not larger than it is",
        "Choose a larger size. To make a disk smaller, shrink its partitions in the machine and "
        "copy them to a new disk.",
    ),
    "E_SECTORS": Code("No whole sectors", "Choose a size that is a multiple of the sector size."),
    "E_UNREAD_DISKS": Code(
        "Disks that cannot be read may be ruined",
        "Once they can be read, scan their storage root; then plan the merge again.",
        "Make them readable, or name with --unrelated those that build on no merged disk.",
    ),
    "E_PROOF": Code(
        "The copy differs from its source",
        "Check memory and storage, then try again.",
    ),
    "E_TRASH": Code("Trash cannot do this", "Look into the trash folder of that storage root."),
    "E_RESTORE_CHILDREN": Code(
        "Newer disks would lose their parent",
        "Merge them to new disks and move the old files away, or leave the result as it is.",
    ),
    "E_ROOT_PATH": Code("Folder not allowed", "Choose a folder below those the settings allow."),
    "E_ROOT_EXISTS": Code("Already declared", "Use the storage root that covers this folder."),
    "E_ROOT_OFFLINE": Code("Storage offline", "Mount the storage, then scan it."),
    "E_ROOT_CHANGED": Code("Another storage is mounted", "Mount the right one, then scan it."),
    "E_ROOT_BUSY": Code("Storage root in use", "Wait until its jobs have ended."),
    # Updating a parent path
    "E_NOTHING_TO_UNDO": Code("No update on record", "Update the parent path instead."),
    "E_LINK_CHANGED": Code(
        "The link was changed since", "Look at the link as it is now, and update it if it is wrong."
    ),
    "E_NO_WINDOWS_PATH": Code(
        "Windows would not find the parent",
        "Give the parent's storage root a Windows view, or type its Windows path.",
        "Add a --map for that folder, or give the parent's own path with --windows-path.",
    ),
    "E_VERIFY": Code(
        "The change did not read back",
        "Check the disk and its parent, then try again.",
    ),
    "W_PARENT_IDENTITY": Code(
        "Another disk as parent", "Go on only if both disks held the same content."
    ),
    "W_PARENT_TWIN": Code(
        "Copies of the parent exist",
        "Compare when they were last written, and choose the right one.",
    ),
    "W_RECENT_WRITE": Code("Written a moment ago", "Make sure that no machine has the disk open."),
    "W_IN_USE": Code("Open elsewhere now", "Shut down the virtual machine that uses the disk."),
    "W_RELATIVE_ASSUMED": Code(
        "Relative path assumed",
        "Give both storage roots their Windows views, so that the path is computed for Windows.",
    ),
    "W_CHAIN_BROKEN_ABOVE": Code(
        "Still broken further up", "Repair the parent's own parent path, too."
    ),
    "N_NO_WINDOWS_VIEW": Code(
        "No Windows view",
        "Give the storage root a Windows view if Windows shall find it from afar.",
    ),
    "N_NO_RELATIVE_PATH": Code("Different drives", _KEEP),
    # Checkpoint piles
    "E_TWINS": Code(
        "One disk is there twice",
        "Move the copy out of the storage roots, then look again.",
    ),
    "E_NO_PILE": Code(
        "Not a pile of checkpoints", "Look at the folder again: its disks may have been merged."
    ),
    # Jobs
    "E_CANCELLED": Code("Cancelled", "Start it again when you like."),
    "E_STOPPED": Code("Stopped", "Resume it on the Jobs page.", "Resume it with “disk recover”."),
    "E_TOO_LATE": Code("Too late to cancel", "The work is being finished; it can be undone after."),
    "E_BUSY": Code("Busy", "Try again in a moment."),
    "E_WORKER_LOST": Code("The worker died", "Try again: what is left is done then."),
    "E_NOT_ENDED": Code("Job has not ended", "Wait for its end."),
    "E_NOT_ACTIVE": Code("Job is not running", "Look at its result."),
    "E_NOT_PAUSABLE": Code(
        "Job cannot be paused", "Let it end, or cancel it: that leaves every file as it was."
    ),
    "E_HELD": Code(
        "As many jobs are held as may be",
        "Resume or cancel one of them first: each keeps a worker waiting.",
    ),
    "E_HOURS": Code("Hours not understood", "Give them like 22:00-06:00, or leave them empty."),
    "E_NOT_PAUSED": Code("Job is not paused", "Look at its state."),
    "E_IDEMPOTENCY": Code("Form already used", "Open the form again for another job."),
    "E_NOTHING_CHOSEN": Code("Nothing chosen", "Choose at least one row and send the form again."),
    "E_NOT_IN_TRASH": Code("Not in the trash any more", "Look whether it was restored already."),
    "N_PUT_AWAY": Code("Put away", "Restore the whole job from the trash to get it back."),
    "E_NOT_ALLOWED": Code("Not allowed for your role", "Ask an administrator to do this."),
    "E_NOT_CONFIRMED": Code("Not confirmed", "Type the disk's name exactly as it is shown."),
    "E_INTERNAL": Code("Internal error", "The log has the details; please report it."),
}


def advice(code: str) -> str:
    """What to do about a code; a general sentence for one that is not listed."""
    known = CODES.get(code)
    return known.advice if known is not None else "Read the message; run a check of the disk."


def command(code: str, file: str | None) -> str:
    """What to do about a code at a terminal; file: the one at fault."""
    known = CODES.get(code)
    words = known.command if known is not None and known.command else advice(code)
    return words.replace("{folder}", shlex.quote(os.path.dirname(file or "") or "DIR"))


def title(code: str) -> str:
    """A few words for a code; the code itself for one that is not listed."""
    known = CODES.get(code)
    return known.title if known is not None else code
