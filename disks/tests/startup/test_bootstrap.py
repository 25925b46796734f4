"""The first step of `make run` and `make test`: one clear sentence for whatever is missing."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from disks.tests.console import PROJECT

BOOTSTRAP = PROJECT / "scripts" / "bootstrap.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh clone as far as the bootstrap can see, readable by everybody."""
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "scripts/bootstrap.py"):
        shutil.copy(PROJECT / name, folder / name)
    return folder


def bootstrap(
    project: Path, command: str = "run", *, python: tuple[str, ...] = (sys.executable,), **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python, str(project / "scripts" / "bootstrap.py"), command],
        env={"PATH": os.environ["PATH"], "HOME": str(project), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def with_fake_environment(project: Path) -> Path:
    """A `.venv` whose Python only writes down what it was asked for."""
    (project / ".venv" / "bin").mkdir(parents=True)
    calls = project / "calls"
    python = project / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    python.chmod(0o755)
    return calls


def test_old_pythons_can_read_it_to_say_what_is_missing() -> None:
    ast.parse(BOOTSTRAP.read_text(), feature_version=(3, 6))


def test_a_python_that_is_too_old_is_one_sentence(project: Path, tmp_path: Path) -> None:
    """An old Python, played by this one: the version it tells is another."""
    program = (
        "import sys, runpy; sys.version_info = (3, 9, 2); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = bootstrap(project, python=(sys.executable, "-c", program), PATH=str(tmp_path))
    assert sentence(done).startswith("vdadmin needs Python 3.11 or newer; ")
    assert " is 3.9.2. " in done.stderr


def test_a_python_without_venv_names_the_package(project: Path, tmp_path: Path) -> None:
    """Debian's python3 without python3-venv has no ensurepip."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "ensurepip.py").write_text("raise ModuleNotFoundError('ensurepip')\n")
    done = bootstrap(project, PYTHONPATH=str(shadow))
    major, minor = sys.version_info[:2]
    assert f"`apt-get install python{major}.{minor}-venv` adds what is missing." in sentence(done)
    assert not (project / ".venv").exists()


def test_no_python_at_all_is_one_sentence(project: Path) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "run", "PYTHON=no-such-python"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert first.startswith("vdadmin needs Python 3.11 or newer, and there is no no-such-python")


def test_a_read_only_folder_is_one_sentence(project: Path) -> None:
    python: tuple[str, ...]
    if os.geteuid() == 0:  # nothing is read-only for root: ask as somebody else
        for folder in project.parents:
            if folder.stat().st_uid == 0 and folder != Path("/") and folder != Path("/tmp"):
                folder.chmod(0o755)
        own = os.path.realpath(sys.executable)
        theirs = "/usr/bin/python3" if own.startswith("/root/") else own
        python = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", theirs)
    else:
        project.chmod(0o555)
        python = (sys.executable,)
    done = bootstrap(project, python=python, HOME="/")
    assert sentence(done) == (
        f"vdadmin keeps its environment and its data in {project}, which cannot be written "
        "(Permission denied): put it into a folder of yours."
    )


def test_requirements_that_cannot_be_installed_are_one_sentence(project: Path) -> None:
    calls = with_fake_environment(project)
    python = project / ".venv" / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n'
        'case "$*" in *install*) echo "ERROR: no connection" >&2; exit 1;; esac\n'
    )
    done = bootstrap(project)
    assert sentence(done) == "The requirements could not be installed: ERROR: no connection"
    assert not list((project / ".venv").glob(".installed*"))


def test_the_second_start_installs_nothing(project: Path) -> None:
    calls = with_fake_environment(project)
    assert bootstrap(project).returncode == 0
    first = calls.read_text().splitlines()
    assert first[0] == "-m pip --version"
    assert first[1].startswith("-m pip install --quiet --require-hashes")
    assert first[1].endswith("-r requirements.txt")
    assert first[2:] == ["-m vdadmin.start"]
    calls.unlink()
    assert bootstrap(project).returncode == 0
    assert calls.read_text() == "-m vdadmin.start\n"


def test_changed_requirements_are_installed_by_the_next_start(project: Path) -> None:
    calls = with_fake_environment(project)
    bootstrap(project)
    with (project / "requirements.txt").open("a") as file:
        file.write("# another one\n")
    calls.unlink()
    bootstrap(project)
    assert "-m pip install" in calls.read_text()


@pytest.mark.parametrize("home", ["", "/does/not/exist"])
def test_an_empty_home_is_replaced(project: Path, home: str) -> None:
    calls = with_fake_environment(project)
    python = project / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$HOME" >> {calls}\n')
    assert bootstrap(project, HOME=home).returncode == 0
    assert set(calls.read_text().splitlines()) == {str(project / "var" / "home")}


def test_without_root_the_missing_packages_are_one_line(project: Path, tmp_path: Path) -> None:
    """Asked with an empty PATH: every tool is missing, and apt-get, too."""
    done = bootstrap(project, "test", PATH=str(tmp_path))
    assert "run as root: apt-get install -y --no-install-recommends chromium" in sentence(done)


def test_an_unknown_command_is_one_sentence(project: Path) -> None:
    assert sentence(bootstrap(project, "fly")).startswith("There is no command 'fly'")
