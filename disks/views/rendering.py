"""How a page is answered: whole, or only its changing part for htmx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.cache import patch_vary_headers
from django.utils.functional import SimpleLazyObject

from disks.models import Job
from disks.services.access import Role, role_of


def wants_fragment(request: HttpRequest) -> bool:
    """True when htmx asks for a part: not for boosted links, not when Back restores a page."""
    htmx = getattr(request, "htmx", None)
    if not htmx:
        return False
    return not htmx.boosted and not htmx.history_restore_request


def render_page(
    request: HttpRequest,
    template: str,
    context: Mapping[str, Any] | None = None,
    *,
    fragment: str | None = None,
    status: int = 200,
) -> HttpResponse:
    """Answer with the page, or with its fragment when htmx asks for one.

    template  "disks/jobs.html"
    fragment  "disks/_jobs_table.html": one root element with an id, included by the page and
              drawn from the same context
    status    422 for a form with mistakes, 409 for a disk that changed meanwhile
    """
    chosen = fragment if fragment and wants_fragment(request) else template
    response = HttpResponse(encoded(render_to_string(chosen, dict(context or {}), request)))
    response.status_code = status
    if fragment:
        patch_vary_headers(response, ["HX-Request"])
    return response


def encoded(text: str) -> bytes:
    """UTF-8; a byte of a file name that is none (a lone surrogate) is spelt out, not a crash."""
    return text.encode("utf-8", "backslashreplace")


# address, words on wide screens, words on narrow ones, icon, what counts as being there
NAVIGATION = (
    ("overview", "Overview", "Overview", "dashboard", ("overview", "repair", "pile")),
    (
        "disks",
        "Disks",
        "Disks",
        "database",
        (
            "disk",
            "parent",
            "repair-headers",
            "replay",
            "merge",
            "compact",
            "convert",
            "expand",
            "create",
            "copy",
            "move",
            "delete",
        ),
    ),
    ("jobs", "Jobs", "Jobs", "list-check", ("job",)),
    ("roots", "Storage roots", "Roots", "folders", ("root",)),
    ("trash", "Trash", "Trash", "trash", ("trash",)),
    ("audit", "Audit", "Audit", "history", ("audit",)),
)


def _navigation(here: str) -> list[dict[str, Any]]:
    # The longest word counts: "repair-headers" is about a disk, "repair" belongs to the overview.
    fitting = [
        (len(word), name)
        for name, *_, below in NAVIGATION
        for word in below
        if here == word or here.startswith((word + "-", word + "s"))
    ]
    here_name = max(fitting)[1] if fitting else ""
    items = []
    for name, words, short, icon, _ in NAVIGATION:
        try:
            address = reverse(name)
        except NoReverseMatch:
            continue
        items.append(
            {
                "name": name,
                "address": address,
                "words": words,
                "short": short,
                "icon": icon,
                "is_here": name == here_name,
            }
        )
    return items


def shell(request: HttpRequest) -> dict[str, Any]:
    """What `base.html` needs on every page; asks the database for the role only."""
    role = role_of(getattr(request, "user", None))
    match = request.resolver_match
    here = (match.url_name or "") if match and not match.namespace else ""
    may_view = role >= Role.VIEWER
    theme = request.COOKIES.get("theme", "")
    return {
        "role": role,
        "may_view": may_view,
        "may_operate": role >= Role.OPERATOR,
        "may_administer": role >= Role.ADMINISTRATOR,
        "here": here,
        "navigation": SimpleLazyObject(lambda: _navigation(here)) if may_view else [],
        "running_jobs": SimpleLazyObject(running_jobs),
        "theme": theme if theme in ("light", "dark") else "",
    }


def running_jobs() -> int:
    """How many jobs are at work or waiting: the number in the navigation."""
    return Job.objects.filter(status__in=Job.ACTIVE).count()
