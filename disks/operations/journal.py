"""Sidecars: small records beside a disk that say what is being done to it, and how to undo it.

`.NAME.vdundo` (header rewrites), `.NAME.vdjob` (copy jobs) and `.NAME.vdmerge` (merges in place)
lie in the disk's own folder, so that they move along with it and can be read without any
database. A sidecar is written whole or not at all. Its parts:

    VDADMIN-SIDECAR 1 undo 5f3c09aa      magic, version, kind, CRC-32 of all that follows
    plain text for a person who has nothing but this file
    {"…": …}                             the record, JSON, one line that starts with `{`

While an unfinished sidecar exists, nothing else is done to the disks it names (R10).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.operations import durable
from disks.operations.paths import Roots
from disks.operations.windows import shown

UNDO = "undo"
JOB = "job"
MERGE = "merge"
KINDS = (UNDO, JOB, MERGE)
DONE = "done"  # the one state that forbids nothing

_MAGIC = "VDADMIN-SIDECAR"
_VERSION = 1
_LONGEST_NAME_BYTES = 255 - len(".") - len(".vdmerge") - len(".vdtmp")
_FIRST_LINE = re.compile(rb"VDADMIN-SIDECAR (\d+) (\w+) ([0-9a-f]{8})\n")
_NAMES = re.compile(r"\..+\.vd(undo|job|merge)", re.DOTALL)
_MOST_BYTES = 64 * 1024 * 1024

# What JSON that somebody else wrote can raise while it is read and taken apart.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One record.

    disk        path of the disk beside which it lies
    state       a word of the operation that wrote it; DONE: kept only for information
    job, token  who wrote it; a higher token took over from a lower one
    neighbours  other disks that the operation changes or needs, as paths
    record      what that operation needs to finish or undo, JSON-able
    help        plain text: how to undo this without the console; no line starts with `{`
    """

    kind: str
    disk: str
    state: str
    job: str = ""
    token: int = 0
    neighbours: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    help: str = ""

    @property
    def path(self) -> str:
        return sidecar_path(self.disk, self.kind)

    @property
    def unfinished(self) -> bool:
        return self.state != DONE

    def names(self, path: str) -> bool:
        return path == self.disk or path in self.neighbours


def sidecar_path(disk: str, kind: str) -> str:
    """Where the sidecar of a disk lies. Very long names are replaced by their hash."""
    folder, name = os.path.split(disk)
    return os.path.join(folder, f".{_short(name)}.vd{kind}")


def _temporary(path: str) -> str:
    return f"{path}.vdtmp"


def write(roots: Roots, sidecar: Sidecar) -> None:
    """Durable when this returns; on an error the one before it is still there."""
    # Pages of the disk lie in the record of a rewrite; the others hold names alone.
    rights_of = sidecar.disk if sidecar.kind == UNDO else ""
    temporary = _temporary(sidecar.path)
    durable.replace_content(roots, sidecar.path, temporary, _packed(sidecar), rights_of=rights_of)


def require_nameable(roots: Roots, disk: str, *, instead: str = "") -> None:
    """E_NAME where the storage has no room for the name of a record beside this disk.

    Some allow less than the 255 bytes that records' names are made for: eCryptfs 143. Whoever
    will write one when it is too late to turn back asks before. instead: another way out.
    """
    try:
        roots.stat(_temporary(sidecar_path(disk, MERGE)))
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return
        if error.code != "E_NAME":
            raise
        raise ImageError(
            "E_NAME",
            f"The name of {shown(disk)} is too long: this storage has no room for the longer name "
            "of the record that lies beside the disk while it is changed.",
            advice=f"Give the disk a shorter name first{instead and f', or {instead}'}.",
            file=disk,
        ) from error


def read(roots: Roots, path: str) -> Sidecar:
    """The sidecar in a file. E_SIDECAR if it is damaged, E_NOT_FOUND."""
    with roots.open(path) as file:
        if file.size_bytes > _MOST_BYTES:
            raise _damaged(path, "it is too large for one")
        data = file.read_at(0, file.size_bytes)
    return _parsed(data, path)


def of(roots: Roots, disk: str, kind: str) -> Sidecar | None:
    """The sidecar of that kind beside a disk, None without one.

    E_SIDECAR if damaged; what opening raises where it cannot be known whether there is one.
    """
    try:
        return read(roots, sidecar_path(disk, kind))
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return None
        raise


def path_of(folder: str, name: Any) -> str:
    """The path that a record in this folder means; ValueError for what no file can be called."""
    path = os.path.normpath(os.path.join(folder, str(name)))
    if not name or b"\0" in os.fsencode(path):
        raise ValueError("no file has that name")
    return path


def result_of(record: dict[str, Any]) -> dict[str, Any]:
    """What a record keeps of its job's result; one of UNREADABLE if that is none."""
    result = dict(record["result"])
    list(result.get("warnings") or ()), float(result.get("proof_seconds") or 0)
    return result


def not_understood(sidecar: Sidecar) -> ImageError:
    """E_SIDECAR: the record is whole, but says nothing that its operation could have written."""
    return ImageError(
        "E_SIDECAR",
        f"The record beside {shown(sidecar.disk)} cannot be understood, so nothing is done.",
        file=sidecar.path,
    )


def remove(roots: Roots, sidecar: Sidecar) -> None:
    durable.unlink(roots, sidecar.path, missing_ok=True)


