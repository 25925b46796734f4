"""What one job put away: as data, as `manifest.json`, and as `README.txt` for a person.

A job that touched several roots has a folder in each; one of them is the primary one, whose
manifest lists everything, and the others name it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.operations import durable, journal
from disks.operations.fingerprints import Fingerprint
from disks.operations.paths import Roots
from disks.operations.storage_roots import TRASH_FOLDER

MANIFEST = "manifest.json"
README = "README.txt"
MAGIC = "vdadmin-trash"
VERSION = 1
MERGED_IN_PLACE = "merge-in-place"  # a kind: nothing of it can be brought back
_MOST_BYTES = 64 * 1024 * 1024  # of a manifest
PLANNED = "planned"  # the job is not over: only recovery touches it
COMPLETE = "complete"  # can be restored or emptied
RESTORING = "restoring"  # a restore was interrupted: restoring again goes on
EMPTYING = "emptying"  # an emptying was interrupted: emptying again goes on


@dataclass(frozen=True)
class Entry:
    """One file put away. original, trash: absolute paths; role: `replaced` or `merged`."""

    original: str
    trash: str
    file: FileIdentity
    identity: str
    role: str

    def stored(self, folder: str) -> dict[str, Any]:
        """JSON-able, with paths relative to folder: a root may be mounted elsewhere later."""
        return {
            "original": os.path.relpath(self.original, folder),
            "trash": os.path.relpath(self.trash, folder),
            "file": self.file.as_dict(),
            "identity": self.identity,
            "role": self.role,
        }

    @classmethod
    def from_stored(cls, row: dict[str, Any], folder: str) -> Entry:
        return cls(
            _joined(folder, row["original"]),
            _joined(folder, row["trash"]),
            FileIdentity.from_dict(row["file"]),
            str(row["identity"]),
            str(row["role"]),
        )


@dataclass
class Manifest:
    """What one job put away, and what took its place.

    folder        the trash folder that this manifest lies in
    primary       the folder with the full list; equal to folder there
    folders       all trash folders of the job
    replacement   path that got new content, with its fingerprint once it lies there
    relinked      disks whose parent link the job changed
    """

    folder: str
    job: str
    kind: str
    summary: str
    created: str
    state: str = PLANNED
    primary: str = ""
    folders: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    replacement: str = ""
    replaced_by: Fingerprint | None = None
    relinked: list[str] = field(default_factory=list)

    @property
    def is_primary(self) -> bool:
        return self.primary == self.folder

    @property
    def entries_here(self) -> list[Entry]:
        """Those of the files that lie in this folder."""
        return [entry for entry in self.entries if os.path.dirname(entry.trash) == self.folder]

    @property
    def can_be_restored(self) -> bool:
        """By kind and state; what else may stand in the way: restore_refusal()."""
        return self.kind != MERGED_IN_PLACE and self.state in (COMPLETE, RESTORING)

    @property
    def is_believable(self) -> bool:
        """What is deleted or moved is believed only where it lies in trash folders."""
        return all(
            os.path.basename(os.path.dirname(each)) == TRASH_FOLDER
            for each in (*self.folders, self.primary)
        ) and all(os.path.dirname(entry.trash) in self.folders for entry in self.entries)

    @property
    def size_bytes(self) -> int:
        """Of the files as they are read; what emptying frees: `emptying.given_back_bytes`."""
        return sum(entry.file.size_bytes for entry in self.entries)

    def as_dict(self) -> dict[str, Any]:
        """For people and pages: absolute paths."""
        return {
            "folder": self.folder,
            "job": self.job,
            "kind": self.kind,
            "summary": self.summary,
            "created": self.created,
            "state": self.state,
            "size_bytes": self.size_bytes,
            "files": [
                {"path": entry.original, "size_bytes": entry.file.size_bytes, "role": entry.role}
                for entry in self.entries
            ],
            "replacement": self.replacement or None,
            "relinked": self.relinked,
        }

    def stored(self, folder: str) -> dict[str, Any]:
        """JSON-able, as it lies in one of the job's folders; paths relative to that folder."""
        whole = folder == self.primary
        return {
            "magic": MAGIC,
            "version": VERSION,
            "job": self.job,
            "kind": self.kind,
            "summary": self.summary,
            "created": self.created,
            "state": self.state,
            "primary": os.path.relpath(self.primary, folder),
            "folders": [os.path.relpath(each, folder) for each in self.folders],
            "entries": [
                entry.stored(folder)
                for entry in self.entries
                if whole or os.path.dirname(entry.trash) == folder
            ],
            "replacement": os.path.relpath(self.replacement, folder) if self.replacement else "",
            "replaced_by": self.replaced_by.as_dict() if self.replaced_by else None,
            "relinked": [os.path.relpath(path, folder) for path in self.relinked],
        }

    @classmethod
    def from_stored(cls, row: dict[str, Any], folder: str) -> Manifest:
        replaced_by = row["replaced_by"]
        return cls(
            folder=folder,
            job=str(row["job"]),
            kind=str(row["kind"]),
            summary=str(row["summary"]),
            created=str(row["created"]),
            state=str(row["state"]),
            primary=_joined(folder, row["primary"]),
            folders=[_joined(folder, each) for each in row["folders"]],
            entries=[Entry.from_stored(entry, folder) for entry in row["entries"]],
            replacement=_joined(folder, row["replacement"]) if row["replacement"] else "",
            replaced_by=Fingerprint.from_dict(replaced_by) if replaced_by else None,
            relinked=[_joined(folder, path) for path in row["relinked"]],
        )


