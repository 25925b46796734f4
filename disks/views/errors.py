"""Refusals and failures in the console's own design, each with what to do next."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers

from disks.services.access import Role
from disks.views.rendering import wants_fragment

log = logging.getLogger(__name__)


def problem(
    request: HttpRequest,
    status: int,
    title: str,
    sentence: str,
    *,
    advice: str = "",
    code: str = "",
    links: list[tuple[str, str]] | None = None,
) -> HttpResponse:
    """One refusal: what happened, why, and what to do next.

    links  (address, words) offered as buttons; without any: back to the overview
    """
    context: dict[str, Any] = {
        "status": status,
        "title": title,
        "sentence": sentence,
        "advice": advice,
        "code": code,
        "links": links or [],
    }
    name = "errors/_problem.html" if wants_fragment(request) else "errors/problem.html"
    response = HttpResponse(render_to_string(name, context, request), status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return static_problem(
        400,
        "This request cannot be understood",
        "Something in it is too large, malformed, or addressed to another host.",
        "Go back and try again from the page itself.",
    )


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return problem(
        request,
        403,
        "You may not do this",
        str(exception) if exception and str(exception) else "Your role does not allow it.",
        advice="Ask an administrator for the role, or go back.",
    )


def role_missing(request: HttpRequest, *, needed: Role, has: Role) -> HttpResponse:
    """Signed in, but the role does not reach."""
    if has == Role.SIGNED_IN:
        return problem(
            request,
            403,
            "You have no role yet",
            "Your account can sign in, but nobody has given it a role.",
            advice="Ask an administrator to make you a viewer, an operator or an administrator.",
        )
    return problem(
        request,
        403,
        "You may not do this",
        f"This needs the role “{needed.group}”; you are {_article(has.group)}.",
        advice="Ask an administrator for the role, or go back.",
    )


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    log.warning("Form refused at %s: %s", request.path, reason)
    return problem(
        request,
        403,
        "This form was open too long",
        "It does not belong to your present session: you signed in or out since it was loaded, "
        "or your browser blocks cookies. Nothing was changed.",
        advice="Load the page again and repeat what you did.",
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return problem(
        request,
        404,
        "There is nothing here",
        "The address is wrong, or what it showed is gone.",
        advice="Search for the disk by its name, or begin at the overview.",
    )


def changed(request: HttpRequest, sentence: str, *, address: str, words: str) -> HttpResponse:
    """409: what the form was about is not as it was; address is the fresh view."""
    return problem(
        request,
        409,
        "This has changed since you looked",
        sentence,
        advice="Nothing was written. Look at the fresh state, then decide again.",
        links=[(address, words)],
    )


def internal_error(request: HttpRequest) -> HttpResponse:
    """500 without asking the database, the session or the template context for anything."""
    return static_problem(
        500,
        "Something went wrong here",
        "The console met an error of its own. Your disks are not touched by showing a page; "
        "a job that was running goes on, or is recovered within a minute.",
        "Try again. If it stays, the server's log has the details.",
    )


def static_problem(status: int, title: str, sentence: str, advice: str) -> HttpResponse:
    """The same look from one template that needs neither user nor database."""
    context = {"status": status, "title": title, "sentence": sentence, "advice": advice}
    return HttpResponse(render_to_string("errors/bare.html", context), status=status)
