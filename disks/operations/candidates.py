"""Possible parents of a child, ranked: the identity first, then what speaks for a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations.headers import Header, headers_below
from disks.operations.paths import Roots

MATCH = "match"
MISMATCH = "identity-mismatch"
CYCLE = "cycle"

# Disks of another identity are only worth showing while somebody can read the list.
_MOST_MISMATCHES = 50


@dataclass(frozen=True, slots=True)
class Candidate:
    """verdict: `match`, `identity-mismatch` or `cycle`; reasons: sentences, best first."""

    path: str
    identity: str
    verdict: str
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": list(self.reasons)}


def candidates(
    child_path: str,
    roots: Roots,
    places: Iterable[str] = (),
    *,
    problems: list[ImageError] | None = None,
) -> list[Candidate]:
    """Disks below places (folders or files) that may be the parent, best first.

    Without places: the child's folder and the search folders. Every disk with the parent's
    identity is listed; of the others those of its chain, with its name or its size. Never
    offered: the child's own descendants, and what no declaration makes a parent, disks of
    another format or, of these others, with other sectors. E_NOT_DIFFERENCING for other disks.
    """
    searched = list(places) or [os.path.dirname(child_path), *roots.search]
    with roots.open(child_path) as file:
        child = open_image(file)
        parent = child.parent
        if parent is None:
            raise ImageError(
                "E_NOT_DIFFERENCING",
                f"{child_path} is a {child.disk_type} disk; only differencing disks have a parent.",
                file=child_path,
                field="disk_type",
                value=str(child.disk_type),
            )
        named = _names_in(child)
    headers = list(headers_below(roots, searched, problems=problems))
    descendants = descendants_of(child.identity, headers)
    ranked = []
    for header in headers:
        if header.path == child_path or header.identity in descendants:
            continue
        if header.format_name != child.format_name:
            continue
        reasons, score = _judge(header, child, named, os.path.dirname(child_path))
        if header.identity == parent.identity:
            first = "the identity that the child names: the same disk, its content is not proven"
            ranked.append((0, -score, header, MATCH, (first, *reasons)))
        elif score and _fits(header, child):
            first = "another identity than the child names"
            ranked.append((1, -score, header, MISMATCH, (*reasons, first)))
    ranked.sort(key=lambda row: (row[0], row[1], -row[2].mtime_ns, row[2].path))
    result = [
        Candidate(header.path, header.identity, verdict, reasons)
        for _, _, header, verdict, reasons in ranked
    ]
    matches = [one for one in result if one.verdict == MATCH]
    others = [one for one in result if one.verdict != MATCH]
    return matches + others[:_MOST_MISMATCHES]


def descendants_of(identity: str, headers: Iterable[Header]) -> set[str]:
    """Identities of a disk and of everything that builds on it, among these headers."""
    children: dict[str, list[str]] = {}
    for header in headers:
        if header.parent_identity:
            children.setdefault(header.parent_identity, []).append(header.identity)
    found: set[str] = set()
    waiting = [identity]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(children.get(current, ()))
    return found


def _fits(header: Header, child: Image) -> bool:
    """Whether a disk of another identity could be the parent, forced by an administrator."""
    return (
        header.virtual_size_bytes <= child.virtual_size_bytes
        and header.logical_sector_bytes == child.logical_sector_bytes
    )


def _names_in(child: Image) -> set[str]:
    """The file names by which the child's header calls its parent, case folded."""
    parent = child.parent
    if parent is None:
        return set()
    texts = [parent.name, *(locator.path for locator in parent.locators)]
    return {re.split(r"[\\/]", text)[-1].casefold() for text in texts if text} - {""}


def _judge(header: Header, child: Image, named: set[str], folder: str) -> tuple[list[str], int]:
    """What speaks for a file beside its identity, and how much; 0: nothing does."""
    reasons, score = [], 0
    if header.virtual_disk_id and header.virtual_disk_id == child.virtual_disk_id:
        reasons.append(
            "is of the child's own chain by its virtual disk id: the parent itself, written "
            "since or put back from an older copy, or another disk of that chain"
        )
        score += 6
    if os.path.basename(header.path).casefold() in named:
        reasons.append("has the file name that the child names")
        score += 4
    if header.virtual_size_bytes == child.virtual_size_bytes:
        reasons.append("has the child's size")
        score += 2
    elif header.virtual_size_bytes > child.virtual_size_bytes:
        reasons.append("is larger than the child, so it cannot be its parent")
        score -= 8
    if score > 0 and os.path.dirname(header.path) == folder:
        reasons.append("lies in the child's folder")
        score += 1
    return reasons, score
