"""Where is the parent? Every place looked at, in order, with what was found there.

Identity decides, names only lead. A parent counts as *found* when something in the child's
header leads to it: a locator or the parent name, read the way Windows reads them (relative
ones from the child's folder, absolute ones through a storage root's Windows view). Two more
places are looked at in order to help: a file of the same name beside the child (`beside`) and
a search by identity (`identity`). What only these find is not found in this sense, because no
Windows host would find it either; it is the suggestion for a new link. Places with a true
`identity_leads` (the command line's, which reads where it was told to search) take it as found.

Where Windows only says that identifiers do not match there are three cases: the path is wrong and
the identity right somewhere else (`suggested`); another disk is there; or the disk is the right
one by what its whole chain shares, but its content is another by now (`written_since`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from disks.engine import formats
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.images import Image
from disks.engine.parent_link import LocatorRole, ParentReference

_EMPTY_IDENTITIES = ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff")


class Places(Protocol):
    """The part of the world that may be looked at; `operations/paths.Roots` implements it."""

    def open(self, path: str) -> ImageFile:
        """Raises ImageError: `E_NOT_FOUND`, `E_OUTSIDE_ROOTS`, `E_NOT_A_FILE`, `E_ACCESS`, …"""
        ...

    def beside(self, child_path: str, text: str) -> str:
        """Host path of a relative text (Windows or POSIX style) seen from the child's folder.

        Lexical. Raises ImageError `E_OUTSIDE_ROOTS`, `E_NAME`.
        """
        ...

    def from_windows(self, text: str) -> list[str]:
        """Host paths that an absolute Windows path can mean; none where nothing maps it."""
        ...

    def find_identity(self, identity: str) -> list[str]:
        """Host paths of files that are known, or said by a search, to have this identity."""
        ...


class Known(NamedTuple):
    """What a catalog has read of a file already, so that it need not be opened again.

    Places may have a method `known(path)` that returns one, None for "open it", or raises
    what open() would raise.

    file      device and inode
    identity  of the disk in it; None where it could not be read
    error     why not
    virtual_disk_id  of the disk in it, where its format has one
    """

    file: tuple[int, int]
    identity: str | None
    error: ImageError | None = None
    virtual_disk_id: str | None = None


class Status(StrEnum):
    FOUND = "found"
    MISSING = "missing"
    IN_USE = "in-use"
    IDENTITY_MISMATCH = "identity-mismatch"
    AMBIGUOUS = "ambiguous"
    OUTSIDE_ROOTS = "outside-roots"
    UNREADABLE = "unreadable"
    CYCLE = "cycle"


class Verdict(StrEnum):
    MATCH = "match"
    NOT_FOUND = "not-found"
    IDENTITY_MISMATCH = "identity-mismatch"
    OUTSIDE_ROOTS = "outside-roots"
    UNMAPPED = "unmapped"
    UNREADABLE = "unreadable"
    INVALID = "invalid"


class Step(NamedTuple):
    """One place: where the text stands, the text, the host path tried, and what came of it.

    same_chain: another identity, but the virtual disk id that the child's whole chain shares.
    """

    source: str
    raw: str
    candidate: str | None
    verdict: Verdict
    detail: str = ""
    same_chain: bool = False

    def as_dict(self) -> dict[str, Any]:
        row = {
            "source": self.source,
            "raw": self.raw,
            "candidate": self.candidate,
            "verdict": str(self.verdict),
            "detail": self.detail,
        }
        return row | {"same_chain": True} if self.same_chain else row


@dataclass(slots=True)
class Resolution:
    """path is the parent's host path when status is FOUND.

    twins      other files with the parent's identity (when FOUND)
    suggested  the one file with the right identity that the header does not lead to
    candidates every file with the right identity that was met, when there are several
    code       the error for those who need the parent; None when FOUND
    written_since  where the parent lies by its virtual disk id, with another identity by now:
               written after the child was made, or an older copy put back (when not FOUND)
    """

    status: Status
    path: str | None
    trace: list[Step] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    reason: str = ""
    suggested: str | None = None
    candidates: list[str] = field(default_factory=list)
    code: str | None = None
    written_since: str | None = None

    def error(self, child_path: str) -> ImageError:
        """The refusal for an operation that needs this parent's data."""
        from disks.engine.errors import ParentMissing

        code = self.code or "E_PARENT_MISSING"
        kind = ParentMissing if code == "E_PARENT_MISSING" else ImageError
        return kind(code, self.reason, file=child_path, field="parent", value=self.suggested)


