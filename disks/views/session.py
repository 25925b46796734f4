"""Signing in and out, changing one's password, and the lock-out after too many tries."""

from __future__ import annotations

import unicodedata
from typing import Any

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash, views
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods

from disks.forms.session import PasswordForm, SignInForm
from disks.services import signing_in
from disks.views import errors
from disks.views.guard import client_address
from disks.views.rendering import render_page


@method_decorator(require_http_methods(["GET", "POST"]), name="dispatch")
class SignIn(views.LoginView):
    """Django's own view: it checks `next`, rotates the session, and asks the throttle."""

    template_name = "registration/login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        name = unicodedata.normalize("NFKC", request.POST.get("username", ""))
        closed = signing_in.why_closed(name, client_address(request))
        if closed:
            return locked_out(request, sentence=closed)
        answer: HttpResponse = super().post(request, *args, **options)
        return answer

    def form_invalid(self, form: Any) -> HttpResponse:
        return self.render_to_response(self.get_context_data(form=form), status=422)


sign_in = SignIn.as_view()
sign_out = views.LogoutView.as_view(http_method_names=["post"])


def locked_out(
    request: HttpRequest,
    original_response: Any = None,
    credentials: Any = None,
    *_: Any,
    sentence: str = "Signing in with this name is closed for a quarter of an hour.",
) -> HttpResponse:
    """429: too many wrong passwords; by default for this name from this address."""
    response = errors.problem(
        request,
        429,
        "Too many wrong passwords",
        sentence,
        advice="Wait, then try again. An administrator can set a new password meanwhile.",
        links=[(reverse("login"), "Back to sign in")],
    )
    response["Retry-After"] = "900"
    return response


@sensitive_post_parameters()
@require_http_methods(["GET", "POST"])
def change_password(request: HttpRequest) -> HttpResponse:
    form = PasswordForm(request.user, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        user = form.save()
        update_session_auth_hash(request, user)  # other sessions end, this one goes on
        messages.success(request, "Your password is changed. Other sessions of yours have ended.")
        return HttpResponseRedirect(reverse("password-change"))
    return render_page(
        request,
        "registration/password_change.html",
        {"form": form},
        status=422 if form.errors else 200,
    )


@require_GET
def health(request: HttpRequest) -> HttpResponse:
    """For load balancers and container health checks: 200 when the database answers."""
    from django.db import DatabaseError, connection

    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except DatabaseError:
        return JsonResponse({"status": "no database"}, status=503)
    return JsonResponse({"status": "ok"})


@require_http_methods(["POST"])
def choose_theme(request: HttpRequest) -> HttpResponse:
    """Keep light, dark or "as the system" in a cookie, for browsers without script."""
    back = request.POST.get("next", "/")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure()):
        back = "/"
    response = HttpResponseRedirect(back)
    theme = request.POST.get("theme", "")
    if theme in ("light", "dark"):
        # readable by the page: the script that paints looks at it before the first paint
        response.set_cookie(
            "theme", theme, max_age=365 * 86400, samesite="Lax", secure=request.is_secure()
        )
    else:
        response.delete_cookie("theme")
    return response
