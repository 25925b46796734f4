"""The rules of jobs and the catalog once more, on a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from disks.tests import servers

HERE = Path(__file__).parent


# What differs between databases: bulk writes, searches in JSON, recursion, names that are
# not UTF-8, undo rows. All of the services' tests pass there, too; they only take longer.
CATALOG = (
    "test_scanning.py::test_scan_finds_a_chain_and_fills_its_columns",
    "test_scanning.py::test_moved_files_keep_their_history_and_copies_are_new",
    "test_scanning.py::test_missing_files_are_marked_and_come_back",
    "test_scanning.py::test_a_twin_of_the_parent_is_a_note",
    "test_scanning.py::test_names_that_are_not_utf8_survive",
    "test_scanning.py::test_rows_that_another_scan_wrote_meanwhile_are_kept",
    "test_parent_paths.py::test_update_mends_the_chain_above_and_can_be_undone",
    "test_parent_paths.py::test_a_repair_plan_mends_many_reports_each_and_is_undone",
    "test_parent_paths.py::test_repair_plan_asks_a_constant_number_of_queries",
    "test_disk_jobs.py::test_merge_into_the_parent_and_restore_keep_the_catalog_right",
    "test_disk_jobs.py::test_check_finds_what_a_scan_did_not",
)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(("test_jobs.py", "test_jobs_reconciling.py"), id="jobs"),
        pytest.param(CATALOG, id="catalog"),
    ],
)
def test_the_services_do_on_postgresql_what_they_do_on_sqlite(chosen: tuple[str, ...]) -> None:
    with servers.postgres() as address:
        ran = subprocess.run(
            [
                sys.executable,
                *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
                *("--ds", "disks.tests.services.settings_on_postgres"),
                *(str(HERE / name) for name in chosen),
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