class _Lead(NamedTuple):
    """A text that may name the parent. problem: why it cannot be followed."""

    source: str
    raw: str
    problem: str | None
    from_header: bool


_DRIVE = re.compile(r"^[A-Za-z]:")


class Shape(StrEnum):
    """What a path text is, whatever code it was stored under."""

    WINDOWS = "windows"  # C:\… or \\server\share\…
    POSIX = "posix"  # /…
    ROOTED = "rooted"  # \… : on whatever drive is current
    RELATIVE = "relative"


@lru_cache(64)  # asked again and again for what the children of one parent say
def shape_of(text: str) -> tuple[Shape, str]:
    r"""The shape of a path text, and the text without `\\?\` or a drive that says nothing.

    `\\?\Volume{…}\name` stays whole: without `\\?\` it would be a folder beside the child.
    `C:name` (relative to the drive's current folder) is taken as a bare name.
    """
    plain = text
    upper = text[:8].upper().replace("/", "\\")
    if upper.startswith("\\\\?\\UNC\\"):
        plain = "\\\\" + text[8:]
    elif upper.startswith("\\\\?\\") and _DRIVE.match(text[4:]):
        plain = text[4:]
    if plain[:2] in ("\\\\", "//", "\\/", "/\\"):
        return Shape.WINDOWS, plain
    if _DRIVE.match(plain):
        if plain[2:3] in ("\\", "/"):
            return Shape.WINDOWS, plain
        return Shape.RELATIVE, base_name(plain[2:])
    if plain[:1] == "/":
        return Shape.POSIX, plain
    if plain[:1] == "\\":
        return Shape.ROOTED, plain
    return Shape.RELATIVE, plain


def base_name(text: str) -> str:
    """The last component of a path text in either style."""
    return text.replace("/", "\\").rpartition("\\")[2]


def _leads(parent: ParentReference) -> Iterator[_Lead]:
    """The header's texts in the order of looking; the search by identity comes after them."""
    paths = [one for one in parent.locators if one.role is not LocatorRole.OTHER]
    relative = [one for one in paths if one.role is LocatorRole.RELATIVE]
    others = [one for one in paths if one.role is LocatorRole.PATH]
    for locator in relative:
        yield _Lead(locator.code, locator.path or "", locator.problem, True)
    name = _Lead("name", parent.name or "", parent.name_problem, True)
    name_is_absolute = parent.name is not None and shape_of(parent.name)[0] is not Shape.RELATIVE
    if parent.name is not None and not name_is_absolute:
        yield name
    for locator in others:
        yield _Lead(locator.code, locator.path or "", locator.problem, True)
    if parent.name is not None and name_is_absolute:
        yield name
    seen = set()
    texts = [one.path for one in paths if one.problem is None]
    if parent.name_problem is None:
        texts.append(parent.name)
    for text in texts:
        bare = base_name(text or "")
        if bare and bare not in seen:
            seen.add(bare)
            yield _Lead("beside", bare, None, False)


def _hosts(places: Places, child_path: str, lead: _Lead) -> list[str]:
    """Host paths that a text may mean. Empty: no mapping covers it. Raises ImageError."""
    shape, plain = shape_of(lead.raw)
    if lead.source == "beside" or shape is Shape.RELATIVE:
        return [places.beside(child_path, plain)]
    if shape is Shape.POSIX:
        # VirtualBox on Linux writes these; `open` lets nothing through but the roots.
        return [plain]
    return places.from_windows(plain)


_OPENING = {
    "E_NOT_FOUND": Verdict.NOT_FOUND,
    "E_OUTSIDE_ROOTS": Verdict.OUTSIDE_ROOTS,
    "E_NAME": Verdict.INVALID,
    "E_NOT_A_FILE": Verdict.INVALID,
}


