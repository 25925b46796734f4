"""What interrupted operations left behind, and the ways in which a fuzzer's bytes change it.

Recovery believes a record only as far as the files beside it bear it out, so these are records
of real disks, left by real operations that died, and come back inodes and all after each input.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disks.engine import faults
from disks.operations import compact, copy_chain, delete, merge, move, relink
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.tests.builders import VHD, Family
from disks.tests.fuzz.damage import Bytes
from disks.tests.operations import worlds
from disks.tests.operations.dying import DIED, Work, die_at
from disks.tests.operations.frozen import Contents, Frozen

_RECORD = re.compile(r"\..+\.vd(undo|job|merge|compact)")
_HEAD = re.compile(rb"VDADMIN-SIDECAR 1 (\w+) [0-9a-f]{8}\n")
_MOST_CHANGES = 6
_PAGES_HEAD_BYTES = 44  # of the old pages of a batch: magic, checksum of all behind it, numbers
_STRANGER = "stranger.vhd"  # a disk that no record names, whatever is in it
_VALUES: list[Any] = [
    None, True, 0, -1, 1, 512, 2**31, 2**63, 2**64, 1e308, float("inf"), "", ".", "..", "/",
    "\0", "\ud800", _STRANGER, "../outside.vhd", "leaf.vhd", ".vdtrash", "a" * 300, [], {}, [None],
    {"": None}, [0, 0], "AAAA",
]  # fmt: skip


Do = Callable[[Path, Roots, Family], object]


@dataclass(frozen=True)
class Left:
    """A folder that an operation died in; frozen: as it left it."""

    folder: Path
    frozen: Frozen

    def recover(self, data: Bytes) -> None:
        """Change what it left as the bytes say, then recover; AssertionError: what may not be."""
        stranger, outside = self.folder / _STRANGER, self.folder.parent / "outside.vhd"
        before = stranger.read_bytes(), outside.read_bytes()
        try:
            self._change(data)
            with self.frozen.kept():
                rows = recover(str(self.folder), worlds.roots_of(self.folder))
            assert [row for row in rows if row["code"] == "E_INTERNAL"] == []
            assert (stranger.read_bytes(), outside.read_bytes()) == before
        finally:
            assert self.frozen.thaw()

    def _change(self, data: Bytes) -> None:
        names = sorted(one for one in self.folder.rglob(".*") if _RECORD.fullmatch(one.name))
        pages = sorted(self.folder.glob(".*.vdpages"))
        for _ in range(_MOST_CHANGES):
            if not data:
                return
            which = data.number() % (len(names) + len(pages))
            if which < len(names):
                _change_record(names[which], data)
            else:
                _change_pages(pages[which - len(names)], data)


def all_left(folder: Path, family: Family) -> list[Left]:
    """Every operation that leaves a record, dead where it has most to say.

    Of a VHDX those alone whose records differ for it: it has a log of its own.
    """
    deaths = _DEATHS if family is VHD else _LOGGED_DEATHS
    return [_left(folder / str(number), family, *death) for number, death in enumerate(deaths)]


def _left(folder: Path, family: Family, work: Do, point: str) -> Left:
    place, spare = folder / "disks", folder / "spare"
    numbers: list[int] = []
    for _ in range(2):  # once to count the points, once to die
        shutil.rmtree(folder, ignore_errors=True)
        spare.mkdir(parents=True)
        worlds.chain(place, family=family, grandchild=True)
        for name in ("far", "empty"):
            (place / name).mkdir()
        shutil.copy(place / family.file("middle"), place / "far")
        for stranger in (place / _STRANGER, folder / "outside.vhd"):
            shutil.copy(place / family.file("base"), stranger)
        do = _bound(work, place, family)
        if not numbers:
            numbers.append(_number_of(point, do))
        else:
            assert die_at(numbers[0], do) == DIED
    return Left(place, Frozen((place,), (spare,), Contents()))


def _bound(work: Do, place: Path, family: Family) -> Work:
    return lambda: work(place, worlds.roots_of(place), family)


def _number_of(point: str, work: Work) -> int:
    """Which of the work's points is the first of that name."""
    names: list[str] = []
    faults.watch(lambda event: names.append(event.point))
    try:
        work()
    finally:
        faults.watch(None)
    return names.index(point) + 1


