"""The rules of jobs once more, on a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from disks.tests import servers

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.postgres
def test_the_rules_of_jobs_hold_on_postgresql():
    """What test_jobs.py and test_jobs_reconciling.py show on SQLite."""
    with servers.postgres() as address:
        ran = subprocess.run(
            [
                sys.executable,
                *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
                *("--ds", "disks.tests.services.settings_on_postgres"),
                *(str(HERE / name) for name in ("test_jobs.py", "test_jobs_reconciling.py")),
            ],
            env=os.environ | {"POSTGRES_OF_TESTS": address},
            cwd=HERE.parents[2],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "skipped" not in ran.stdout