class _Search:
    """One resolution under way: opens every candidate once."""

    def __init__(self, image: Image, parent: ParentReference, path: str, places: Places) -> None:
        self.parent = parent
        self.path = path
        self.places = places
        stat = image.file.stat()
        self.own_file = (stat.st_dev, stat.st_ino)
        self.seen: dict[str, tuple[Verdict, str, str]] = {}
        self.files: dict[str, tuple[int, int]] = {}
        self.remembered = getattr(places, "known", None)
        self.kept: Image | None = None
        self.itself = False
        self.chain_id = image.virtual_disk_id
        self.same_chain: set[str] = set()

    def look(self, candidate: str, *, keep: bool) -> tuple[Verdict, str, str]:
        """Verdict, detail and error code of one host path."""
        if candidate not in self.seen:
            self.seen[candidate] = self._look(candidate, keep=keep)
        return self.seen[candidate]

    def _look(self, candidate: str, *, keep: bool) -> tuple[Verdict, str, str]:
        try:
            if self.remembered is not None:
                known = self.remembered(candidate)
                if known is not None:
                    return self._recall(candidate, known)
            file = self.places.open(candidate)
        except ImageError as error:
            verdict = _OPENING.get(error.code, Verdict.UNREADABLE)
            return verdict, error.message, error.code
        stays_open = False
        try:
            stat = file.stat()
            self.files[candidate] = (stat.st_dev, stat.st_ino)
            if self.files[candidate] == self.own_file:
                return self._is_itself()
            image = formats.open_image(file)
            judged = self._compare(candidate, image.identity, image.virtual_disk_id)
            if judged[0] is Verdict.MATCH and keep and self.kept is None:
                self.kept = image
                stays_open = True
            return judged
        except ImageError as error:
            return Verdict.UNREADABLE, error.message, error.code
        finally:
            if not stays_open:
                file.close()

    def _recall(self, candidate: str, known: Known) -> tuple[Verdict, str, str]:
        self.files[candidate] = known.file
        if known.file == self.own_file:
            return self._is_itself()
        if known.identity is None:
            error = known.error
            message, code = (error.message, error.code) if error else ("", "E_NO_FOOTER")
            return Verdict.UNREADABLE, message, code
        return self._compare(candidate, known.identity, known.virtual_disk_id)

    def _is_itself(self) -> tuple[Verdict, str, str]:
        self.itself = True
        return Verdict.IDENTITY_MISMATCH, "This is the disk itself.", "E_CYCLE"

    def _compare(
        self, candidate: str, identity: str, chain_id: str | None
    ) -> tuple[Verdict, str, str]:
        if identity == self.parent.identity and identity not in _EMPTY_IDENTITIES:
            return Verdict.MATCH, "", ""
        detail = f"That disk's identity is {identity}, not {self.parent.identity}."
        if chain_id is not None and chain_id == self.chain_id and chain_id not in _EMPTY_IDENTITIES:
            self.same_chain.add(candidate)
            detail = (
                f"A disk of this chain by its virtual disk id, but with other content. {detail}"
            )
        return Verdict.IDENTITY_MISMATCH, detail, "E_PARENT_IDENTITY"


def resolve(image: Image, path: str, places: Places) -> Resolution:
    """Look for the parent of a differencing disk at every place, in order.

    path is the child's host path. Goes on after the first match, so that stale locators and
    twins are seen too. Opens only what places opens; writes nothing; raises nothing for what
    disks say. ValueError if the image has no parent.
    """
    resolution, kept = find_parent(image, path, places)
    if kept is not None:
        kept.close()
    return resolution


