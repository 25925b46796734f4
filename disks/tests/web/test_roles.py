"""Every address has a role, one wrapper enforces it, and the admin gives roles out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.urls.converters import get_converters

from disks.models import AuditEntry
from disks.services.access import Role, grant, role_of
from disks.tests.factories import make_user

ROLES = list(Role)
NOBODY = "99999999"  # an id that nothing has


def patterns(found: Any = None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """(address with an id of nothing for every argument, pattern) of all addresses."""
    for each in get_resolver().url_patterns if found is None else found:
        route = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from patterns(each.url_patterns, route)
        else:
            yield address_of(route), each


def address_of(route: str) -> str:
    for kind in get_converters():
        while f"<{kind}:" in route:
            start = route.index(f"<{kind}:")
            route = route[:start] + NOBODY + route[route.index(">", start) + 1 :]
    while "<" in route:
        start = route.index("<")
        route = route[:start] + NOBODY + route[route.index(">", start) + 1 :]
    return "/" + route.replace("(?P", "").strip("^$")


EVERY = [
    (address, pattern)
    for address, pattern in patterns()
    if "final_catch_all_view" not in str(pattern.callback)
]


def test_every_address_declares_a_role():
    """bad-input G99: a new address without a role fails here."""
    without = [address for address, each in EVERY if not isinstance(_role(each), Role)]
    assert without == []
    assert len(EVERY) > 15


def _text(answer: Any) -> str:
    return b"".join(answer).decode() if answer.streaming else answer.content.decode()


def _role(pattern: URLPattern) -> Any:
    return getattr(pattern.callback, "required_role", None)


@pytest.mark.django_db
@pytest.mark.parametrize("role", ROLES, ids=[role.name.lower() for role in ROLES])
@pytest.mark.parametrize(("address", "pattern"), EVERY, ids=[address for address, _ in EVERY])
def test_matrix_of_addresses_and_roles(address, pattern, role, sign_in):
    """bad-input G99: every address × anonymous, no role, viewer, operator, administrator."""
    client = sign_in(role)
    client.raise_request_exception = True
    needed = _role(pattern)
    answer = client.get(address)
    posted = client.post(address)
    if role >= needed:
        # the matrix asks with ids of nothing: a page, a redirect, 404 or 405, never a refusal
        assert answer.status_code in (200, 204, 301, 302, 404, 405) or "autocomplete" in address
        assert posted.status_code in (200, 302, 404, 405, 409, 422) or "autocomplete" in address
        assert "This needs the role" not in _text(answer) + _text(posted)
    elif role == Role.ANYONE:
        assert (answer.status_code, answer["Location"].split("?")[0]) == (302, reverse("login"))
        assert (posted.status_code, posted["Location"]) == (302, reverse("login"))
        htmx = client.get(address, headers={"HX-Request": "true"})
        assert htmx.status_code == 401
        assert htmx["HX-Redirect"].startswith(reverse("login"))
    else:
        assert answer.status_code == 403
        assert posted.status_code == 403
        words = "You have no role yet" if role == Role.SIGNED_IN else "You may not do this"
        assert words in answer.content.decode()


@pytest.mark.django_db
def test_htmx_of_a_stranger_comes_back_to_its_page(client):
    answer = client.get(
        reverse("jobs"),
        headers={"HX-Request": "true", "HX-Current-URL": "http://testserver/jobs?state=active"},
    )
    assert answer["HX-Redirect"] == "/login?next=%2Fjobs%3Fstate%3Dactive"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("current", "back"),
    [
        ("https://evil.example/x?y=1", "%2Fx%3Fy%3D1"),  # its path, never its host
        ("javascript:alert(1)", "%2Falert%281%29"),
        ("//evil.example", "%2F"),
        ("https://evil.example//evil.example/", "%2Fevil.example%2F"),
    ],
)
def test_htmx_is_never_led_to_another_host(client, current, back):
    """bad-input G108: and what `next` holds is checked where it is used, too."""
    headers = {"HX-Request": "true", "HX-Current-URL": current}
    redirect = client.get(reverse("jobs"), headers=headers)["HX-Redirect"]
    assert redirect == f"/login?next={back}"
    user = make_user()
    answer = client.post(redirect, {"username": user.username, "password": "quiet-harbour-42"})
    assert (answer.status_code, answer["Location"]) == (302, unquote(back))


@pytest.mark.django_db
def test_role_fields_in_a_body_are_ignored(operator):
    """bad-input G101."""
    operator.post(reverse("theme"), {"role": "administrator", "is_staff": "1", "is_superuser": "1"})
    fresh = get_user_model().objects.get(pk=operator.user.pk)
    assert (role_of(fresh), fresh.is_staff, fresh.is_superuser) == (Role.OPERATOR, False, False)


@pytest.mark.django_db
def test_migration_makes_the_three_groups():
    names = set(Group.objects.values_list("name", flat=True))
    assert {"viewer", "operator", "administrator"} <= names


@pytest.mark.django_db
def test_is_staff_follows_the_administrators_group():
    user = make_user()
    group = Group.objects.get(name="administrator")
    user.groups.add(group)
    assert get_user_model().objects.get(pk=user.pk).is_staff is True
    user.groups.remove(group)
    assert get_user_model().objects.get(pk=user.pk).is_staff is False
    group.user_set.add(user)
    assert get_user_model().objects.get(pk=user.pk).is_staff is True
    group.user_set.clear()
    assert get_user_model().objects.get(pk=user.pk).is_staff is False
    user.groups.set([group])
    user.groups.clear()
    assert get_user_model().objects.get(pk=user.pk).is_staff is False


@pytest.mark.django_db
def test_switched_off_user_is_a_stranger():
    user = make_user()
    grant(user, Role.ADMINISTRATOR)
    user.is_active = False
    assert role_of(user) == Role.ANYONE


@pytest.mark.django_db
def test_administrator_makes_an_operator_and_it_is_audited(administrator):
    operator = Group.objects.get(name="operator")
    answer = administrator.post(
        reverse("admin:auth_user_add"),
        {
            "username": "olga",
            "usable_password": "true",
            "password1": "a much longer passphrase 7",
            "password2": "a much longer passphrase 7",
            "role": operator.pk,
            "is_superuser": "on",
            "is_staff": "on",
        },
    )
    assert answer.status_code == 302
    olga = get_user_model().objects.get(username="olga")
    assert (role_of(olga), olga.is_staff, olga.is_superuser) == (Role.OPERATOR, False, False)
    assert AuditEntry.objects.get(action="user-add").sentence == "Added the user olga."


@pytest.mark.django_db
def test_administrator_changes_a_role(administrator):
    user = make_user("olga")
    grant(user, Role.VIEWER)
    fields = {
        "username": "olga",
        "role": Group.objects.get(name="administrator").pk,
        "is_active": "on",
        "email": "",
        "first_name": "",
        "last_name": "",
    }
    answer = administrator.post(reverse("admin:auth_user_change", args=[user.pk]), fields)
    assert answer.status_code == 302
    fresh = get_user_model().objects.get(pk=user.pk)
    assert (role_of(fresh), fresh.is_staff) == (Role.ADMINISTRATOR, True)
    entry = AuditEntry.objects.get(action="user-change")
    assert (entry.before, entry.after) == (
        {"role": "viewer"},
        {"role": "administrator", "active": True},
    )


@pytest.mark.django_db
def test_the_last_administrator_cannot_be_demoted_or_deleted(administrator):
    user = administrator.user
    address = reverse("admin:auth_user_change", args=[user.pk])
    answer = administrator.post(
        address,
        {"username": user.username, "role": Group.objects.get(name="viewer").pk, "is_active": "on"},
    )
    assert "This is the last administrator." in answer.content.decode()
    assert role_of(get_user_model().objects.get(pk=user.pk)) == Role.ADMINISTRATOR
    assert (
        administrator.post(
            reverse("admin:auth_user_delete", args=[user.pk]), {"post": "yes"}
        ).status_code
        == 403
    )


@pytest.mark.django_db
def test_admin_pages_answer(administrator):
    for name in ("admin:index", "admin:auth_user_changelist", "admin:auth_user_add"):
        assert administrator.get(reverse(name)).status_code == 200
    page = administrator.get(
        reverse("admin:auth_user_change", args=[administrator.user.pk])
    ).content.decode()
    assert "Administrator: also storage roots, trash, users" in page
    assert "is_superuser" not in page


@pytest.mark.django_db
def test_revoked_role_ends_at_the_next_request(operator):
    assert operator.get(reverse("jobs")).status_code == 200
    operator.user.groups.clear()
    assert operator.get(reverse("jobs")).status_code == 403


def test_admin_has_no_sign_in_of_its_own(client: Client, db):
    assert client.get("/admin/login/").status_code == 302
