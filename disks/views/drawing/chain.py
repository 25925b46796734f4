"""The chain, drawn: base at the top, leaf at the bottom, like the history of a branch.

Every disk is a point on a rail with its name, one line of facts and a bar that shows
its virtual size and, filled, what it takes on storage, to one scale for the whole chain.
Siblings leave the rail as small branches. A broken link is a gap in the rail with its
reason written into it. The same data gives a wide and a narrow drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from django.utils.safestring import SafeString

from disks.views.drawing import svg
from disks.views.drawing.text import fitted, visible

WIDE_PX = 760
NARROW_PX = 330
RAIL_X = 18
TEXT_X = 44
BRANCH_STEP = 24
NAME_FONT_PX = 15
FACTS_FONT_PX = 12.5
BOLD = 1.13  # how much wider a bold name is: of the disk the page is about, of a lost parent


@dataclass(frozen=True, slots=True)
class Branch:
    """Another child of the same parent."""

    name: str
    url: str | None
    facts: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class ChainDisk:
    """One disk of the chain.

    facts             one line, "base · dynamic · healthy"
    size              the sizes in words, "1.9 GB of 40 GB"
    allocated_bytes   on storage; virtual_bytes what a guest sees; 0 when unknown
    mark              "ok", "note", "bad" or "gone": shape and colour of its point
    siblings          other children of this disk's parent, drawn where it leaves it
    siblings_more     how many further ones are not drawn; siblings_url leads to them
    children          disks that name this one as their parent, drawn below it
    """

    name: str
    url: str | None
    facts: str
    size: str
    allocated_bytes: int
    virtual_bytes: int
    mark: str = "ok"
    current: bool = False
    siblings: tuple[Branch, ...] = field(default_factory=tuple)
    siblings_more: int = 0
    siblings_url: str | None = None
    children: tuple[Branch, ...] = field(default_factory=tuple)
    children_more: int = 0
    children_url: str | None = None


@dataclass(frozen=True, slots=True)
class ChainGap:
    """A link that leads nowhere: what is named, and why it was not reached."""

    name: str
    reason: str
    url: str | None = None


@dataclass(frozen=True, slots=True)
class ChainFold:
    """Levels that are left out of a long chain, so that it stays readable."""

    count: int
    url: str | None = None


ChainPart = ChainDisk | ChainGap | ChainFold


def draw_chain(
    parts: Sequence[ChainPart], *, width: int = WIDE_PX, identifier: str = "chain"
) -> SafeString:
    """SVG of a chain, base first. identifier makes the ids of title and desc unique."""
    largest = max((p.virtual_bytes for p in parts if isinstance(p, ChainDisk)), default=0)
    pen = _Pen(width=width, largest_bytes=largest)
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        broken_below = isinstance(part, ChainGap)
        if isinstance(part, ChainDisk):
            pen.branches(part.siblings, part.siblings_more, part.siblings_url, "Beside it")
            pen.disk(part, last=last)
            pen.branches(part.children, part.children_more, part.children_url, "Below it")
        elif isinstance(part, ChainGap):
            pen.gap(part, last=last)
        else:
            pen.fold(part, last=last)
        pen.dashed = broken_below
    return svg.document(
        [*pen.rails, *pen.marks],
        width=width,
        height=pen.y + 6,
        identifier=identifier,
        heading="The chain, from base to leaf",
        description=describe(parts),
        class_="vd-chain",
    )


def describe(parts: Sequence[ChainPart]) -> str:
    """The drawing in words, for those who do not see it."""
    return " Then ".join(_in_words(part) for part in parts)


def _in_words(part: ChainPart) -> str:
    if isinstance(part, ChainGap):
        return f"a gap: {visible(part.name)}, {part.reason}".rstrip(".") + "."
    if isinstance(part, ChainFold):
        return f"{part.count:,} more levels."
    here = " (this disk)" if part.current else ""
    beside = len(part.siblings) + part.siblings_more
    siblings = f", beside {beside:,} other children of its parent" if beside else ""
    below = len(part.children) + part.children_more
    children = f", with {below:,} children" if below else ""
    return f"{visible(part.name)}{here}: {part.facts}, {part.size}{siblings}{children}."


class _Pen:
    """Draws downwards and remembers where it is."""

    def __init__(self, *, width: int, largest_bytes: int) -> None:
        self.width = width
        self.wide = width >= 560
        self.largest_bytes = largest_bytes
        self.y = 4.0
        self.rail_from: float | None = None
        self.dashed = False
        self.rails: list[str] = []
        self.marks: list[str] = []

    @property
    def text_px(self) -> float:
        return (self.width * 0.58 if self.wide else self.width) - TEXT_X - 20

    def disk(self, disk: ChainDisk, *, last: bool) -> None:
        height = 54.0 if self.wide else 76.0
        middle = self.y + 20
        label = visible(disk.name)
        lines = [
            svg.text(
                fitted(label, self.text_px, NAME_FONT_PX * (BOLD if disk.current else 1)),
                TEXT_X,
                self.y + 18,
                "vd-chain-name vd-chain-here" if disk.current else "vd-chain-name",
            ),
            svg.text(
                fitted(disk.facts, self.text_px, FACTS_FONT_PX),
                TEXT_X,
                self.y + 36,
                "vd-chain-facts",
            ),
        ]
        if disk.current:
            self.marks.append(
                svg.element(
                    "rect",
                    x=1,
                    y=self.y - 2,
                    width=self.width - 2,
                    height=height - 6,
                    rx=6,
                    class_="vd-chain-highlight",
                )
            )
        self._rail_to(middle)
        body = self._whole_row(height - 6) + "".join(lines) + self._bar(disk)
        self.marks.append(svg.link(disk.url, f"{label}: {disk.facts}, {disk.size}", body))
        self.marks.append(_point(disk.mark, RAIL_X, middle))
        self._leave(middle, last)
        self.y += height

    def _whole_row(self, height: float) -> str:
        """Makes a row's link as large as the row; a rail is not hidden by it."""
        return svg.element(
            "rect", x=1, y=self.y - 2, width=self.width - 2, height=height, rx=6, class_="vd-row"
        )

    def _bar(self, disk: ChainDisk) -> str:
        """Virtual size as an outline, storage as its filling, one scale for all disks."""
        if self.wide:
            left, top = self.width * 0.58, self.y + 11
        else:
            left, top = float(TEXT_X), self.y + 59
        room = self.width - left - 10
        words = svg.text(disk.size, left, top - (1 if self.wide else 6), "vd-chain-facts")
        if self.largest_bytes <= 0 or disk.virtual_bytes <= 0:
            return words
        outline = max(6.0, room * disk.virtual_bytes / self.largest_bytes)
        filled = min(outline, room * disk.allocated_bytes / self.largest_bytes)
        if disk.allocated_bytes > 0:
            filled = max(2.0, filled)
        top += 7 if self.wide else 0
        return (
            words
            + svg.element(
                "rect", x=left, y=top, width=outline, height=8, rx=3, class_="vd-bar-outline"
            )
            + svg.element(
                "rect", x=left, y=top, width=filled, height=8, rx=3, class_="vd-bar-filled"
            )
        )

    def branches(
        self, branches: Sequence[Branch], more: int, more_url: str | None, where: str
    ) -> None:
        """Small branches that leave the rail here: the disks beside or below this one."""
        rows: list[tuple[str, str | None, bool]] = [
            (_branch_label(branch), branch.url, branch.marked) for branch in branches
        ]
        if more:
            rows.append((f"and {more:,} more", more_url, False))
        x = RAIL_X + BRANCH_STEP
        start = self.y - (30 if self.rail_from is None else 12)
        for label, url, marked in rows:
            middle = self.y + 9
            self.rails.append(_branch_line(start, middle, x - 5))
            self.marks.append(
                svg.link(
                    url,
                    f"{where}: {label}",
                    svg.element(
                        "circle",
                        cx=x,
                        cy=middle,
                        r=4,
                        class_="vd-point-bad" if marked else "vd-point-branch",
                    )
                    + svg.text(
                        fitted(label, self.width - x - 22, FACTS_FONT_PX),
                        x + 12,
                        middle + 4.5,
                        "vd-chain-sibling",
                    ),
                )
            )
            self.y += 22
        if rows:
            self.y += 4

    def gap(self, gap: ChainGap, *, last: bool) -> None:
        middle = self.y + 20
        self._rail_to(middle, broken=True)
        room = self.width - TEXT_X - 10
        label = visible(gap.name)
        lines = _wrapped(gap.reason, room, FACTS_FONT_PX, 2 if self.wide else 4)
        body = svg.text(
            fitted(label, room, NAME_FONT_PX * BOLD), TEXT_X, self.y + 18, "vd-chain-lost"
        )
        for row, line in enumerate(lines):
            body += svg.text(line, TEXT_X, self.y + 36 + 16 * row, "vd-chain-facts")
        height = 44.0 + 16 * len(lines)
        self.marks.append(
            svg.element(
                "rect",
                x=1,
                y=self.y - 2,
                width=self.width - 2,
                height=height - 8,
                rx=6,
                class_="vd-chain-gap",
            )
        )
        body = self._whole_row(height - 8) + body
        self.marks.append(svg.link(gap.url, f"{label}: {gap.reason}", body))
        self.marks.append(_point("gone", RAIL_X, middle))
        self.dashed = True
        self._leave(middle, last)
        self.y += height

    def fold(self, fold: ChainFold, *, last: bool) -> None:
        middle = self.y + 14
        self._rail_to(middle - 8)
        words = f"{fold.count:,} more levels"
        self.marks.append(
            svg.link(fold.url, words, svg.text(words, TEXT_X, middle + 4, "vd-chain-facts"))
        )
        for step in (-6, 0, 6):
            self.marks.append(
                svg.element("circle", cx=RAIL_X, cy=middle + step, r=1.8, class_="vd-point-branch")
            )
        self._leave(middle + 8, last)
        self.y += 32

    def _rail_to(self, y: float, *, broken: bool = False) -> None:
        if self.rail_from is not None:
            self.rails.append(
                svg.element(
                    "line",
                    x1=RAIL_X,
                    y1=self.rail_from,
                    x2=RAIL_X,
                    y2=y,
                    class_="vd-chain-rail-broken" if self.dashed or broken else "vd-chain-rail",
                )
            )

    def _leave(self, y: float, last: bool) -> None:
        self.rail_from = None if last else y