def find_parent(
    image: Image, path: str, places: Places, *, only_first: bool = False
) -> tuple[Resolution, Image | None]:
    """As resolve(), and the parent itself, opened, when it was found.

    only_first: stop at the first match of the header, without looking for twins.
    """
    parent = image.parent
    if parent is None:
        raise ValueError(f"{path} is no differencing disk")
    early = _impossible(image, parent)
    if early is not None:
        return early, None
    search = _Search(image, parent, path, places)
    trace: list[Step] = []
    codes: list[str] = []  # of header places that led to no match
    found: str | None = None
    beside: list[str] = []
    for lead in _leads(parent):
        if lead.problem is not None:
            trace.append(Step(lead.source, lead.raw, None, Verdict.INVALID, lead.problem))
            continue
        try:
            hosts = _hosts(places, path, lead)
        except ImageError as error:
            verdict = _OPENING.get(error.code, Verdict.INVALID)
            trace.append(Step(lead.source, lead.raw, None, verdict, error.message))
            if lead.from_header:
                codes.append(error.code)
            continue
        if not hosts:
            detail = "No storage root's Windows view covers this path."
            trace.append(Step(lead.source, lead.raw, None, Verdict.UNMAPPED, detail))
            continue
        for host in hosts:
            if not lead.from_header and host in search.seen:
                continue
            verdict, detail, code = search.look(host, keep=found is None and lead.from_header)
            same_chain = host in search.same_chain
            trace.append(Step(lead.source, lead.raw, host, verdict, detail, same_chain))
            if verdict is not Verdict.MATCH:
                if lead.from_header:
                    codes.append(code)
            elif not lead.from_header:
                beside.append(host)
            elif found is None:
                found = host
        if found is not None and only_first:
            return Resolution(
                Status.FOUND, found, trace, reason="The parent was found."
            ), search.kept
    elsewhere = _by_identity(search, parent, path, trace)
    matching = _distinct(search, [*beside, *elsewhere], without=found)
    if found is not None:
        headers = [s.candidate for s in trace if s.verdict is Verdict.MATCH and s.candidate]
        twins = _distinct(search, [*headers, *matching], without=found)
        return Resolution(
            Status.FOUND, found, trace, twins, _found_reason(found, twins)
        ), search.kept
    result = _not_found(image, parent, search, trace, codes, matching)
    if result.suggested is not None and getattr(places, "identity_leads", False):
        return _found_elsewhere(result, result.suggested, places)
    return result, None


def _found_elsewhere(
    result: Resolution, path: str, places: Places
) -> tuple[Resolution, Image | None]:
    """The one disk with the right identity, where the header does not lead to it."""
    file = places.open(path)
    try:
        parent = formats.open_image(file)
    except BaseException:
        file.close()
        raise
    reason = f"{result.reason} Windows will not find it there until the parent path is updated."
    found = Resolution(Status.FOUND, path, result.trace, reason=reason, suggested=path)
    return found, parent


def _by_identity(
    search: _Search, parent: ParentReference, path: str, trace: list[Step]
) -> list[str]:
    """Ask for files with the identity, and believe none before it was opened."""
    matching = []
    for host in search.places.find_identity(parent.identity):
        if host == path:
            continue
        known = host in search.seen
        verdict, detail, _ = search.look(host, keep=False)
        if not known or verdict is Verdict.MATCH:
            trace.append(Step("identity", parent.identity, host, verdict, detail))
        if verdict is Verdict.MATCH:
            matching.append(host)
    return matching


def _distinct(search: _Search, hosts: list[str], *, without: str | None) -> list[str]:
    """Each file once (two names of one file are no twins), in order, without one of them."""
    files = {search.files.get(without)} if without is not None else set()
    kept = []
    for host in hosts:
        file = search.files.get(host)
        if host != without and file not in files:
            files.add(file)
            kept.append(host)
    return kept


def _impossible(image: Image, parent: ParentReference) -> Resolution | None:
    """Links that need no looking: to itself, and without an identity."""
    if parent.identity == image.identity:
        return Resolution(
            Status.CYCLE,
            None,
            reason="This disk names itself as its parent.",
            code="E_CYCLE",
        )
    if parent.identity in _EMPTY_IDENTITIES:
        code, reason = (
            "E_RAW_PARENT",
            (
                "This disk's parent has no identity: blktap's sign for a raw file, which cannot be "
                "proven to be the right one, so it is not read."
            ),
        )
        if parent.name is None:  # only VHD has such a field, and blktap fills it
            code, reason = (
                "E_LOCATOR",
                (
                    "This disk's parent locator names no identity of the parent, so no disk can be "
                    "proven to be the right one."
                ),
            )
        step = Step("name", parent.name or "", None, Verdict.INVALID, "No identity to compare.")
        return Resolution(Status.UNREADABLE, None, [step], reason=reason, code=code)
    return None


def named(parent: ParentReference) -> str | None:
    """The text by which a person knows the parent: with a drive or share in it if there is one."""
    texts = [
        (2 if one.role is LocatorRole.RELATIVE else int(not _is_telling(one.path)), one.path)
        for one in parent.locators
        if one.problem is None and one.path and one.role is not LocatorRole.OTHER
    ]
    if parent.name and parent.name_problem is None:
        texts.append((0 if _is_telling(parent.name) else 3, parent.name))
    return min(texts, key=lambda ranked: ranked[0])[1] if texts else None


