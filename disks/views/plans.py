"""What the pages with a dry run have in common: keys, guesses of time, stale forms."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from disks import tasks
from disks.engine.codes import CODES
from disks.engine.errors import ImageError
from disks.forms.declarations import DeclarationForm
from disks.forms.timing import TimingForm
from disks.models import Disk, Job, ParentLink
from disks.services import estimates, timing
from disks.services.errors import Refusal
from disks.views.guard import client_address
from disks.views.rendering import render_page


def new_key() -> str:
    """The idempotency key of one form as it is drawn."""
    return uuid.uuid4().hex


def form_key(request: HttpRequest) -> str:
    """The idempotency key of what a form sent: where to, its own key, and what was filled in.

    Sent again it is the same job. Changed after the back button, and sent with the key that
    the page was drawn with, it is another one.
    """
    sent = [
        (name, value)
        for name, values in sorted(request.POST.lists())
        if name != "csrfmiddlewaretoken"
        for value in values
    ]
    return hashlib.sha256(json.dumps([request.path, sent]).encode()).hexdigest()


def earlier_job(request: HttpRequest) -> Job | None:
    """The job that this very form has asked for already: a double click, a replayed POST.

    Asked before the plan is made anew: the job may have changed the disks by now, and its
    page tells more than a refusal.
    """
    if not request.POST.get("key"):
        return None
    return Job.objects.filter(
        idempotency_key=form_key(request), requested_by=request.user.pk
    ).first()


def as_error(error: ImageError | Refusal | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A refusal as the error panel shows it, with the advice for its code."""
    if error is None:
        return None
    row = dict(error) if isinstance(error, Mapping) else error.as_dict()
    code = CODES.get(str(row.get("code", "")))
    if not row.get("advice") and code is not None:
        row["advice"] = code.advice
    return row


def start(
    request: HttpRequest,
    page: str,
    fragment: str | None,
    context: dict[str, Any],
    *,
    fingerprint: Any,
    ask: Callable[[DeclarationForm, str], Job],
) -> HttpResponse:
    """What a sent form leads to: the page of its job, or the form with what is in the way.

    422 where something was not said or is refused, 409 where the plan is not the one that was
    shown, or became another one a moment ago.

    context      of the page: `declaration` (None without a plan) and `refused`
    fingerprint  of the plan as it is now
    ask          requests the job, given the declarations and the idempotency key
    """

    def again(status: int) -> HttpResponse:
        return render_page(request, page, context, fragment=fragment, status=status)

    declaration: DeclarationForm | None = context.get("declaration")
    timed = context["timing"] = TimingForm(request.POST)
    if timed.is_valid() and context.get("guess") and context["guess"].measure:
        context["guess"] = estimates.chosen(context["guess"].measure, timed.choice())
    told = declaration is not None and declaration.is_valid()
    if not timed.is_valid() or not told or declaration is None or context["refused"]:
        return again(422)
    if declaration.cleaned_data["seen"] != fingerprint:
        context["stale"] = True
        return again(409)
    try:
        with transaction.atomic():
            job = ask(declaration, form_key(request))
            enqueue(request, job, timed)
    except (ImageError, Refusal) as error:
        context["refused"] = as_error(error)
        return again(409)
    return HttpResponseRedirect(reverse("job", args=[job.pk]))


def enqueue(request: HttpRequest, job: Job, timed: TimingForm) -> None:
    """Hand a job to the workers, to be done when and as fast as the form says."""
    timing.choose(job, timed.choice(), user=request.user, address=client_address(request))
    tasks.enqueue(job)


def unread(errors: Mapping[str, ImageError]) -> list[dict[str, Any]]:
    """What could not be read, with its page and with what it named when it could be."""
    found = known(sorted(errors))
    links = {
        link.child_id: link
        for link in ParentLink.objects.filter(
            child__in=[one["disk"].pk for one in found if one["disk"]]
        )
    }
    return [
        one
        | {
            "why": errors[one["path"]].message,
            "link": links.get(one["disk"].pk) if one["disk"] else None,
        }
        for one in found
    ]


def known(paths: list[str]) -> list[dict[str, Any]]:
    """Host paths with their catalog rows, so that a page can link to them; two queries."""
    located: dict[str, Disk] = {}
    names = {path.rsplit("/", 1)[-1] for path in paths}
    if names:
        for disk in Disk.objects.select_related("root").filter(name__in=names):
            located[disk.path] = disk
    return [{"path": path, "disk": located.get(path)} for path in paths]
