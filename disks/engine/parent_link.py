"""The link to a parent: as a differencing disk's header has it, and as it is to be written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class LocatorRole(StrEnum):
    """What a locator's text is for."""

    RELATIVE = "relative"  # a path seen from the child's folder: looked at first
    PATH = "path"  # any other path
    OTHER = "other"  # no path: an identity


_ROLES = {
    "W2ru": LocatorRole.RELATIVE,
    "relative_path": LocatorRole.RELATIVE,
    "parent_linkage": LocatorRole.OTHER,
    "parent_linkage2": LocatorRole.OTHER,
}


class Locator(NamedTuple):
    """One parent locator as found: text to show, never a path to open.

    path     decoded text, undecodable units escaped (`\\ud800`); None if unreadable
    problem  why it cannot be used, a sentence; None if usable
    """

    code: str
    path: str | None
    raw: bytes
    offset: int
    data_space: int
    problem: str | None = None

    @property
    def role(self) -> LocatorRole:
        return _ROLES.get(self.code, LocatorRole.PATH)


@dataclass(frozen=True, slots=True)
class ParentReference:
    """What a differencing disk's header says about its parent.

    identity_problem  why that is no identity; a sentence
    also              a second identity: some Windows opens the child on a parent that has this one
    """

    identity: str
    name: str | None
    timestamp: datetime | None
    locators: tuple[Locator, ...]
    name_problem: str | None = None
    identity_problem: str | None = None
    also: str = ""


@dataclass(frozen=True, slots=True)
class NewParent:
    """A parent link to be written.

    relative_path, windows_path: Windows syntax; None leaves that locator out.
    timestamp: the parent file's modification time, None writes 0.
    """

    identity: str
    name: str
    relative_path: str | None
    windows_path: str | None
    timestamp: datetime | None = None
