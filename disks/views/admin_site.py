"""Django's admin behind the console's own sign-in, for administrators only."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, URLResolver, reverse

from disks.services.access import Role, allows
from disks.views.guard import guarded


class ConsoleAdminSite(AdminSite):
    """Every address of it asks for the administrator's role, the ones without a check too."""

    site_header = "Users and roles"
    site_title = "vdadmin"
    index_title = "Users and roles"
    enable_nav_sidebar = False

    def has_permission(self, request: HttpRequest) -> bool:
        return allows(request.user, Role.ADMINISTRATOR)

    def get_urls(self) -> list[Any]:
        patterns = super().get_urls()
        _guard(patterns)
        return patterns

    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """There is one sign-in, the throttled one."""
        return HttpResponseRedirect(reverse("login"))


def _guard(patterns: list[Any]) -> None:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            _guard(pattern.url_patterns)
        elif isinstance(pattern, URLPattern):
            pattern.callback = guarded(pattern.callback, Role.ADMINISTRATOR)
