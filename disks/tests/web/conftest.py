"""Signed-in clients, one per role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from disks.services.access import Role, grant
from disks.tests.factories import make_user
from disks.tests.services.catalog import either_format, tmp_path

__all__ = ["either_format", "tmp_path"]


@pytest.fixture
def sign_in(db: Any) -> Callable[[Role], Client]:
    """sign_in(Role.OPERATOR) gives a client with a session of a new user of that role."""

    def signed_in(role: Role) -> Client:
        client = Client()
        if role > Role.ANYONE:
            user = make_user()
            grant(user, role)
            client.force_login(user)
            client.user = user  # type: ignore[attr-defined]
        return client

    return signed_in


@pytest.fixture
def viewer(sign_in: Callable[[Role], Client]) -> Client:
    return sign_in(Role.VIEWER)


@pytest.fixture
def operator(sign_in: Callable[[Role], Client]) -> Client:
    return sign_in(Role.OPERATOR)


@pytest.fixture
def administrator(sign_in: Callable[[Role], Client]) -> Client:
    return sign_in(Role.ADMINISTRATOR)
