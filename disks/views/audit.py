"""Who changed what: the list with its filters, and the same as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse
from django.utils import timezone
from django.views.decorators.http import require_GET

from disks.models import AuditEntry
from disks.templatetags.names import plain_text
from disks.views import listing
from disks.views.rendering import render_page

# Beginnings that spreadsheets take for a formula, behind blanks too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
COLUMNS = ("at", "user", "address", "action", "sentence", "path", "job", "before", "after")


@require_GET
def audit_list(request: HttpRequest) -> HttpResponse:
    rows, filters = _filtered(request.GET)
    page = listing.paged(rows.select_related("disk", "job"), request.GET)
    for entry in page.rows:
        entry.changes = differences(entry.before, entry.after)
    csv_query = request.GET.copy()
    csv_query.pop("page", None)
    return render_page(
        request,
        "disks/audit.html",
        {
            "page": page,
            "filters": filters,
            "is_filtered": any(filters.values()),
            "actions": _actions(),
            "csv_query": csv_query.urlencode(),
            "list_target": "#audit-table",
        },
        fragment="disks/_audit_table.html",
    )


@require_GET
def audit_csv(request: HttpRequest) -> StreamingHttpResponse:
    """All entries that fit the filters, newest first; cells cannot become formulas (105)."""
    rows, _ = _filtered(request.GET)
    response = StreamingHttpResponse(
        _lines(rows.iterator(chunk_size=2000)), content_type="text/csv; charset=utf-8"
    )
    day = timezone.localdate().isoformat()
    response["Content-Disposition"] = f'attachment; filename="vdadmin-audit-{day}.csv"'
    return response


def _filtered(query: QueryDict) -> tuple[QuerySet[AuditEntry], dict[str, str]]:
    filters = {
        "q": listing.words(query),
        "action": listing.chosen(query, "action", set(_actions())),
        "user": listing.words(query, "user", longest=150),
        "since": _day(query, "since"),
        "until": _day(query, "until"),
        "job": str(listing.number(query, "job") or ""),
        "disk": str(listing.number(query, "disk") or ""),
    }
    rows = AuditEntry.objects.all()
    if filters["q"]:
        rows = rows.filter(Q(sentence__icontains=filters["q"]) | Q(path__icontains=filters["q"]))
    if filters["action"]:
        rows = rows.filter(action=filters["action"])
    if filters["user"]:
        rows = rows.filter(username__iexact=filters["user"])
    if filters["since"]:
        rows = rows.filter(at__gte=_midnight(filters["since"]))
    if filters["until"]:
        rows = rows.filter(at__lt=_midnight(filters["until"]) + timedelta(days=1))
    if filters["job"]:
        rows = rows.filter(job=int(filters["job"]))
    if filters["disk"]:
        rows = rows.filter(disk=int(filters["disk"]))
    return rows, filters


def _actions() -> list[str]:
    """The words in use, for the filter; an index answers."""
    return list(
        AuditEntry.objects.order_by("action").values_list("action", flat=True).distinct()[:200]
    )


def _day(query: QueryDict, key: str) -> str:
    text = query.get(key, "")
    if text:
        try:
            year = date.fromisoformat(text).year
        except ValueError:
            year = 0
        if len(text) != 10 or not 1970 <= year <= 9000:
            raise listing.BadAddress(f"“{key}” is no day; write it like 2026-11-22.")
    return text


def _midnight(day: str) -> datetime:
    return timezone.make_aware(datetime.combine(date.fromisoformat(day), time()))


def differences(before: Any, after: Any) -> list[tuple[str, str, str]]:
    """(field, before, after) for what differs; plain values count as one field."""
    if before is None and after is None:
        return []
    if not isinstance(before, dict | None) or not isinstance(after, dict | None):
        return [("", _shown(before), _shown(after))]
    old, new = before or {}, after or {}
    keys = [*old, *(key for key in new if key not in old)]
    return [
        (key, _shown(old.get(key)), _shown(new.get(key)))
        for key in keys
        if old.get(key) != new.get(key)
    ]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Line:
    """What csv writes to: gives each line back instead of keeping it."""

    def write(self, text: str) -> str:
        return text


def _lines(rows: Iterator[AuditEntry]) -> Iterator[bytes]:
    writer = csv.writer(_Line())
    yield "\ufeff".encode()  # so that spreadsheets read UTF-8
    yield _encoded(writer.writerow(COLUMNS))
    for entry in rows:
        yield _encoded(
            writer.writerow(
                [
                    entry.at.isoformat(timespec="seconds"),
                    cell(entry.username),
                    cell(entry.address),
                    cell(entry.action),
                    cell(entry.sentence),
                    cell(entry.path),
                    entry.job_id or "",
                    cell(_json(entry.before)),
                    cell(_json(entry.after)),
                ]
            )
        )


def _encoded(text: Any) -> bytes:
    return str(text).encode("utf-8", "backslashreplace")


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)


def cell(text: str) -> str:
    """A CSV cell that no spreadsheet executes: a quote in front of what looks like a formula."""
    text = plain_text(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
