"""Fixtures of the operations' tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of fsyncs would only cost time."""
    try:
        made = Path(tempfile.mkdtemp(prefix="vdadmin-faults-", dir="/dev/shm"))
    except OSError:
        yield tmp_path
        return
    yield made
    shutil.rmtree(made)
