"""What a child's header leads to, answered from the catalog: no file is opened twice for it."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple, cast

from disks.engine.images import Image
from disks.engine.parent_link import ParentReference
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Resolution, Verdict, as_trace
from disks.engine.resolution.path_text import is_volume_path
from disks.models import Disk, ParentLink
from disks.services import roots
from disks.services.causes import cause_of
from disks.services.chains import JOINING
from disks.services.places import CatalogPlaces, Index, Seen
from disks.services.reading import StoredLink, stored_reference
from disks.services.stored_json import JsonText, json_text, readable

Status = ParentLink.Status

_ANSWERS_KEPT = 1_000
_TITLES = {
    Status.MISSING: "The parent is missing",
    Status.IN_USE: "The parent is in use",
    Status.IDENTITY_MISMATCH: "Another disk is in the parent's place",
    Status.AMBIGUOUS: "Several disks could be the parent",
    Status.OUTSIDE_ROOTS: "The parent is out of reach",
    Status.UNREADABLE: "The parent cannot be read",
    Status.CYCLE: "The chain is a circle",
}
# Places of a trace where no file was met.
_NOTHING_MET = (Verdict.NOT_FOUND, Verdict.OUTSIDE_ROOTS, Verdict.INVALID, Verdict.UNMAPPED)


class Answer(NamedTuple):
    """The columns of a link that resolving tells."""

    status: str
    parent_id: int | None
    trace: JsonText
    reason: str
    cause: str
    suggested_id: int | None
    unmapped_folder: str
    written_since_id: int | None  # not a column: where the parent lies with other content

    @property
    def columns(self) -> tuple[object, ...]:
        return self[:-1]


@dataclass(slots=True)
class _Shared:
    """An answer for all children in a folder whose headers say the same.

    Not for a child that is itself among the files that were met: it names itself.
    """

    answer: Answer
    identity: str
    files: set[tuple[int, int]]

    def is_for(self, child: Seen) -> bool:
        return child.identity != self.identity and (child.device, child.inode) not in self.files


class Resolver:
    """Resolves links over an Index. close() it."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._places = CatalogPlaces(roots.operation_roots().roots, index)
        self._shared: dict[Hashable, _Shared] = {}

    def answer(self, child: Seen, said: StoredLink) -> Answer:
        """Where the parent is that this catalogued child's header names."""
        question = (
            os.path.dirname(child.path),
            child.virtual_disk_id,
            said.named_identity,
            said.named_name,
            said.name_problem,
            *[(row["code"], row["path"], row["problem"]) for row in said.locators],
        )
        shared = self._shared.get(question)
        if shared is not None and shared.is_for(child):
            return shared.answer
        stand_in = _CataloguedChild(
            child.identity,
            child.virtual_disk_id or None,
            stored_reference(said),
            _CataloguedFile(child.device, child.inode),
        )
        found = resolve(cast(Image, stand_in), child.path, self._places)
        answer = self._answer(child, said, found)
        self._share(question, child, said, found, answer)
        return answer

    def _answer(self, child: Seen, said: StoredLink, found: Resolution) -> Answer:
        parent = self._index.by_path.get(found.path) if found.path else None
        suggested = self._index.by_path.get(found.suggested) if found.suggested else None
        written = self._index.by_path.get(found.written_since) if found.written_since else None
        status = Status(str(found.status))
        if parent is not None and parent.own_health == Disk.Health.IN_USE:
            status = Status.IN_USE
        return Answer(
            str(status),
            parent.pk if parent else None,
            JsonText(json_text(as_trace(found))),
            reason(found, child.root_path),
            cause_of(status, said.named_identity, rewritten=found.written_since is not None),
            suggested.pk if suggested else None,
            "" if status in JOINING else _unmapped_folder(found),
            written.pk if written else None,
        )

    def _share(
        self, question: Hashable, child: Seen, said: StoredLink, found: Resolution, answer: Answer
    ) -> None:
        """Keep an answer for the next children, which mostly lie beside the first."""
        met = {step.candidate for step in found.trace if step.verdict not in _NOTHING_MET}
        seen = [self._index.by_path.get(path) for path in met if path is not None]
        if None in seen:
            return  # a file that the catalog does not list may be any child's
        files = {(one.device, one.inode) for one in seen if one is not None}
        shared = _Shared(answer, said.named_identity, files)
        if shared.is_for(child):
            if len(self._shared) >= _ANSWERS_KEPT:
                self._shared.clear()
            self._shared[question] = shared

    def close(self) -> None:
        self._places.close()


@dataclass(slots=True)
class _CataloguedFile:
    """Stands in for the child's open file: only its device and inode are asked for."""

    st_dev: int
    st_ino: int

    def stat(self) -> _CataloguedFile:
        return self


@dataclass(slots=True)
class _CataloguedChild:
    """What resolving asks of a child image."""

    identity: str
    virtual_disk_id: str | None
    parent: ParentReference
    file: _CataloguedFile


def reason(found: Resolution, root_path: str) -> str:
    """One sentence for people; paths below the child's own root are given from there."""
    text = readable(found.reason).replace(readable(root_path).rstrip("/") + "/", "")
    title = _TITLES.get(Status(str(found.status)))
    if found.status == Status.IDENTITY_MISMATCH and found.written_since is not None:
        title = "The parent is not as it was"
    if title is None or not text:
        return text
    return f"{title}: {text[0].lower()}{text[1:]}"


def _unmapped_folder(found: Resolution) -> str:
    """The first Windows folder that was named and that no root maps, at most 400 characters."""
    for step in found.trace:
        # No view can say where a volume's GUID leads.
        if step.verdict is Verdict.UNMAPPED and not is_volume_path(step.raw):
            folder = step.raw.replace("/", "\\").rpartition("\\")[0]
            return readable(folder)[:400]
    return ""
