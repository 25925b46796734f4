"""How Windows names host paths, for pages: people there think in `C:\\VMs` and `\\\\nas\\vms`.

By the preferred view of the storage root that holds a path; one that no view covers keeps its
name on this host. The roots are asked for once in a request, when the first path is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property

from disks.engine.errors import ImageError
from disks.engine.formats import FORMATS
from disks.models import StorageRoot
from disks.operations.paths import Roots
from disks.services import roots

# A path in a sentence may hold spaces: it goes on to the end of a disk's name, or to the last
# folder that is plainly part of it, but not into the next path.
_DISK = "|".join(re.escape(one) for form in FORMATS for one in form.extensions)
_TO_A_DISK = rf"/(?:(?!\s/)[^\n“”\"]){{0,400}}?(?i:{_DISK})(?![\w.]*\w)"
_TO_A_SPACE = r"/[^\s“”\"]*[^\s“”\".,:;)]"
_ALONE = r"(?=[^\w\s/]*(?:\s|$))"  # of a root itself: not `/srv/vms` in `/srv/vms-old`


class WindowsNames:
    """The names of one moment."""

    @cached_property
    def _roots(self) -> Roots:
        rows = StorageRoot.objects.prefetch_related("windows_views")
        return Roots([roots.operation_root(row) for row in rows])

    @cached_property
    def _in_a_sentence(self) -> re.Pattern[str] | None:
        known = self._roots.roots
        if not any(root.windows_views for root in known):
            return None
        # Also those without a view: `/srv/vms old` is none of the folders of `/srv/vms`.
        paths = sorted((root.path for root in known), key=len, reverse=True)
        any_root = "|".join(map(re.escape, paths))
        return re.compile(rf"(?<![\w/])(?:{any_root})(?:{_TO_A_DISK}|{_TO_A_SPACE}|{_ALONE})(?!\w)")

    def of(self, host_path: str) -> str:
        """What Windows calls this path; itself where no view covers it."""
        try:
            return self._roots.windows_path(host_path) or host_path
        except ImageError:
            return host_path

    def within(self, sentence: str, file: str) -> str:
        """The sentence with the host paths in it named as Windows does.

        file: one that it is about, "" for none; of that the end need not be guessed.
        """
        pattern = self._in_a_sentence
        if pattern is None:
            return sentence
        named = self.of(file)
        pieces = [sentence]
        if named != file:
            pieces = re.split(rf"(?<![\w/]){re.escape(file)}(?![\w/]|[.-]\w)", sentence)
        return named.join(pattern.sub(lambda found: self.of(found[0]), one) for one in pieces)


_of_request: ContextVar[WindowsNames | None] = ContextVar("windows_names", default=None)


@contextmanager
def for_one_request() -> Iterator[None]:
    """What is shown in here knows how Windows names it."""
    before = _of_request.set(WindowsNames())
    try:
        yield
    finally:
        _of_request.reset(before)


def of(host_path: str) -> str:
    """Outside of a request every path keeps its name."""
    names = _of_request.get()
    return names.of(host_path) if names is not None and host_path.startswith("/") else host_path


def within(sentence: str, file: str = "") -> str:
    names = _of_request.get()
    return names.within(sentence, file) if names is not None and "/" in sentence else sentence
