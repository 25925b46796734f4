"""Saying in one sentence why a parent was not found, or cannot be, and what would lead to it."""

from __future__ import annotations

from disks.engine.images import Image
from disks.engine.parent_link import LocatorRole, ParentReference
from disks.engine.resolution.outcome import EMPTY_IDENTITIES, Resolution, Status, Step, Verdict
from disks.engine.resolution.path_text import Shape, is_volume_path, shape_of


def impossible(image: Image, parent: ParentReference) -> Resolution | None:
    """Links that need no looking: to itself, and without an identity."""
    if parent.identity == image.identity:
        return Resolution(
            Status.CYCLE,
            None,
            reason="This disk names itself as its parent.",
            code="E_CYCLE",
        )
    if parent.identity in EMPTY_IDENTITIES:
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


def _is_telling(text: str) -> bool:
    return not is_volume_path(text) and shape_of(text)[0] is Shape.WINDOWS


def found_reason(found: str, twins: list[str]) -> str:
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


def not_found(
    parent: ParentReference,
    trace: list[Step],
    codes: list[str],
    matching: list[str],
    *,
    itself: bool,
) -> Resolution:
    """Why no header path leads to the parent, and what would.

    codes     of the places that the header names, none of which is the parent
    matching  files with the right identity all the same
    itself    one of the places is the child's own file
    """
    name = named(parent)
    result = Resolution(Status.MISSING, None, trace, code="E_PARENT_MISSING")
    written = next((step for step in trace if step.same_chain), None)
    result.written_since = written.candidate if written is not None else None
    if name is None:
        result.code = "E_NO_PARENT_NAME"
        begin = "This disk's header holds no usable name of its parent"
    elif itself:
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
