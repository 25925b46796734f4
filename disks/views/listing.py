"""Reading a list's address: only what is on the list's own allow-lists is understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.http import QueryDict

MAX_PAGE = 1_000_000


class BadAddress(ValueError):
    """The address asks for something that this list does not offer (400)."""


def chosen(
    query: QueryDict, key: str, allowed: Mapping[str, Any] | set[str] | frozenset[str]
) -> str:
    """The value of a filter, empty when it is not set; unknown values are refused."""
    value = query.get(key, "")
    if value and value not in allowed:
        raise BadAddress(f"“{key}” has no such value.")
    return value


def number(query: QueryDict, key: str, *, default: int = 0, most: int = 2**53) -> int:
    """A whole number that is not negative."""
    text = query.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16) or int(text) > most:
        raise BadAddress(f"“{key}” is no number that can be used here.")
    return int(text)


def words(query: QueryDict, key: str = "q", *, longest: int = 400) -> str:
    """A search text; control characters are nothing that a name is searched by."""
    text = query.get(key, "").strip()
    if "\x00" in text or len(text) > longest:
        raise BadAddress("This search text cannot be used.")
    return text


def numbers(values: list[str], *, most: int = 1_000) -> list[int]:
    """Row numbers as checkboxes send them, each once, in their order."""
    found: list[int] = []
    for text in values[: most + 1]:
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise BadAddress("A selected row is no number.")
        found.append(int(text))
    if len(found) > most:
        raise BadAddress(f"At most {most:,} rows can be selected at once.")
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a list, counted only as far as a person would read.

    total       rows in all, at most as many as were counted
    uncounted   there are more than total
    """

    number: int
    size: int
    rows: list[Any]
    total: int
    uncounted: bool
    has_next: bool

    @property
    def first(self) -> int:
        return (self.number - 1) * self.size + 1 if self.rows else 0

    @property
    def last(self) -> int:
        return self.first + len(self.rows) - 1 if self.rows else 0

    @property
    def previous(self) -> int | None:
        return self.number - 1 if self.number > 1 else None

    @property
    def next(self) -> int | None:
        return self.number + 1 if self.has_next else None

    @property
    def total_words(self) -> str:
        return f"more than {self.total:,}" if self.uncounted else f"{self.total:,}"


def paged(
    rows: Any,
    query: QueryDict,
    *,
    size: int = 50,
    counted_to: int = 10_000,
    costly: bool = False,
    whole: Any = None,
) -> Page:
    """One page of a queryset in two or three queries, whatever its length.

    Counting stops at counted_to: nobody needs the exact number of 100,000 rows, and
    counting them would cost more than showing the page. The rows before the page are passed
    over by their keys alone, which an index holds; only the page's rows are read whole.

    costly: no index helps to find the rows, so they are looked for once, not for the count
    and again for the page.
    whole: the same queryset without its conditions, to read the page's rows by their keys.
    """
    page = number(query, "page", default=1, most=MAX_PAGE) or 1
    all_keys = rows.values_list("pk", flat=True)
    keys = list(all_keys[: counted_to + 1]) if costly else []
    counted = len(keys) if costly else rows.order_by()[: counted_to + 1].count()
    uncounted = counted > counted_to
    total = min(counted, counted_to)
    if not uncounted:
        page = max(1, min(page, -(-total // size)))  # past the end: the last page
    start = (page - 1) * size
    stop = start + size + 1
    if not costly or (uncounted and stop > counted_to):
        wanted = list(all_keys[start:stop])
    else:
        wanted = keys[start:stop]
    found = (rows if whole is None else whole).order_by().in_bulk(wanted[:size])
    return Page(
        number=page,
        size=size,
        rows=[found[key] for key in wanted[:size] if key in found],
        total=total,
        uncounted=uncounted,
        has_next=len(wanted) > size,
    )
