"""Every address of the console with the role that it asks for: one line each.

`page` is the only way to add one. Anonymous visitors of a page above ANYONE are sent to sign
in; a user whose role does not reach is told which one it needs.
"""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, path

from disks.services.access import Role
from disks.views import jobs, session
from disks.views.guard import View, guarded


def page(route: str, view: View, *, name: str, role: Role) -> URLPattern:
    """One address: its view behind its role."""
    return path(route, guarded(view, role), name=name)


ANYONE, SIGNED_IN = Role.ANYONE, Role.SIGNED_IN
VIEWER, OPERATOR, ADMINISTRATOR = Role.VIEWER, Role.OPERATOR, Role.ADMINISTRATOR

urlpatterns: list[URLPattern | URLResolver] = [
    # --- session
    page("login", session.sign_in, name="login", role=ANYONE),
    page("logout", session.sign_out, name="logout", role=SIGNED_IN),
    page("password", session.change_password, name="password-change", role=SIGNED_IN),
    page("theme", session.choose_theme, name="theme", role=ANYONE),
    page("health", session.health, name="health", role=ANYONE),
    # --- jobs
    page("jobs/running", jobs.running, name="jobs-running", role=VIEWER),
    # --- users and roles: each of its addresses asks for ADMINISTRATOR, see disks/admin.py
    path("admin/", admin.site.urls),
]
