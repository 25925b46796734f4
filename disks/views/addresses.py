"""Addresses of pages about one disk, cheap enough for lists of hundreds of links."""

from __future__ import annotations

from functools import lru_cache

from django.urls import get_script_prefix, reverse

_PLACE = 987_654_321_012_345  # stands where the number of a disk will


def disk_address(name: str, disk: int) -> str:
    """As reverse(name, args=[disk]), for the patterns that take one number."""
    before, after = _around(name, get_script_prefix())
    return f"{before}{disk}{after}"


def page_address(name: str) -> str:
    """As reverse(name)."""
    return _reversed(name, get_script_prefix())


@lru_cache(64)
def _reversed(name: str, prefix: str) -> str:
    return reverse(name)


@lru_cache(64)
def _around(name: str, prefix: str) -> tuple[str, str]:
    """What stands before and behind the number; prefix: where the console is mounted."""
    before, _, after = reverse(name, args=[_PLACE]).partition(str(_PLACE))
    return before, after