def _branch_label(branch: Branch) -> str:
    return f"{visible(branch.name)} · {branch.facts}" if branch.facts else visible(branch.name)


def _branch_line(start: float, middle: float, x: float) -> str:
    """Down along the rail, then a small bend to the branch's point."""
    bend = svg.number(middle - 8)
    return svg.element(
        "path",
        d=f"M{RAIL_X} {svg.number(start)}V{bend}Q{RAIL_X} {svg.number(middle)} "
        f"{svg.number(x)} {svg.number(middle)}",
        class_="vd-chain-branch",
    )


def _point(mark: str, x: float, y: float) -> str:
    """Shape and colour together: nobody has to tell red from green."""
    if mark == "bad":
        return svg.element("circle", cx=x, cy=y, r=9, class_="vd-point-bad") + svg.element(
            "path", d=_path("M-3.5 -3.5 L3.5 3.5 M3.5 -3.5 L-3.5 3.5", x, y), class_="vd-point-sign"
        )
    if mark == "note":
        return svg.element(
            "path", d=_path("M0 -9 L9.5 8 L-9.5 8 Z", x, y), class_="vd-point-note"
        ) + svg.element("path", d=_path("M0 -3 L0 2 M0 4.6 L0 5", x, y), class_="vd-point-sign")
    if mark == "gone":
        return svg.element("circle", cx=x, cy=y, r=9, class_="vd-point-gone") + svg.text(
            "?", x, y + 4.5, "vd-point-question", text_anchor="middle"
        )
    return svg.element("circle", cx=x, cy=y, r=9, class_="vd-point-ok") + svg.element(
        "path", d=_path("M-4 0 L-1 3.2 L4.2 -3", x, y), class_="vd-point-sign"
    )


def _path(commands: str, x: float, y: float) -> str:
    """Path commands around 0,0 moved to x,y; every command letter is followed by `x y`."""
    words = commands.replace("M", "M ").replace("L", "L ").split()
    moved: list[str] = []
    horizontal = True
    for word in words:
        if word in "MLZ":
            moved.append(word)
            continue
        moved.append(svg.number(float(word) + (x if horizontal else y)))
        horizontal = not horizontal
    return " ".join(moved)


def _wrapped(sentence: str, room_px: float, font_px: float, lines: int) -> list[str]:
    """At most that many lines; the rest of the sentence is in the text list below the drawing."""
    wrapped: list[str] = []
    line = ""
    words = visible(sentence).split(" ")
    for index, word in enumerate(words):
        longer = f"{line} {word}" if line else word
        if fitted(longer, room_px, font_px) == longer:
            line = longer
            continue
        if line:
            wrapped.append(line)
        if len(wrapped) == lines - 1:
            wrapped.append(fitted(" ".join(words[index:]), room_px, font_px))
            return wrapped
        line = fitted(word, room_px, font_px)
    return [*wrapped, line] if line else wrapped