def sidecars_in(
    roots: Roots, folder: str, *, finished_too: bool = True
) -> Iterator[tuple[str, Sidecar | ImageError]]:
    """Every sidecar in one folder, by name; the error in place of a damaged one.

    finished_too=False leaves out those that this process has read before and found finished.
    """
    found = (entry for entry in roots.entries(folder) if _NAMES.fullmatch(entry.name))
    for name in sorted(entry.name for entry in found if entry.is_file):
        path = os.path.join(folder, name)
        try:
            status = roots.stat(path)  # before reading: a newer file is read again
            if not finished_too and _KNOWN_FINISHED.holds(status):
                continue
            sidecar = read(roots, path)
            if not sidecar.unfinished:
                _KNOWN_FINISHED.add(status)
            yield path, sidecar
        except ImageError as error:
            yield path, error


class _FinishedSidecars:
    """Which files were finished sidecars when they were last read.

    A repair of thousands of disks in one folder asks of each whether anything is unfinished
    there, and leaves a record beside each. Records are only ever replaced by a new file, so
    the same inode with the same times is the same record.
    """

    _MOST = 100_000

    def __init__(self) -> None:
        self._files: dict[tuple[int, int, int, int, int], None] = {}

    def holds(self, status: os.stat_result) -> bool:
        return self._key(status) in self._files

    def add(self, status: os.stat_result) -> None:
        if len(self._files) >= self._MOST:
            self._files.clear()
        self._files[self._key(status)] = None

    @staticmethod
    def _key(status: os.stat_result) -> tuple[int, int, int, int, int]:
        return (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )


_KNOWN_FINISHED = _FinishedSidecars()


def pending(roots: Roots, paths: Iterable[str]) -> list[Sidecar]:
    """The unfinished sidecars that name one of these disks. E_SIDECAR for a damaged one."""
    disks = set(paths)
    own = {sidecar_path(disk, kind): disk for disk in disks for kind in KINDS}
    found = []
    for folder in sorted({os.path.dirname(disk) for disk in disks}):
        for path, sidecar in sidecars_in(roots, folder, finished_too=False):
            if isinstance(sidecar, ImageError):
                if path in own:
                    raise sidecar
            elif sidecar.unfinished and any(sidecar.names(disk) for disk in disks):
                found.append(sidecar)
    return found


def require_settled(roots: Roots, paths: Iterable[str], *, job: str = "") -> None:
    """E_UNFINISHED if an interrupted operation waits for recovery on one of these disks.

    job: the caller's own job, whose sidecars do not stand in its way.
    """
    for sidecar in pending(roots, paths):
        if job and sidecar.job == job:
            continue
        raise ImageError(
            "E_UNFINISHED",
            f"An operation on {shown(sidecar.disk)} was interrupted and is neither done nor "
            f"undone, so nothing else is done to it or to the disks it concerns.",
            file=sidecar.disk,
            field="sidecar",
            value=os.path.basename(sidecar.path),
        )


def _short(name: str) -> str:
    """How a name stands in its sidecar's: itself, or its hash where it is very long."""
    raw = os.fsencode(name)
    return name if len(raw) <= _LONGEST_NAME_BYTES else hashlib.sha256(raw).hexdigest()


def _packed(sidecar: Sidecar) -> bytes:
    record = {
        # The name alone says which disk: the folder may have been moved since.
        "name": os.path.basename(sidecar.disk),
        "state": sidecar.state,
        "job": sidecar.job,
        "token": sidecar.token,
        "neighbours": [
            os.path.relpath(path, os.path.dirname(sidecar.disk)) for path in sidecar.neighbours
        ],
        **{f"x_{key}": value for key, value in sidecar.record.items()},
    }
    text = "".join(f"{line.lstrip('{')}\n" for line in sidecar.help.splitlines())
    rest = f"{text}{json.dumps(record)}\n".encode("utf-8", "backslashreplace")
    return f"{_MAGIC} {_VERSION} {sidecar.kind} {zlib.crc32(rest):08x}\n".encode() + rest


def _parsed(data: bytes, path: str) -> Sidecar:
    first = _FIRST_LINE.match(data)
    if first is None:
        raise _damaged(path, "its first line is not that of one")
    rest = data[first.end() :]
    if zlib.crc32(rest) != int(first[3], 16):
        raise _damaged(path, "its checksum is wrong")
    if int(first[1]) != _VERSION:
        raise _damaged(path, f"version {int(first[1])} was written by a newer release")
    try:
        record = json.loads(
            rest[(b"\n" + rest).index(b"\n{") :],
            parse_int=_whole,
            parse_float=_fraction,
            parse_constant=_whole,  # Infinity, NaN: no numbers of ours
        )
        folder, name = os.path.dirname(path), os.path.basename(record["name"])
        if not name:
            raise ValueError("no disk has that name")
        return Sidecar(
            kind=first[2].decode(),
            disk=path_of(folder, name),
            state=str(record["state"]),
            job=str(record["job"]),
            token=int(record["token"]),
            neighbours=tuple(path_of(folder, name) for name in record["neighbours"]),
            record={key[2:]: value for key, value in record.items() if key.startswith("x_")},
            help=rest[: (b"\n" + rest).index(b"\n{")].decode("utf-8", "replace"),
        )
    except UNREADABLE as error:
        raise _damaged(path, "its record cannot be read") from error


def _whole(text: str) -> int:
    """ValueError for a number that is larger than any that a file system has."""
    if not -(2**63) <= (number := int(text)) < 2**64:
        raise ValueError("a number that no file has")
    return number


def _fraction(text: str) -> float:
    """As _whole(), of seconds."""
    if not abs(number := float(text)) < 2**63:
        raise ValueError("a number that no file has")
    return number


def _damaged(path: str, why: str) -> ImageError:
    return ImageError(
        "E_SIDECAR",
        f"{shown(path)} should say what an interrupted operation did to the disk beside it, but "
        f"{why}. Nothing is done to that disk until somebody has looked at both files.",
        file=path,
    )