def is_volume_path(text: str) -> bool:
    """A path below a volume's GUID, which is known to its own host alone."""
    return text.startswith("\\\\?\\Volume{")


def _is_telling(text: str) -> bool:
    return not is_volume_path(text) and shape_of(text)[0] is Shape.WINDOWS


def _found_reason(found: str, twins: list[str]) -> str:
    if not twins:
        return f"The parent is {found}."
    count = "Another file has" if len(twins) == 1 else f"{len(twins)} other files have"
    return f"The parent is {found}. {count} the same identity: {', '.join(twins[:5])}."


def _absence(name: str, trace: list[Step]) -> str:
    """What became of the named place itself: other places may have been looked at as well."""
    verdicts = {step.verdict for step in trace if step.raw == name and step.source != "beside"}
    if verdicts == {Verdict.UNMAPPED}:
        return "no storage root maps, so it was not looked at"
    if verdicts and verdicts <= {Verdict.OUTSIDE_ROOTS, Verdict.UNMAPPED}:
        return "lies outside of the storage roots, so it was not looked at"
    return "is not there"


def _not_found(
    image: Image,
    parent: ParentReference,
    search: _Search,
    trace: list[Step],
    codes: list[str],
    matching: list[str],
) -> Resolution:
    """Say in one sentence why no header path leads to the parent, and what would."""
    name = named(parent)
    result = Resolution(Status.MISSING, None, trace, code="E_PARENT_MISSING")
    written = next((step for step in trace if step.same_chain), None)
    result.written_since = written.candidate if written is not None else None
    if name is None:
        result.code = "E_NO_PARENT_NAME"
        begin = "This disk's header holds no usable name of its parent"
    elif search.itself:
        result.status, result.code = Status.CYCLE, "E_CYCLE"
        begin = f"This disk names {name}, which leads back to this disk itself"
    elif "E_PARENT_IDENTITY" in codes:
        result.status, result.code = Status.IDENTITY_MISMATCH, "E_PARENT_IDENTITY"
        wrong = next(s for s in trace if s.verdict is Verdict.IDENTITY_MISMATCH)
        begin = f"This disk names {name}, but {wrong.candidate} is another disk"
        if result.written_since is not None:
            begin = (
                f"This disk names {name}. {result.written_since} is that disk by its virtual disk "
                "id, but its content is another one: it was written after this disk was made, or "
                "an older copy was put in its place"
            )
    elif any(code in ("E_IN_USE", "E_LOCKED") for code in codes):
        result.status, result.code = Status.IN_USE, "E_IN_USE"
        begin = f"This disk names {name}, which is in use and cannot be read now"
    elif any(step.verdict is Verdict.UNREADABLE and step.source != "beside" for step in trace):
        unreadable = next(s for s in trace if s.verdict is Verdict.UNREADABLE)
        result.status, result.code = Status.UNREADABLE, "E_PARENT_UNREADABLE"
        begin = f"This disk names {name}, but {unreadable.candidate} cannot be read: "
        begin += unreadable.detail.rstrip(".")
    elif codes and all(code == "E_OUTSIDE_ROOTS" for code in codes):
        result.status, result.code = Status.OUTSIDE_ROOTS, "E_OUTSIDE_ROOTS"
        begin = f"This disk names {name}, which lies outside of the storage roots"
    elif not codes:
        begin = f"This disk names {name}, and no storage root covers that path"
    else:
        begin = f"This disk names {name}, which {_absence(name, trace)}"
    if len(matching) > 1:
        result.candidates = matching
        result.status, result.code = Status.AMBIGUOUS, "E_PARENT_AMBIGUOUS"
        listed = ", ".join(matching[:5])
        end = f"{len(matching)} files have the right identity; choose one: {listed}."
    elif matching:
        result.candidates = matching
        result.suggested = matching[0]
        end = f"A disk with the right identity lies at {matching[0]}."
    elif result.written_since is not None and result.status is Status.MISSING:
        end = (
            f"{result.written_since} is that disk by its virtual disk id, but its content is "
            "another one: it was written after this disk was made, or it is an older copy."
        )
    else:
        end = f"No disk with the identity {parent.identity} is known."
    result.reason = f"{begin}. {end}"
    return result


def as_trace(resolution: Resolution) -> list[dict[str, Any]]:
    """The trace as JSON-able rows."""
    return [step.as_dict() for step in resolution.trace]
