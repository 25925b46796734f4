"""The storage roots as a scan has just seen them: answers without opening files again."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from disks.engine.errors import ImageError
from disks.engine.resolution.places import Known
from disks.models import Disk, StorageRoot
from disks.operations import paths
from disks.operations.storage_roots import Root

UNREACHABLE = (StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED)


class Seen(NamedTuple):
    """A catalogued file: its row, its place, its file, and its disk's two ids ("": none)."""

    pk: int
    path: str
    root_path: str
    device: int
    inode: int
    identity: str
    own_health: str
    virtual_disk_id: str


@dataclass
class Index:
    """All catalogued files that are there.

    by_path, by_identity  those in roots that can be reached
    by_key                those in any root
    out_of_reach          rows in other roots, whether their file was there or not
    """

    by_path: dict[str, Seen] = field(default_factory=dict)
    by_identity: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    by_key: dict[int, Seen] = field(default_factory=dict)
    out_of_reach: set[int] = field(default_factory=set)

    @classmethod
    def load(cls) -> Index:
        index = cls()
        roots = {
            root.pk: (root.path, os.path.join(root.path, ""), root.state in UNREACHABLE)
            for root in StorageRoot.objects.all()
        }
        rows = Disk.objects.order_by().values_list(
            "pk", "root_id", "relative_path", "missing_since", "device", "inode", "identity",
            "own_health", "virtual_disk_id",
        )  # fmt: skip
        for pk, root, relative, missing, device, inode, identity, *rest in rows.iterator(10_000):
            if root not in roots:
                continue  # added since
            root_path, prefix, is_out_of_reach = roots[root]
            if is_out_of_reach:
                index.out_of_reach.add(pk)
            if missing is not None:
                continue
            path = prefix + relative
            seen = Seen(pk, path, root_path, device or 0, inode or 0, identity, *rest)
            index.by_key[pk] = seen
            if not is_out_of_reach:
                index.by_path[path] = seen
                if identity:
                    index.by_identity[identity].append(path)
        for paths_of_one in index.by_identity.values():
            paths_of_one.sort()
        return index


class CatalogPlaces(paths.Roots):
    """`Places` over an Index; what the catalog does not list is looked up on the storage once."""

    def __init__(self, roots: Iterable[Root], index: Index) -> None:
        super().__init__(roots, find_identity=lambda identity: index.by_identity.get(identity, ()))
        self.index = index
        self._there: dict[str, bool] = {}
        self._errors: dict[str, ImageError] = {}
        self._spelled_as: dict[str, list[str]] = {}
        self._folders: dict[tuple[str, str | None], dict[str, list[str]]] = {}
        # Children of one parent lie together and ask the same.
        self._beside: dict[tuple[str, str], str] = {}
        self._from_windows: dict[str, list[str]] = {}
        self._of_identity: dict[str, list[str]] = {}

    def known(self, path: str) -> Known | None:
        """What the catalog knows; None for a file that it does not list."""
        seen = self.index.by_path.get(path)
        if seen is None:
            if self.exists(path):
                return None
            if path not in self._errors:
                self._errors[path] = self._not_there(path)
            raise self._errors[path]
        error = None
        if not seen.identity:
            code = {
                Disk.Health.IN_USE: "E_IN_USE",
                Disk.Health.UNREADABLE: "E_ACCESS",
                Disk.Health.NOT_A_DISK: "E_NO_FOOTER",
            }.get(Disk.Health(seen.own_health), "E_DAMAGED")
            error = ImageError(code, _WHY.get(code, "The file is damaged."), file=path)
            if code == "E_IN_USE":
                raise error
        file = (seen.device, seen.inode)
        return Known(file, seen.identity or None, error, seen.virtual_disk_id or None)

    def exists(self, path: str) -> bool:
        if path in self.index.by_path:
            return True
        if path not in self._there:
            self._there[path] = super().exists(path)
        return self._there[path]

    def beside(self, child_path: str, text: str) -> str:
        key = (os.path.dirname(child_path), text)
        if key not in self._beside:
            self._beside[key] = super().beside(child_path, text)
        return self._beside[key]

    def from_windows(self, text: str) -> list[str]:
        if text not in self._from_windows:
            self._from_windows[text] = super().from_windows(text)
        return self._from_windows[text]

    def find_identity(self, identity: str) -> list[str]:
        if identity not in self._of_identity:
            self._of_identity[identity] = super().find_identity(identity)
        return self._of_identity[identity]

    def _not_there(self, path: str) -> ImageError:
        """The error that opening it gives: outside the roots, a link, or simply not there."""
        try:
            self.open(path).close()
        except ImageError as error:
            return error
        return ImageError("E_NOT_FOUND", f"There is no file {path}.", file=path)

    def _spellings(self, path: str) -> list[str]:
        if path in self.index.by_path:
            return [path]
        if path not in self._spelled_as:
            self._spelled_as[path] = super()._spellings(path)
        return self._spelled_as[path]

    def _alike(self, folder: str, name: str, *, folders: bool) -> list[str]:
        """As the original, but a folder is listed once for each kind of name, however many ask.

        What else lies in a crowded one is not kept: the disks there are known by the index, too.
        """
        wanted = paths.folded(name)
        extension = None if folders else os.path.splitext(wanted)[1]
        key = (folder, extension)
        if key not in self._folders:
            self._folders[key] = self._listing(folder, extension)
        return sorted(self._folders[key].get(wanted, []))


_WHY = {
    "E_IN_USE": "The file is in use by another program.",
    "E_ACCESS": "The file could not be read at the last scan.",
    "E_NO_FOOTER": "The file is no virtual disk.",
}
