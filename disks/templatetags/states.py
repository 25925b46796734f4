"""How states look: always an icon and a word, colour only on top. Built into all templates."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django import template
from django.core.signals import setting_changed
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


_HEALTH = {
    "healthy": ("green", "circle-check", "Healthy"),
    "notice": ("yellow", "alert-circle", "Look at this"),
    "suspect": ("yellow", "alert-triangle", "Parent was written"),
    "broken": ("red", "unlink", "Chain broken"),
    "damaged": ("red", "file-broken", "Damaged"),
    "not-a-disk": ("secondary", "file-unknown", "Not a disk"),
    "in-use": ("azure", "lock", "In use"),
    "unreadable": ("red", "circle-x", "Unreadable"),
    "missing": ("red", "file-x", "Missing"),
    "put-away": ("secondary", "trash", "Put away"),  # missing, and a job of ours has done it
}
_LEVELS = {
    "error": ("red", "circle-x", "Error"),
    "warning": ("yellow", "alert-triangle", "Warning"),
    "note": ("secondary", "info-circle", "Note"),
}
_JOBS = {
    "queued": ("secondary", "hourglass", "Waiting"),
    "running": ("azure", "player-play", "Running"),
    "succeeded": ("green", "circle-check", "Done"),
    "failed": ("red", "circle-x", "Failed"),
    "cancelled": ("secondary", "ban", "Cancelled"),
    "paused": ("yellow", "player-pause", "Paused"),
    "lost": ("yellow", "plug-connected-x", "Worker lost"),
    "recovering": ("yellow", "refresh", "Recovering"),
    "needs-attention": ("red", "alert-triangle", "Needs attention"),
}
_ROOTS = {
    "new": ("secondary", "clock", "Not scanned yet"),
    "online": ("green", "circle-check", "Online"),
    "offline": ("red", "cloud-off", "Offline"),
    "changed": ("red", "alert-triangle", "Other file system"),
}
_LINKS = {
    "found": ("green", "circle-check", "Found"),
    "missing": ("red", "unlink", "Missing"),
    "in-use": ("azure", "lock", "In use"),
    "identity-mismatch": ("red", "alert-triangle", "Another disk is there"),
    "ambiguous": ("yellow", "help-circle", "Several candidates"),
    "outside-roots": ("yellow", "ban", "Outside the roots"),
    "unreadable": ("red", "circle-x", "Unreadable"),
    "cycle": ("red", "refresh", "Cycle"),
}
_VERDICTS = {
    "match": ("green", "circle-check", "Match"),
    "not-found": ("secondary", "circle-minus", "Nothing there"),
    "identity-mismatch": ("red", "alert-triangle", "Another disk"),
    "outside-roots": ("yellow", "ban", "Outside the roots"),
    "unmapped": ("yellow", "help-circle", "No root maps it"),
    "unreadable": ("red", "circle-x", "Unreadable"),
    "in-use": ("azure", "lock", "In use"),
    "invalid": ("yellow", "alert-circle", "Not a usable path"),
}
_STATES = {
    "health": _HEALTH,
    "level": _LEVELS,
    "job": _JOBS,
    "root": _ROOTS,
    "link": _LINKS,
    "verdict": _VERDICTS,
}


@register.simple_tag
def icon(symbol: str, label: str = "", css: str = "") -> str:
    """One icon of the sprite; without a label it is decoration and hidden from readers."""
    return _drawn(symbol, label, css)


@lru_cache(1024)
def _drawn(symbol: str, label: str, css: str) -> SafeString:
    """A page draws hundreds of icons, and always the same few."""
    address = f"{static('vendor/tabler-icons/icons.svg')}#{symbol}"
    css = f"icon {css}".strip()
    if label:
        return format_html(
            '<svg class="{}" role="img" aria-label="{}"><use href="{}"/></svg>', css, label, address
        )
    return format_html('<svg class="{}" aria-hidden="true"><use href="{}"/></svg>', css, address)


@register.simple_tag
def badge(kind: str, value: Any, words: str = "") -> str:
    """A state as badge: kind is health, level, job, root, link or verdict."""
    return _badge(kind, str(value), str(words))


@lru_cache(1024)
def _badge(kind: str, value: str, words: str) -> SafeString:
    colour, symbol, text = _STATES[kind].get(
        value, ("secondary", "help-circle", value.replace("-", " ").capitalize())
    )
    return format_html(
        '<span class="badge state state-{}">{}{}</span>', colour, icon(symbol), words or text
    )


def _forget_drawn(*, setting: str, **_: Any) -> None:
    """Where static files lie is settled at the start; only tests change it later."""
    if setting in ("STATIC_URL", "STORAGES", "STATIC_ROOT"):
        _drawn.cache_clear()
        _badge.cache_clear()


setting_changed.connect(_forget_drawn)


@register.simple_tag
def health(disk: Any) -> str:
    """The health badge of a disk (or of a health word)."""
    put_away = getattr(disk, "is_put_away", False)
    return badge("health", "put-away" if put_away else getattr(disk, "health", disk))
