"""The one place where a role is enforced; addresses declare theirs in `disks/urls.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url

from disks.services.access import Role, role_of
from disks.views import errors
from disks.views.listing import BadAddress

View = Callable[..., HttpResponseBase]


def guarded(view: View, role: Role) -> View:
    """The view behind its role: strangers are sent to sign in, the others learn why not."""

    @wraps(view)
    def guard(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        has = role_of(getattr(request, "user", None)) if role > Role.ANYONE else role
        if has >= role:
            try:
                return view(request, *args, **kwargs)
            except BadAddress as mistake:
                return errors.problem(
                    request,
                    400,
                    "This address cannot be used",
                    str(mistake),
                    advice="Go back, or begin with the list without filters.",
                    links=[(request.path, "Show it without filters")],
                )
        if has == Role.ANYONE:
            return _sign_in_first(request)
        return errors.role_missing(request, needed=role, has=has)

    guard.required_role = role  # type: ignore[attr-defined]
    return guard


def _sign_in_first(request: HttpRequest) -> HttpResponse:
    """A page goes to the form and comes back; a fragment makes its page go there."""
    sign_in = resolve_url(settings.LOGIN_URL)
    if request.headers.get("HX-Request") == "true":
        page = urlsplit(request.headers.get("HX-Current-URL", ""))
        back = "/" + page.path.lstrip("/") + (f"?{page.query}" if page.query else "")
        response = HttpResponse(status=401)
        response["HX-Redirect"] = f"{sign_in}?{urlencode({'next': back})}"
        return response
    if request.method != "GET":  # a form's content would be lost anyway: begin at the front
        return HttpResponseRedirect(sign_in)
    return HttpResponseRedirect(f"{sign_in}?{urlencode({'next': request.get_full_path()})}")


def client_address(request: HttpRequest) -> str:
    """Where the request comes from.

    Behind our own proxy that is the last entry of X-Forwarded-For, the one the proxy wrote;
    earlier entries are the client's own words.
    """
    if settings.BEHIND_PROXY:
        forwarded = request.headers.get("X-Forwarded-For", "").rsplit(",", 1)[-1].strip()
        if forwarded:
            return forwarded[:60]
    return str(request.META.get("REMOTE_ADDR", ""))[:60]
