"""Signing in and out, the lock-out, the password."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import get_hasher
from django.test import Client
from django.urls import reverse
from django.utils import timezone

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture
def user():
    return get_user_model().objects.create_user("vera", password=PASSWORD)


def test_sign_in_goes_back_to_the_page_asked_for_and_rotates_the_session(client, user):
    """bad-input G102."""
    client.get(reverse("login"))
    session = client.session
    session["mark"] = "before"
    session.save()
    before = session.session_key
    answer = client.post(
        reverse("login"),
        {"username": "vera", "password": PASSWORD, "next": "/password"},
    )
    assert (answer.status_code, answer["Location"]) == (302, "/password")
    assert client.session.session_key != before


@pytest.mark.parametrize(
    "target", ["//evil.example/", "https://evil.example/", "javascript:alert(1)", "/\\evil.example"]
)
def test_sign_in_never_leads_to_another_host(client, user, target):
    """bad-input G108."""
    answer = client.post(
        reverse("login"), {"username": "vera", "password": PASSWORD, "next": target}
    )
    assert (answer.status_code, answer["Location"]) == (302, "/")
    answer = client.post(reverse("theme"), {"theme": "dark", "next": target})
    assert (answer.status_code, answer["Location"]) == (302, "/")


def test_wrong_password_is_a_form_with_a_sentence(client, user):
    answer = client.post(reverse("login"), {"username": "vera", "password": "wrong"})
    assert answer.status_code == 422
    assert "Name and password do not match." in answer.content.decode()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"username": "", "password": ""},
        {"username": "{}", "password": "[]"},
        {"username": "vera\0", "password": "x"},
        {"username": "vera", "password": "\0"},
        {"username": ["a", "b"], "password": ["c", "d"]},
        {"username": "v" * 100_000, "password": "x"},
        {"username": "vera", "password": "x" * 1_000_000},
    ],
)
def test_odd_sign_in_values_are_a_typed_form_or_a_refusal(client, user, fields):
    """bad-input G102."""
    answer = client.post(reverse("login"), fields)
    assert answer.status_code in (400, 422)


def test_five_wrong_passwords_close_the_door_for_that_name_from_that_address(client, user):
    """bad-input G102: 429 and lock-out, and the right password does not open it."""
    codes = [
        client.post(reverse("login"), {"username": "vera", "password": f"wrong{n}"}).status_code
        for n in range(5)
    ]
    assert codes == [422, 422, 422, 422, 429]
    locked = client.post(reverse("login"), {"username": "vera", "password": PASSWORD})
    assert locked.status_code == 429
    assert "Too many wrong passwords" in locked.content.decode()
    assert locked["Retry-After"] == "900"
    elsewhere = Client(REMOTE_ADDR="192.0.2.7")
    answer = elsewhere.post(reverse("login"), {"username": "vera", "password": PASSWORD})
    assert answer.status_code == 302


def tried(username: str, address: str, password: str = "wrong") -> int:
    client = Client(REMOTE_ADDR=address)
    fields = {"username": username, "password": password}
    return client.post(reverse("login"), fields).status_code


def test_one_address_cannot_try_many_names(user, settings):
    """bad-input G102: one wrong password for each name stays below the limit of a name."""
    limit = settings.SIGN_IN_FAILURES_OF_AN_ADDRESS
    assert {tried(f"name-{number}", "192.0.2.1") for number in range(limit)} == {422}
    assert tried("one-more", "192.0.2.1") == 429
    assert tried("vera", "192.0.2.1", PASSWORD) == 429
    assert tried("vera", "192.0.2.2", PASSWORD) == 302


def test_many_addresses_cannot_try_one_name_nor_lock_its_owner_out(user, settings):
    """bad-input G102."""
    assert tried("vera", "198.51.100.1", PASSWORD) == 302  # her own desk
    limit = settings.SIGN_IN_FAILURES_OF_A_NAME
    assert {tried("vera", f"192.0.2.{number}") for number in range(limit)} == {422}
    assert tried("vera", "203.0.113.5", PASSWORD) == 429
    assert tried("\uff56era", "203.0.113.5", PASSWORD) == 429  # the same name, spelled wide
    assert tried("vera", "198.51.100.1", PASSWORD) == 302
    assert tried("victor", "203.0.113.5") == 422


def test_closed_doors_open_by_themselves(user, settings, monkeypatch):
    """bad-input G102: a quarter of an hour after the last try."""
    for number in range(settings.SIGN_IN_FAILURES_OF_AN_ADDRESS):
        tried(f"name-{number}", "192.0.2.1")
    assert tried("vera", "192.0.2.1", PASSWORD) == 429
    later = timezone.now() + timedelta(minutes=16)
    monkeypatch.setattr("django.utils.timezone.now", lambda: later)
    assert tried("vera", "192.0.2.1", PASSWORD) == 302


def test_an_unknown_name_costs_as_much_as_a_wrong_password(client, user, monkeypatch):
    """bad-input G102: the time of an answer does not tell which names exist."""
    encoded = []
    hasher = type(get_hasher())
    encode = hasher.encode

    def counted(self, *arguments, **options):
        encoded.append(arguments[0])
        return encode(self, *arguments, **options)

    monkeypatch.setattr(hasher, "encode", counted)
    pages = []
    for name in ("vera", "nobody"):
        before = len(encoded)
        answer = client.post(reverse("login"), {"username": name, "password": "wrong"})
        pages.append(answer.content.decode().replace(name, "…"))
        assert len(encoded) - before == 1
    token = re.compile(r"\b[A-Za-z0-9]{64}\b")
    assert token.sub("", pages[0]) == token.sub("", pages[1])


def test_a_password_longer_than_people_type_is_not_hashed(client, user, monkeypatch):
    """bad-input G102: 1 MB would cost time for nothing."""
    monkeypatch.setattr(type(get_hasher()), "encode", None)
    answer = client.post(reverse("login"), {"username": "vera", "password": "x" * 500_000})
    assert answer.status_code == 422


def test_sign_out_is_a_post(client, user):
    client.force_login(user)
    assert client.get(reverse("logout")).status_code == 405
    assert "_auth_user_id" in client.session
    assert client.post(reverse("logout")).status_code == 302
    assert "_auth_user_id" not in client.session


def test_password_change_ends_the_other_sessions(client, user):
    other = Client()
    other.force_login(user)
    client.force_login(user)
    new = "a much longer passphrase 7"
    answer = client.post(
        reverse("password-change"),
        {"old_password": PASSWORD, "new_password1": new, "new_password2": new},
    )
    assert answer.status_code == 302
    assert client.get(reverse("password-change")).status_code == 200
    assert other.get(reverse("password-change")).status_code == 302


def test_a_weak_new_password_is_refused_with_the_reason(client, user):
    client.force_login(user)
    answer = client.post(
        reverse("password-change"),
        {"old_password": PASSWORD, "new_password1": "12345", "new_password2": "12345"},
    )
    assert answer.status_code == 422
    assert "too short" in answer.content.decode()


def test_user_without_a_role_can_only_sign_in_and_is_told_so(client, user):
    client.force_login(user)
    answer = client.get(reverse("jobs-running"))
    assert answer.status_code == 403
    assert "You have no role yet" in answer.content.decode()


def test_health_answers_without_signing_in(client):
    answer = client.get(reverse("health"))
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_theme_choice_is_kept_and_put_on_the_page(client):
    client.post(reverse("theme"), {"theme": "dark", "next": "/login"})
    assert '<html lang="en" data-bs-theme="dark">' in client.get("/login").content.decode()
    client.post(reverse("theme"), {"theme": "auto", "next": "/login"})
    assert '<html lang="en">' in client.get("/login").content.decode()
    client.cookies["theme"] = '"><script>'
    assert "<script>" not in client.get("/login").content.decode()
