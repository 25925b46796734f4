"""The two ways to work on a disk, where it lies or by a copy, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from disks.engine.errors import ImageError
from disks.forms.merge import COPY, IN_PLACE
from disks.services.errors import Refusal


@dataclass(frozen=True)
class Way:
    """One of the two: its label, one sentence on what it needs, and the page that shows it."""

    value: str
    label: str
    sentence: str
    address: str
    is_chosen: bool

    @property
    def offer(self) -> str:
        """What a button says that leads to it."""
        return f"Look at it {self.label.lower()} instead"


def is_in_place(sent: Mapping[str, Any]) -> bool:
    """What an address or a form asks for; in place is the usual way."""
    return sent.get("way") != COPY


def both(
    address: str, query: Mapping[str, Any], *, in_place: bool, needs: tuple[str, str]
) -> list[Way]:
    """The choice as a page draws it. query: what else its address says; needs: a sentence each."""
    values = ((IN_PLACE, "In place"), (COPY, "By copy"))
    return [
        Way(
            value,
            label,
            sentence,
            f"{address}?{urlencode({**query, 'way': value})}",
            in_place is (value == IN_PLACE),
        )
        for (value, label), sentence in zip(values, needs, strict=True)
    ]


def way_out(ways: list[Way], refusal_of_the_other: Callable[[], object]) -> Way | None:
    """The way that is not chosen, if it is not refused: asked where the chosen one is."""
    try:
        if refusal_of_the_other() is not None:
            return None
    except (ImageError, Refusal):
        return None
    return next(way for way in ways if not way.is_chosen)
