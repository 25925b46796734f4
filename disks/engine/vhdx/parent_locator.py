"""The parent locator item: keys and values that name the parent, as text to show and judge."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from disks.engine.errors import ImageError
from disks.engine.findings import Finding, Level
from disks.engine.parent_link import Locator, NewParent, ParentReference
from disks.engine.text import escape_surrogates, has_surrogates
from disks.engine.units import KIB
from disks.engine.vhdx.guid import NIL_TEXT, guid_bytes

TYPE_GUID = guid_bytes("b04aefb7-d19e-4a81-b789-25b8e9445913")
MAX_BYTES = 64 * KIB
MAX_PAIRS = 256

LINKAGE = "parent_linkage"
LINKAGE2 = "parent_linkage2"
RELATIVE = "relative_path"
VOLUME = "volume_path"
ABSOLUTE = "absolute_win32_path"
# The order in which Windows looks at them ([MS-VHDX] 2.6.2.6.3).
PATHS = (RELATIVE, VOLUME, ABSOLUTE)
_KNOWN = frozenset({*PATHS, LINKAGE, LINKAGE2})

_HEADER = struct.Struct("<16sHH")
_PAIR = struct.Struct("<IIHH")
_BRACED = re.compile(r"\{([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}")


class Pair(NamedTuple):
    """A key and its value. raw: the value's bytes; at: where they lie, from the item's start."""

    key: str
    value: str | None
    raw: bytes
    at: int
    problem: str | None

    @property
    def is_known(self) -> bool:
        return self.key in _KNOWN


class ParentLocator(NamedTuple):
    """offset: of the item in the file; damage: why its pairs cannot be read, a half sentence."""

    offset: int
    raw: bytes
    pairs: tuple[Pair, ...]
    damage: str | None = None

    def get(self, key: str) -> Pair | None:
        return next((pair for pair in self.pairs if pair.key == key), None)


def parse(offset: int, raw: bytes) -> ParentLocator:
    """Every pair of the item; never raises: what cannot be read is said.

    Source: [MS-VHDX] 2.6.2.6.
    """

    def damaged(why: str) -> ParentLocator:
        return ParentLocator(offset, raw, (), why)

    if len(raw) < _HEADER.size:
        return damaged(f"it has only {len(raw)} bytes")
    if len(raw) > MAX_BYTES:
        return damaged(f"it has {len(raw):,} bytes, more than any locator")
    kind, _, count = _HEADER.unpack_from(raw)
    if kind != TYPE_GUID:
        return damaged("its type is not that of a VHDX parent locator")
    if count > MAX_PAIRS or _HEADER.size + count * _PAIR.size > len(raw):
        return damaged(f"it claims {count:,} entries, which do not fit into it")
    pairs = []
    for index in range(count):
        entry = _PAIR.unpack_from(raw, _HEADER.size + index * _PAIR.size)
        key_at, value_at, key_bytes, value_bytes = entry
        if not key_bytes or key_at + key_bytes > len(raw) or value_at + value_bytes > len(raw):
            return damaged(f"entry {index + 1} does not lie inside of it")
        key, problem = _text(raw[key_at : key_at + key_bytes])
        if problem is not None:
            return damaged(f"the key of entry {index + 1} {problem}")
        data = raw[value_at : value_at + value_bytes]
        value, problem = _text(data)
        pairs.append(Pair(key, value, data, value_at, problem))
    return ParentLocator(offset, raw, tuple(pairs))


def _text(data: bytes) -> tuple[str, str | None]:
    """UTF-16LE text and what is wrong with it."""
    if len(data) % 2:
        return escape_surrogates(data[:-1].decode("utf-16-le", "surrogatepass")), (
            "has an odd number of bytes"
        )
    text = data.decode("utf-16-le", "surrogatepass")
    shown = escape_surrogates(text).replace("\0", "\\x00")
    if not text:
        return shown, "is empty"
    if "\0" in text:
        return shown, "has a NUL in it"
    if has_surrogates(text):
        return shown, "has unpaired surrogates"
    return shown, None


def linkage(locator: ParentLocator) -> tuple[str, str | None]:
    """The parent's DataWriteGuid as the child knows it, and why it cannot be used."""
    if locator.damage is not None:
        return NIL_TEXT, f"The parent locator cannot be read: {locator.damage}."
    found = [pair for pair in locator.pairs if pair.key == LINKAGE]
    if not found:
        return NIL_TEXT, "The parent locator has no parent_linkage: nothing identifies the parent."
    if len({pair.raw for pair in found}) > 1:
        return NIL_TEXT, "The parent locator has two different parent_linkage entries."
    match = _BRACED.fullmatch(found[0].value or "")
    if match is None or found[0].problem is not None:
        return NIL_TEXT, (
            f"The parent_linkage is {found[0].value!r}, where an identity in braces is due."
        )
    if match[1] == NIL_TEXT:
        return NIL_TEXT, "The parent_linkage is all zeros: nothing identifies the parent."
    return match[1].lower(), None