def _change_record(path: Path, data: Bytes) -> None:
    """Another value somewhere in a record, behind a right checksum."""
    raw = path.read_bytes()
    head = _HEAD.match(raw)
    if head is None:
        return
    rest = raw[head.end() :]
    start = (b"\n" + rest).index(b"\n{")
    record = json.loads(rest[start:])
    holder, key = _place(record, data)
    how = data.number()
    if how == 0:
        del holder[key]
    elif how < 64:
        other, its = _place(record, data)
        holder[key] = other[its]
    elif how < 128 and isinstance(holder[key], int):
        holder[key] += data.number(2) - 2**15
    else:
        holder[key] = _VALUES[how % len(_VALUES)]
    try:
        body = rest[:start] + json.dumps(record).encode() + b"\n"
    except ValueError:  # it would hold itself
        return
    path.write_bytes(b"VDADMIN-SIDECAR 1 %s %08x\n" % (head[1], zlib.crc32(body)) + body)


def _place(record: Any, data: Bytes) -> tuple[Any, Any]:
    """A container in the record, and one of its keys."""
    while True:
        keys = list(record) if isinstance(record, dict) else range(len(record))
        key = keys[data.number() % len(keys)]
        inner = record[key]
        if not isinstance(inner, dict | list) or not inner or data.number() % 4 == 0:
            return record, key
        record = inner


def _change_pages(path: Path, data: Bytes) -> None:
    """Other numbers before or among a batch's old pages, mostly behind a right checksum."""
    raw = bytearray(path.read_bytes())
    half = len(raw) // 2
    at = half * (data.number() & 1)
    place = at + 12 + data.number(2) % 4500
    piece = data.take(1 + data.number() % 8)
    raw[place : place + len(piece)] = piece
    count = int.from_bytes(raw[at + 12 : at + 16], "little")
    end = at + _PAGES_HEAD_BYTES
    for _ in range(min(count, 300)):
        end += 12 + int.from_bytes(raw[end + 8 : end + 10], "little")
    raw[at + 8 : at + 12] = zlib.crc32(raw[at + 12 : end]).to_bytes(4, "little")
    path.write_bytes(raw)


def _update(folder: Path, roots: Roots, family: Family) -> object:
    plan = relink.plan(
        str(folder / family.file("leaf")), str(folder / "far" / family.file("middle")), roots
    )
    return relink.apply(plan, roots, offline=True)


def _merge(*, in_place: bool) -> Do:
    def work(folder: Path, roots: Roots, family: Family) -> object:
        plan = merge.plan(
            str(folder / family.file("leaf")), roots, into_parent=True, in_place=in_place
        )
        return merge.apply(plan, roots, offline=True, job="7", token=1)

    return work


def _compact(folder: Path, roots: Roots, family: Family) -> object:
    return compact.apply(
        compact.plan(str(folder / family.file("base")), roots), roots, offline=True
    )


def _copy(folder: Path, roots: Roots, family: Family) -> object:
    plan = copy_chain.plan(
        str(folder / family.file("leaf")), str(folder / "empty"), roots, whole=True
    )
    return copy_chain.apply(plan, roots, job="7", token=1)


def _move(folder: Path, roots: Roots, family: Family) -> object:
    source, target = (
        str(folder / family.file("middle")),
        str(folder / "empty" / family.file("moved")),
    )
    plan = move.plan(source, target, roots, relink=True)
    return move.apply(plan, roots, offline=True, job="7", token=1)


def _delete(folder: Path, roots: Roots, family: Family) -> object:
    plan = delete.plan(str(folder / family.file("below")), roots)
    return delete.apply(plan, roots, offline=True, job="7", token=1)


_DEATHS: list[tuple[Do, str]] = [
    (_update, "relink.header.fsync"),
    (_merge(in_place=False), "forward.rename"),
    (_merge(in_place=True), "identity.header.fsync"),
    (_merge(in_place=True), "merge.table.write"),
    (_merge(in_place=True), "merge.end.rename"),
    (_compact, "compact.header.fsync"),
    (_copy, "forward.rename"),
    (_move, "relink.header.write"),
    (_delete, "forward.rename"),
]
_LOGGED_DEATHS: list[tuple[Do, str]] = [
    (_update, "relink.header.fsync"),
    (_merge(in_place=True), "merge.table.write"),
    (_compact, "compact.header.fsync"),
]
