"""Fixtures of the command line's tests."""

from __future__ import annotations

import pytest

from disks.tests.commandline.running import Disk


@pytest.fixture
def disk(capsys: pytest.CaptureFixture[str]) -> Disk:
    return Disk(capsys)