def write(roots: Roots, manifest: Manifest) -> None:
    """Make the manifest's state durable in all folders of the job, the primary one last."""
    for folder in [*manifest.folders[1:], manifest.folders[0]]:
        text = json.dumps(manifest.stored(folder), indent=1)
        write_text(roots, os.path.join(folder, MANIFEST), text + "\n")


def read(roots: Roots, folder: str) -> Manifest:
    """The manifest of a trash folder. E_TRASH if it is missing or not ours."""
    path = os.path.join(folder, MANIFEST)
    try:
        with roots.open(path) as file:
            if file.size_bytes > _MOST_BYTES:
                raise ValueError("it is too large for one")
            row = json.loads(file.read_at(0, file.size_bytes))
        if row["magic"] != MAGIC or row["version"] != VERSION:
            raise ValueError("another kind of file")
        manifest = Manifest.from_stored(row, folder)
    except journal.UNREADABLE as error:
        raise ImageError("E_TRASH", f"{path} cannot be understood: {error}.", file=path) from error
    if folder not in manifest.folders or not manifest.is_believable:
        raise ImageError("E_TRASH", f"{path} names files outside its trash.", file=path)
    return manifest


def _joined(folder: str, relative: Any) -> str:
    return os.path.normpath(os.path.join(folder, str(relative)))


def write_text(roots: Roots, path: str, text: str) -> None:
    folder, name = os.path.split(path)
    data = text.encode("utf-8", "surrogateescape")
    durable.replace_content(roots, path, os.path.join(folder, f".{name}.vdtmp"), data)


def readme_text(manifest: Manifest) -> str:
    lines = [
        "Disks that a job of vdadmin put away. Nothing here is in use.",
        "",
        f"Job:  {manifest.job} ({manifest.kind}), {manifest.created}",
        f"What: {manifest.summary}",
        "",
        "To bring it back without the console, with nobody using these disks:",
    ]
    for entry in manifest.entries:
        lines.append(f"  move  {entry.trash}")
        lines.append(f"    to  {entry.original}")
    if manifest.replacement:
        lines += [
            "",
            f"{manifest.replacement} was made from these files. Move it away first, and only",
            "if nothing was written to it since.",
        ]
    if manifest.relinked:
        lines += ["", "These disks got a new parent path, which must be set back then:"]
        lines += [f"  {path}" for path in manifest.relinked]
    lines += ["", "To free the space: delete this folder, once the result was found good.", ""]
    return "\n".join(lines)
