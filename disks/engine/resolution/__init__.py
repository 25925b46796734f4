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

from collections.abc import Iterator
from typing import NamedTuple

from disks.engine import formats
from disks.engine.errors import ImageError
from disks.engine.images import Image
from disks.engine.parent_link import LocatorRole, ParentReference
from disks.engine.resolution.outcome import EMPTY_IDENTITIES, Resolution, Status, Step, Verdict
from disks.engine.resolution.path_text import Shape, base_name, shape_of
from disks.engine.resolution.places import Known, Places
from disks.engine.resolution.reasons import found_reason, impossible, not_found


class _Lead(NamedTuple):
    """A text that may name the parent. problem: why it cannot be followed."""

    source: str
    raw: str
    problem: str | None
    from_header: bool


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
        if identity == self.parent.identity and identity not in EMPTY_IDENTITIES:
            return Verdict.MATCH, "", ""
        detail = f"That disk's identity is {identity}, not {self.parent.identity}."
        if chain_id is not None and chain_id == self.chain_id and chain_id not in EMPTY_IDENTITIES:
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
    early = impossible(image, parent)
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
            Status.FOUND, found, trace, twins, found_reason(found, twins)
        ), search.kept
    result = not_found(parent, trace, codes, matching, itself=search.itself)
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
