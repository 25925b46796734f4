"""How sizes, numbers and times look, the same on every page. Built into all templates."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import mark_safe

from disks.engine.units import size_text
from disks.templatetags import field_words as fields

register = template.Library()


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
