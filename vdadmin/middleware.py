"""Headers that every answer of the console carries."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

PERMISSIONS = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


class PageHeaders:
    """No powers of the browser, and no page kept by it: after signing out, Back shows nothing."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.setdefault("Permissions-Policy", PERMISSIONS)
        # a page with an ETag may be kept, if the browser asks again each time
        response.setdefault(
            "Cache-Control", "private, no-cache" if response.has_header("ETag") else "no-store"
        )
        return response
