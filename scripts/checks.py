"""All checks, in the order of how fast they fail; the tests come last and speak last.

Runs inside `.venv` (see bootstrap.py). `--static` leaves the tests out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Check:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def production() -> dict[str, str]:
    """Settings as an installation has them: PostgreSQL, Redis, TLS in front."""
    return {
        "VDADMIN_SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz" * 2 + "ABCDEF",
        "VDADMIN_ALLOWED_HOSTS": "disks.example.org",
        "VDADMIN_BEHIND_PROXY": "1",
        "VDADMIN_INSECURE_HTTP": "0",
        "DATABASE_URL": "postgres://vdadmin:secret@database/vdadmin",
        "REDIS_URL": "redis://broker:6379/0",
    }


def static_checks(state: str) -> list[Check]:
    here = {"VDADMIN_STATE_DIR": state, "VDADMIN_SECRET_KEY": "k" * 60}
    manage = [sys.executable, "manage.py"]
    return [
        Check("types", [str(BIN / "mypy")], here),
        Check("lint", [str(BIN / "ruff"), "check", "."]),
        Check("format", [str(BIN / "ruff"), "format", "--check", "."]),
        Check("templates", [str(BIN / "djlint"), "templates", "--lint", "--quiet"]),
        Check("import contracts", [str(BIN / "lint-imports")], here),
        Check("migrations", [*manage, "makemigrations", "--check", "--dry-run"], here),
        Check(
            "production settings",
            [*manage, "check", "--deploy", "--fail-level", "DEBUG"],
            {**here, **production()},
        ),
    ]


def run(check: Check) -> tuple[Check, subprocess.CompletedProcess[str], float]:
    began = time.monotonic()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VDADMIN_")}
    done = subprocess.run(
        check.command,
        cwd=ROOT,
        env={**clean, **check.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return check, done, time.monotonic() - began


def run_static_checks() -> bool:
    """Two at a time; the slowest begins first. What failed is shown whole."""
    ok = True
    with (
        tempfile.TemporaryDirectory(prefix="vdadmin-checks-") as state,
        ThreadPoolExecutor(2) as pool,
    ):
        for check, done, seconds in pool.map(run, static_checks(state)):
            good = done.returncode == 0
            ok = ok and good
            print(f"{'ok  ' if good else 'FAIL'}  {check.name}  ({seconds:.1f} s)", flush=True)
            if not good:
                print(done.stdout, flush=True)
    return ok


def main(arguments: list[str]) -> None:
    if not run_static_checks():
        sys.exit(1)
    if "--static" in arguments:
        return
    # Two more than there are processors: some of them wait for pages, processes and the disk.
    workers = str(max(2, os.cpu_count() or 2) + 2)
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers]
    # Tests start some hundred interpreters: none should compile all of it again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.chdir(ROOT)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
