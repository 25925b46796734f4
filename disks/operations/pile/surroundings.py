"""What else a folder holds beside its piles: branches, disks on which nothing builds, no disks."""

from __future__ import annotations

from typing import Any

from disks.operations.family import listed
from disks.operations.forest import Forest, Member
from disks.operations.inspection import moment_of
from disks.operations.survey import Survey


def branches(forest: Forest) -> list[dict[str, Any]]:
    """Every disk with several children, and what can be done about it."""
    rows = []
    for branch in forest.branches:
        newest = forest.newest(branch)
        count = len(branch.children)
        if branch.twins:
            why = "Some of them are copies of one disk: one of these is too many."
            way_out = "Move the copy that nobody needs out of the storage roots, then look again."
        else:
            why = "Merging one of them into it would ruin the others."
            way_out = (
                "Merge each leaf that is needed to a new disk, which leaves all others alone; or "
                "keep the branch. A leaf that nobody needs can be moved out of the storage roots."
            )
        guess = (
            f"The leaf last written is {newest}: probably the one that a machine uses."
            if newest
            else "Which leaf a machine uses cannot be told: the last two were written together."
        )
        rows.append(
            {
                "parent": branch.parent,
                "children": list(branch.children),
                "leaves": [member_as_dict(forest.members[path]) for path in branch.leaves],
                "newest": newest,
                "twins": list(branch.twins),
                "sentence": f"{count:,} disks build on {branch.parent}. {why} {guess}",
                "way_out": way_out,
            }
        )
    return rows


def strangers(found: Survey) -> list[dict[str, str]]:
    """Files in the folder that belong to no chain, each with the reason."""
    twins = found.forest.twins
    rows = []
    for one in found.forest.alone:
        reason = f"A {one.disk_type} disk on which nothing builds here."
        if one.path in twins:
            reason += f" It has the same identity as {listed(twins[one.path])}."
        rows.append({"path": one.path, "code": "", "reason": reason})
    rows += [
        {"path": str(error.file), "code": error.code, "reason": error.message}
        for error in found.no_disks
    ]
    return sorted(rows, key=lambda row: row["path"])


def member_as_dict(member: Member) -> dict[str, Any]:
    """A disk as the documents carry it."""
    by = "identity" if member.elsewhere else "header"
    return {
        "path": member.path,
        "identity": member.identity,
        "type": member.disk_type,
        "virtual_size_bytes": member.virtual_size_bytes,
        "file_size_bytes": member.file_size_bytes,
        "allocated_bytes": member.allocated_bytes,
        "modified": moment_of(member.mtime_ns),
        "outside": not member.inside,
        "parent_found_by": by if member.parent is not None else None,
    }
