"""How tests are shared out to xdist's workers: what is dear together, once, and first.

A started console, a chain of 1.25 GiB or a PostgreSQL server are made by fixtures of their
modules, and the tests of a browser module go on where the one before them stopped: such a
module stays on one worker. These begin first, the longest ahead, so that no
worker is left with one of them when the other has nothing to do any more. (xdist's own
marks for groups have no effect with pytest 9.)
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

# Modules, the longest first.
TOGETHER = (
    "disks/tests/browser/test_long_jobs.py",
    "disks/tests/browser/test_every_page.py",
    "disks/tests/browser/test_without_script.py",
    "disks/tests/browser/test_repair_plan.py",
    "disks/tests/browser/test_one_disk.py",
    "disks/tests/browser/test_without_mouse_or_script.py",
    "disks/tests/services/test_jobs_on_postgres.py",
    "disks/tests/services/test_jobs_in_processes.py",
    "disks/tests/services/test_jobs_broken_everywhere.py",
    "disks/tests/startup/test_start.py",
    "disks/tests/startup/test_compose.py",
    "disks/tests/startup/test_demo.py",
)
BROWSER = "disks/tests/browser/"  # all of these, whether or not they stand above
BY_PARAMETER = ("[sqlite", "[postgres")  # one server each; the two may run beside each other


def scope_of(test: str) -> str:
    """The name of what goes to one worker as a whole; for most tests, the test itself."""
    module = test.split("::", 1)[0]
    if module not in TOGETHER and not module.startswith(BROWSER):
        return test
    parameter = next((one for one in BY_PARAMETER if one in test), "")
    return module + parameter


class Sharing(LoadScopeScheduling):
    """xdist's scheduling by scopes, with scopes as they are said here."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


@pytest.hookimpl(optionalhook=True)  # some tests start a pytest of their own without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Sharing:
    config.option.loadscopereorder = False  # the order below is the one that is meant
    return Sharing(config, log)  # type: ignore[arg-type]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is dear begins first; else the order stays."""
    rank = {module: place for place, module in enumerate(TOGETHER)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::", 1)[0], len(rank)))