def reference(locator: ParentLocator) -> ParentReference:
    """What the item says about the parent, in the engine's words."""
    identity, problem = linkage(locator)
    second = locator.get(LINKAGE2)
    match = _BRACED.fullmatch(second.value or "") if second is not None else None
    also = "" if match is None or match[1] == NIL_TEXT else match[1].lower()
    found = tuple(_locators(locator))
    return ParentReference(identity, None, None, found, identity_problem=problem, also=also)


def _locators(locator: ParentLocator) -> Iterator[Locator]:
    """Paths in Windows' order of looking, then every other key as it stands."""
    rank = {key: number for number, key in enumerate(PATHS)}
    seen: set[str] = set()
    for pair in sorted(locator.pairs, key=lambda one: rank.get(one.key, len(PATHS))):
        problem = None if pair.problem is None else f"Unusable: its text {pair.problem}."
        if problem is None and pair.key in seen:
            problem = "Unusable: this key is there twice."
        if problem is None and not pair.is_known:
            problem = "Not used: this key is not known."
        seen.add(pair.key)
        yield Locator(
            pair.key, pair.value, pair.raw, locator.offset + pair.at, len(pair.raw), problem
        )


def findings(locator: ParentLocator) -> Iterator[Finding]:
    """Every rule that the item breaks."""
    at = locator.offset

    def finding(level: Level, code: str, text: str, key: str, value: str | None = None) -> Finding:
        return Finding(level, code, text, key, at, value)

    _, problem = linkage(locator)
    if problem is not None:
        yield finding(Level.ERROR, "E_LOCATOR", problem, LINKAGE)
    if locator.damage is not None:
        return
    keys = [pair.key for pair in locator.pairs]
    for key in dict.fromkeys(keys):
        if keys.count(key) > 1:
            yield finding(
                Level.ERROR, "E_LOCATOR", f"The parent locator has the key {key} twice.", key
            )
    usable = [pair for pair in locator.pairs if pair.key in PATHS and pair.problem is None]
    for pair in locator.pairs:
        if pair.problem is not None and pair.key != LINKAGE:
            text = f"The value of {pair.key} {pair.problem}."
            code = "E_LOCATOR" if pair.problem == "is empty" else "E_LOCATOR_ENCODING"
            yield finding(Level.ERROR, code, text, pair.key, pair.value)
    if not usable:
        yield finding(
            Level.ERROR,
            "E_NO_PARENT_NAME",
            "The parent locator has no path that could be used to find the parent.",
            "parent_locator",
        )
    second = locator.get(LINKAGE2)
    if second is not None and (second.value or "").strip("{}") != NIL_TEXT:
        yield finding(
            Level.WARNING,
            "W_LINKAGE2",
            f"A second identity of the parent is there ({second.value}); it is not used.",
            LINKAGE2,
            second.value,
        )
    names = {re.split(r"[\\/]", pair.value or "")[-1].casefold() for pair in usable}
    if len(names) > 1:
        yield finding(
            Level.WARNING,
            "W_PARENT_NAMES_DIFFER",
            f"The paths name the parent differently: {', '.join(sorted(names))}.",
            "parent_locator",
        )


def pack(pairs: Sequence[tuple[str, bytes]]) -> bytes:
    """The item's bytes for keys and values (UTF-16LE), in order. Raises ImageError `E_NAME`."""
    keys = [key.encode("utf-16-le") for key, _ in pairs]
    at = _HEADER.size + len(pairs) * _PAIR.size
    total = at + sum(map(len, keys)) + sum(len(value) for _, value in pairs)
    if total > MAX_BYTES:  # so each value is short enough for its field, too
        raise ImageError("E_NAME", "The parent's path is too long.", field="parent")
    entries, strings = b"", b""
    for key, (_, value) in zip(keys, pairs, strict=True):
        entries += _PAIR.pack(at, at + len(key), len(key), len(value))
        strings += key + value
        at += len(key) + len(value)
    return _HEADER.pack(TYPE_GUID, 0, len(pairs)) + entries + strings


def pairs_of(parent: NewParent) -> list[tuple[str, bytes]]:
    """Keys and values of a new link, in the order in which Windows writes them.

    Raises ImageError `E_NAME`.
    """
    pairs = [(LINKAGE, encode(f"{{{parent.identity}}}"))]
    if parent.windows_path:
        pairs.append((ABSOLUTE, encode(parent.windows_path)))
    if parent.relative_path:
        pairs.append((RELATIVE, encode(parent.relative_path)))
    return pairs


def encode(text: str) -> bytes:
    """A value's bytes. Raises ImageError `E_NAME`."""
    if not text or "\0" in text:
        raise ImageError(
            "E_NAME", "The parent's path is empty or has a NUL in it.", field="parent", value=text
        )
    try:
        return text.encode("utf-16-le")
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise ImageError(
            "E_NAME",
            f"The path {shown} has bytes that are no characters; a disk cannot name it.",
            field="parent",
            value=shown,
        ) from error
