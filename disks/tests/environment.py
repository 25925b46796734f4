"""Environment of the test run, set before Django reads its settings.

Loaded as a pytest plugin (`-p disks.tests.environment`), for pytest-django reads the
settings before any conftest.py is there. Tests never touch the developer's own `var/`.
Their files lie in memory where it has room: thousands of fsyncs would only cost time.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

for _name in [name for name in os.environ if name.startswith("VDADMIN_")]:
    if _name != "VDADMIN_CORPUS":
        del os.environ[_name]
for _name in ("DATABASE_URL", "REDIS_URL"):
    os.environ.pop(_name, None)

MEMORY = "/dev/shm"
_ENOUGH_BYTES = 4 * 1024**3  # several times what all tests need at any one time


def _has_room(folder: str) -> bool:
    try:
        figures = os.statvfs(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK) and figures.f_bavail * figures.f_frsize > _ENOUGH_BYTES


# What is compiled once, tests' own modules above all, is there for every worker and every process.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What tests leave as garbage is little beside what is there to stay: look for it seldom, and
# while tests are collected not at all.
gc.disable()
_SELDOM = 20_000, 20, 100

if _has_room(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)  # pytest's own name for it

_state = tempfile.mkdtemp(prefix="vdadmin-tests-")
atexit.register(shutil.rmtree, _state, ignore_errors=True)
os.environ["VDADMIN_STATE_DIR"] = _state
os.environ["VDADMIN_SECRET_KEY"] = "for-tests-only-" + "x" * 50
os.environ["VDADMIN_INSECURE_HTTP"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright's loop runs in the test's thread


@pytest.hookimpl(trylast=True)
def pytest_configure(config: Any) -> None:
    """What only costs time in tests: slow password hashes, collecting static files."""
    from django.conf import settings

    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    os.makedirs(settings.STATIC_ROOT, exist_ok=True)  # WhiteNoise warns about a missing folder


def pytest_collection_finish() -> None:
    """All modules and tests are there to stay: no collection need look at them, and a forked
    child, of which there are tens of thousands, copies none of their pages for it. So they stay
    frozen, also where a scan ends that had frozen what was there."""
    gc.collect()
    gc.freeze()
    gc.unfreeze = lambda: None
    gc.set_threshold(*_SELDOM)
    gc.enable()
    _gather_into_huge_pages()


def _gather_into_huge_pages() -> None:
    """A fork copies an entry for every page there is: of 2 MiB each there are few.

    An eighth of the time of tests that kill at every point. Older kernels say no, which is no harm.
    """
    huge, collapse = 2 * 1024**2, 25  # bytes, MADV_COLLAPSE
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        places, rights, *_, inode_and_name = line.split(maxsplit=4)
        if rights == "rw-p" and inode_and_name.split()[1:] in ([], ["[heap]"]):
            start, end = (int(place, 16) for place in places.split("-"))
            for address in range(-(-start // huge) * huge, end - huge + 1, huge):
                libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(huge), collapse)
