"""How sizes, times, names and states look, the same on every page. Built into all templates.

Names and paths come from disks and are hostile until shown through `name`, `winpath` or plain
autoescaping; the filters here escape everything that they wrap.
"""

from __future__ import annotations

import re
import unicodedata
import uuid
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from django import template
from django.core.signals import setting_changed
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from disks.engine.units import size_text
from disks.services import leases
from disks.templatetags import field_words as fields

register = template.Library()

# --- numbers -----------------------------------------------------------------------------


@register.filter(name="bytes")
def bytes_(count_bytes: Any) -> str:
    """A size for people, with the exact number on hover."""
    if not isinstance(count_bytes, int | float):
        return mark_safe('<span class="text-secondary">unknown</span>')
    # Figures need no escaping, and a list has hundreds of them.
    return mark_safe(  # noqa: S308
        f'<span class="size" title="{int(count_bytes):,} bytes">{size_text(count_bytes)}</span>'
    )


@register.filter
def field_words(field: Any) -> tuple[str, str]:
    """A plan's field in words, and the format's own name for it."""
    return fields.field_words(str(field))


@register.filter
def bytes_text(count_bytes: Any) -> str:
    """The size alone, for titles and attributes."""
    return size_text(count_bytes if isinstance(count_bytes, int | float) else None)


@register.filter
def grouped(number: Any) -> str:
    """12,345"""
    return f"{number:,}" if isinstance(number, int) else str(number)


@register.filter
def percent_of(part: Any, whole: Any) -> int:
    """0 to 100, and 100 only when all of it is there."""
    if not isinstance(part, int | float) or not whole:
        return 0
    return max(0, min(100, int(part * 100 / whole)))


# --- times -------------------------------------------------------------------------------


def duration_text(seconds: float | int | timedelta | None) -> str:
    """ "2 h 5 min", "40 s": the two largest units."""
    if seconds is None:
        return "unknown"
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    rest = max(0, round(seconds))
    if rest == 0 and seconds > 0:
        return "less than 1 s"
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


@register.filter
def duration(seconds: Any) -> str:
    return duration_text(seconds)


@register.filter
def minutes(count: Any) -> str:
    """ "15 minutes", "hour", "6 hours", "day": after the word "every"."""
    if not isinstance(count, int) or count <= 0:
        return "never"
    for name, length in (("day", 1440), ("hour", 60)):
        if count % length == 0:
            number = count // length
            return name if number == 1 else f"{number} {name}s"
    return f"{count} minutes"


def ago_text(moment: datetime, now: datetime | None = None) -> str:
    """ "3 minutes ago", "in 2 hours", "just now"."""
    seconds = ((now or timezone.now()) - moment).total_seconds()
    distance = abs(seconds)
    if distance < 10:
        return "just now"
    for name, length in (
        ("year", 365 * 86400),
        ("month", 30 * 86400),
        ("day", 86400),
        ("hour", 3600),
        ("minute", 60),
        ("second", 1),
    ):
        count = int(distance // length)
        if count:
            words = f"{count} {name}{'s' if count > 1 else ''}"
            return f"{words} ago" if seconds > 0 else f"in {words}"
    return "just now"


def exact_text(moment: datetime) -> str:
    """ "22 Nov 2026 21:05:07 UTC", in the console's time zone."""
    local = timezone.localtime(moment)
    return f"{local.day} {local:%b %Y %H:%M:%S %Z}"


@register.filter
def ago(moment: Any) -> str:
    """How long ago, with the exact moment on hover and for machines."""
    if not isinstance(moment, datetime):
        return mark_safe('<span class="text-secondary">never</span>')
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment)
    return mark_safe(  # noqa: S308  figures and our own words
        f'<time datetime="{moment.isoformat(timespec="seconds")}" title="{exact_text(moment)}">'
        f"{ago_text(moment)}</time>"
    )


@register.filter
def exact(moment: Any) -> str:
    """The exact moment in words, with how long ago on hover."""
    if not isinstance(moment, datetime):
        return mark_safe('<span class="text-secondary">never</span>')
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(timespec="seconds"),
        ago_text(moment),
        exact_text(moment),
    )


# --- names and paths ---------------------------------------------------------------------

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def odd_character(character: str) -> str | None:
    """What stands for a character that would hide, break or turn the text; None: it is fine.

    A byte that is not UTF-8 (kept by Python as a lone surrogate) shows as \\xff, controls
    and direction marks as their code point.
    """
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in _INVISIBLE:
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return None


def plain_text(text: Any) -> str:
    """Text with every odd character spelt out; for titles, CSV and attributes."""
    text = str(text)
    if text.isprintable():  # nearly always: then no character is odd
        return text
    return "".join(odd_character(character) or character for character in text)


# What a sentence holds that must not be broken where a hyphen would allow it.
_WHOLE = re.compile(r"(\S*[\\/]\S*|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)")


def _html(text: str) -> SafeString:
    """A sentence or a name, escaped; paths and identities in it are boxes as in a path."""
    pieces = enumerate(_WHOLE.split(text))
    return _isolated("".join(_boxes(piece) if at % 2 else _shown(piece) for at, piece in pieces))


