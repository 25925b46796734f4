"""Identities, menus, heads of lists: small parts that look the same on every page.

Built into all templates. What comes from disks is escaped here where it is wrapped.
"""

from __future__ import annotations

import uuid
from typing import Any

from django import template
from django.utils.html import escape, format_html
from django.utils.safestring import mark_safe

from disks.services import half_merged, leases
from disks.templatetags.names import plain_text
from disks.templatetags.states import icon

register = template.Library()


@register.simple_tag
def new_key() -> str:
    """The key of one form as it is drawn: sent twice, it is one job."""
    return uuid.uuid4().hex


@register.simple_tag
def at_work_on(disk: Any) -> Any:
    """The job that has a disk for itself, or None."""
    return leases.at_work_on(disk.path)


@register.simple_tag(takes_context=True)
def way_to_mend(context: Any, disk: Any, refused: Any) -> Any:
    """The button that mends what a plan is refused for, or None."""
    from disks.views.inspect import mend_refusal  # views load templates, and these their tags

    return mend_refusal(disk, str(refused.get("code", "")), may_operate=context["may_operate"])


@register.simple_tag
def first_waiting_for(disk: Any) -> Any:
    """The first job that has not started and is going to have a disk for itself, or None."""
    return leases.first_waiting_for(disk.path)


@register.simple_tag
def holder_told_of(warning: Any) -> Any:
    """The job that a warning of a plan says has a disk, or None."""
    return leases.holder_told_of(str(warning))


@register.simple_tag
def begun_merge_of(disk: Any) -> Any:
    """The merge in place that a disk is part of and no job of this console has, or None."""
    return half_merged.merge_of(disk)


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
