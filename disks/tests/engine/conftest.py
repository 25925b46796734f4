"""Fixtures of the engine's tests."""

from __future__ import annotations

import pytest

from disks.tests.builders import FAMILIES, Family


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    """A format's builders: the test runs once for every format."""
    return request.param