def _boxes(path: str) -> str:
    """Each name of a path in a box of its own, which goes to the next line whole."""
    parts = [_shown(piece) for piece in re.split(r"(?<=[\\/])", path)]
    return "<wbr>".join(f'<span class="part">{part}</span>' for part in parts if part)


def _isolated(shown: str) -> SafeString:
    # dir=ltr isolates the name: letters of right-to-left scripts cannot reorder its neighbours
    return mark_safe(f'<bdi dir="ltr" class="path">{shown}</bdi>')  # noqa: S308  escaped before


def _shown(piece: str) -> str:
    return str(escape(piece)) if piece.isprintable() else "".join(map(_character, piece))


def _character(character: str) -> str:
    odd = odd_character(character)
    if odd is None:
        return str(escape(character))
    return f'<span class="odd" title="hidden character">{odd}</span>'


@register.filter
def winpath(path: Any) -> str:
    """A path, broken only after its separators, never inside a name; oddities made visible."""
    return _isolated(_boxes("" if path is None else str(path)))


@register.filter
def name(text: Any) -> str:
    """A file's name or any other text from a disk; oddities made visible."""
    return _html("" if text is None else str(text))


@register.filter
def visible(text: Any) -> str:
    """As plain text: oddities spelt out, for attributes."""
    return plain_text("" if text is None else text)


@register.filter
def folder(path: Any) -> str:
    """What stands before the last separator of either kind; empty for a bare name."""
    head = re.match(r"(.*)[\\/]", str(path or ""), re.DOTALL)
    return head[1] if head else ""


# --- states: always an icon and a word, colour only on top ---------------------------------

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
def new_key() -> str:
    """The key of one form as it is drawn: sent twice, it is one job."""
    return uuid.uuid4().hex


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
    return badge("health", getattr(disk, "health", disk))


@register.simple_tag
def at_work_on(disk: Any) -> Any:
    """The job that has a disk for itself, or None."""
    return leases.at_work_on(disk.path)


@register.simple_tag
def identity(value: Any) -> str:
    """An identity in monospace with a button that copies it."""
    if not value:
        return mark_safe('<span class="text-secondary">none</span>')
    return format_html('<span class="identity"><code>{}</code>{}</span>', value, copy(value))


@register.simple_tag
def copy(text: Any, label: str = "Copy") -> str:
    """A button that copies a text; it shows itself only where scripts run."""
    return format_html(
        '<button type="button" class="copy" data-copy="{}" aria-label="{}" title="{}" hidden>'
        "{}</button>",
        plain_text(text),
        label,
        label,
        icon("copy"),
    )


@register.simple_tag(takes_context=True)
def row_menu(context: Any, disk: Any, address: str, actions: Any) -> str:
    """What can be done with a disk, the same everywhere; or that it cannot, with the reason.

    address: of the disk's page. Written here, not as a template: a list has hundreds of them.
    """
    token = str(context.get("csrf_token", ""))  # letters and figures
    entries = [
        _menu_button(action, token) if action.possible and action.posts else _menu_entry(action)
        for action in actions
    ]
    label = escape(f"Actions for {plain_text(disk.name)}")
    return mark_safe(  # noqa: S308  escaped here and below
        f'<details class="dropdown menu"><summary aria-label="{label}">{icon("dots-vertical")}'
        '</summary><div class="dropdown-menu dropdown-menu-end show">'
        f'<a class="dropdown-item" href="{escape(address)}">{icon("eye")}Inspect</a>'
        f"{''.join(entries)}</div></details>"
    )


def _menu_button(action: Any, token: str) -> str:
    """One that changes something at once: a form of its own."""
    return (
        f'<form method="post" action="{escape(action.url)}">'
        f'<input type="hidden" name="csrfmiddlewaretoken" value="{token}">'
        f'<input type="hidden" name="key" value="{new_key()}">'
        f'<button class="dropdown-item">{icon(action.icon)}{escape(action.label)}</button></form>'
    )


def _menu_entry(action: Any) -> str:
    words = f"{icon(action.icon)}{escape(action.label)}"
    if action.possible:
        return f'<a class="dropdown-item" href="{escape(action.url)}">{words}…</a>'
    reason = escape(plain_text(action.reason))
    return (
        f'<span class="dropdown-item disabled" aria-disabled="true">{words}'
        f'<span class="vd-reason">{reason}</span></span>'
    )


# --- lists -------------------------------------------------------------------------------


@register.inclusion_tag("components/sort_header.html", takes_context=True)
def sort_header(context: Any, key: str, words: str, css: str = "") -> dict[str, Any]:
    """A column's head that sorts by key; the view puts the present key into `sort`."""
    present = str(context.get("sort", ""))
    direction = ""
    if present.lstrip("-") == key:
        direction = "descending" if present.startswith("-") else "ascending"
    parameters = context["request"].GET.copy()
    parameters.pop("page", None)
    parameters["sort"] = f"-{key}" if direction == "ascending" else key
    return {
        "words": words,
        "css": css,
        "direction": direction,
        "address": f"?{parameters.urlencode()}",
        "target": context.get("list_target", ""),
    }


@register.simple_tag(takes_context=True)
def page_numbers(context: Any, page: Any) -> list[Any]:
    """The pages to offer: both ends, the neighbours, "…" between."""
    return list(page.paginator.get_elided_page_range(page.number, on_each_side=1, on_ends=1))
