"""What happens to every request: how often pages may renew themselves, headers, names of files."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from django.conf import settings
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


class WindowsNames:
    """Pages show files as Windows names them, and ask the storage roots once how that is."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        from disks.services import windows_names

        with windows_names.for_one_request():
            return self.get_response(request)


class FragmentLimit:
    """429 for fragments that are asked for more often than a person could look.

    Hundreds of open tabs, each renewing itself every two seconds, must not keep the pages
    of others waiting. A refused tab shows what it has and asks again by itself. Comes before
    the session, so that a refusal costs no query; whole pages are never refused.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.per_browser = Allowance(*settings.FRAGMENTS_PER_BROWSER)
        self.per_address = Allowance(*settings.FRAGMENTS_PER_ADDRESS)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.headers.get("HX-Request") == "true" and request.method == "GET":
            browser = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
            # by address, too: whoever invents cookies is a new browser each time
            if not (
                self.per_browser.takes(browser) and self.per_address.takes(_address_of(request))
            ):
                response = HttpResponse("Too many tabs of the console are open.", status=429)
                response["Retry-After"] = "5"
                return response
        return self.get_response(request)


def _address_of(request: HttpRequest) -> str:
    from disks.views.guard import client_address

    return client_address(request)


class Allowance:
    """So many at once, and so many a second, for each key; counted in this process."""

    def __init__(self, per_second: float, at_once: float) -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key: how many, when
        self._lock = threading.Lock()

    def takes(self, key: str) -> bool:
        """Take one, if there is one."""
        with self._lock:
            now = time.monotonic()
            left, then = self._left.pop(key, (self._at_once, now))
            left = min(self._at_once, left + (now - then) * self._per_second)
            taken = left >= 1
            self._left[key] = (left - 1 if taken else left, now)
            if len(self._left) > _KEYS_KEPT:
                self._left.popitem(last=False)  # idle the longest
            return taken


_KEYS_KEPT = 10_000
