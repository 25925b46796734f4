"""How tests are shared out to xdist's workers: what waits more than it works comes first.

Tests of browsers and of processes wait for pages, leases and starts most of the time. Those
of one kind stay on one worker and share their consoles and servers; they begin first, so
that all the others, which do nothing but work, fill the time beside them. (xdist's own marks
for groups have no effect with pytest 9.)
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

# What stays on one worker: folders and modules, the longest first.
TOGETHER = {
    "browser": ("disks/tests/browser/",),
    "processes": (
        "disks/tests/services/test_jobs_in_processes.py",
        "disks/tests/services/test_jobs_on_postgres.py",
        "disks/tests/services/test_jobs_broken_everywhere.py",
        "disks/tests/startup/",
    ),
}


def scope_of(test: str) -> str:
    """The name of what goes to one worker as a whole; for most tests, the test itself."""
    for name, places in TOGETHER.items():
        if test.startswith(places):
            return name
    return test


class Sharing(LoadScopeScheduling):
    """xdist's scheduling by scopes, with scopes as they are said here."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def pytest_collection(session: pytest.Session) -> None:
    """Of all modules every worker compiles a share, while the others compile theirs."""
    config = session.config
    worker = getattr(config, "workerinput", None)
    if worker is None or config.args != config.getini("testpaths"):
        return
    modules = sorted(Path(__file__).parent.rglob("test_*.py"))
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for module in modules[number * len(modules) // count : (number + 1) * len(modules) // count]:
        name = ".".join(module.relative_to(config.rootpath).with_suffix("").parts)
        with contextlib.suppress(Exception):  # collection will tell of it
            importlib.import_module(name)


@pytest.hookimpl(optionalhook=True)  # some tests start a pytest of their own without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Sharing:
    config.option.loadscopereorder = False  # the order below is the one that is meant
    return Sharing(config, log)  # type: ignore[arg-type]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits begins first; else the order stays."""
    rank = {name: place for place, name in enumerate(TOGETHER)}
    items.sort(key=lambda item: rank.get(scope_of(item.nodeid), len(rank)))
