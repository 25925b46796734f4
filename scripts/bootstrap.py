#!/usr/bin/env python3
"""The first step of every make target: a virtual environment with the locked requirements.

Runs on the machine's own Python with the standard library alone. Python older than 3.11
must still be able to read this file, so that it can say what is missing.

A stamp in `.venv` holds the hash of the requirements that were installed: the next start
skips pip. Then this process becomes the command that was asked for.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
OLDEST = (3, 11)

RUN = ("requirements.txt",)
DEVELOP = ("requirements.txt", "requirements-dev.txt")

# What the tests call, and the Debian package that has it. A pattern with `/` is a path.
TEST_TOOLS = (
    (("chromium",), "chromium"),
    (("7zz", "7z"), "7zip"),
    (("qemu-img",), "qemu-utils"),
    (("vhdiinfo",), "libvhdi-utils"),
    (("redis-server",), "redis-server"),
    (("/usr/lib/postgresql/*/bin/initdb",), "postgresql"),
    (("runuser",), "util-linux"),
    (("strace",), "strace"),
)


class Refusal(Exception):
    """Why this cannot go on, in one sentence for the person at the terminal."""


def main(arguments: list) -> None:
    command = arguments[0] if arguments else "run"
    refuse_old_python()
    normal_home()
    os.chdir(ROOT)
    if command == "run":
        refuse_unwritable(os.environ.get("VDADMIN_STATE_DIR") or os.path.join(ROOT, "var"))
        install(RUN, "run")
        become([VENV_PYTHON, "-m", "vdadmin.start"])
    elif command == "test":
        install_test_tools()
        install(DEVELOP, "develop")
        become([VENV_PYTHON, "scripts/checks.py"])
    elif command == "lint":
        install(DEVELOP, "develop")
        become([VENV_PYTHON, "scripts/checks.py", "--static"])
    elif command == "prove":
        install_test_tools()
        install(DEVELOP, "develop")
        become([VENV_PYTHON, "scripts/prove.py"])
    else:
        raise Refusal(f"There is no command {command!r}; see `make help`.")


def refuse_old_python() -> None:
    if sys.version_info[:2] >= OLDEST:
        return
    for minor in range(20, 10, -1):  # a newer one may be there under its own name
        newer = shutil.which(f"python3.{minor}")
        if newer:
            os.execv(newer, [newer, *sys.argv])
    found = ".".join(str(part) for part in sys.version_info[:3])
    raise Refusal(
        f"vdadmin needs Python 3.11 or newer; {sys.executable or 'this Python'} is {found}. "
        "Install a newer one, or name it: make run PYTHON=/path/to/python3"
    )


def normal_home() -> None:
    """pip and Chromium write below HOME; without a usable one they get a folder of ours."""
    home = os.environ.get("HOME", "")
    if not (home and os.path.isdir(home)):
        home = os.path.join(ROOT, "var", "home")
        try:
            os.makedirs(home, exist_ok=True)
        except OSError as error:
            raise Refusal(f"{ROOT} cannot be written ({error.strerror}).") from None
        os.environ["HOME"] = home


def refuse_unwritable(state: str) -> None:
    """The folders that a start writes to; asked before anything is begun."""
    for folder in (os.path.dirname(VENV), state):
        try:
            os.makedirs(folder, exist_ok=True)
            probe = os.path.join(folder, f".write-probe-{os.getpid()}")
            with open(probe, "w"):
                pass
            os.unlink(probe)
        except OSError as error:
            raise Refusal(
                f"vdadmin keeps its environment and its data in {folder}, which cannot be "
                f"written ({error.strerror}): put it into a folder of yours."
            ) from None


# --- the environment -------------------------------------------------------------------------


def install(requirements: tuple, purpose: str) -> None:
    """Bring `.venv` to the locked requirements; nothing to do when the stamp says so."""
    stamp = os.path.join(VENV, f".installed-for-{purpose}")
    wanted = fingerprint(requirements)
    if read(stamp) == wanted and os.access(VENV_PYTHON, os.X_OK):
        return
    make_venv()
    print("Installing the locked requirements into .venv …", flush=True)
    command = [VENV_PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-input", "--no-warn-script-location"]
    for name in requirements:
        command += ["-r", name]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Refusal(f"The requirements could not be installed: {last_error(done.stderr)}")
    with open(stamp, "w") as file:
        file.write(wanted)


def make_venv() -> None:
    """A virtual environment with pip; one that works is kept."""
    if os.access(VENV_PYTHON, os.X_OK) and quiet([VENV_PYTHON, "-m", "pip", "--version"]):
        return
    if not quiet([sys.executable, "-c", "import venv, ensurepip"]):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise Refusal(
            f"{sys.executable} cannot make virtual environments: on Debian and Ubuntu "
            f"`apt-get install python{version}-venv` adds what is missing."
        )
    print("Making the virtual environment .venv …", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", VENV],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise Refusal(f"The virtual environment could not be made: {last_error(done.stdout)}")


def fingerprint(requirements: tuple) -> str:
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    for name in requirements:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


# --- Debian packages -------------------------------------------------------------------------


def install_test_tools() -> None:
    """The programs that tests drive: installed when root on Debian, else named."""
    missing = [package for patterns, package in TEST_TOOLS if not any(map(found, patterns))]
    if not quiet([sys.executable, "-c", "import venv, ensurepip"]):
        missing.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")
    if not missing:
        return
    line = "apt-get install -y --no-install-recommends " + " ".join(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Refusal(f"The tests need some Debian packages; run as root: {line}")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    if not glob.glob("/var/lib/apt/lists/*_Packages*"):
        apt("apt-get update -q", environment)
    print(f"Installing Debian packages: {' '.join(missing)}", flush=True)
    if not apt(line + " -q", environment):  # the lists may be older than the archive
        apt("apt-get update -q", environment)
        if not apt(line + " -q", environment):
            raise Refusal(f"Debian packages for the tests could not be installed; try: {line}")


def found(pattern: str) -> bool:
    return bool(glob.glob(pattern)) if "/" in pattern else shutil.which(pattern) is not None


def apt(line: str, environment: dict) -> bool:
    done = subprocess.run(
        line.split(),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
    return done.returncode == 0


# --- small helpers ---------------------------------------------------------------------------


def quiet(command: list) -> bool:
    """Whether a command succeeds; its output is of no interest."""
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return done.returncode == 0


def read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def last_error(text: str) -> str:
    """The line of a tool's output that says why: the last with ERROR, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason was given"])[-1]


def become(command: list) -> None:
    """Replace this process, so that signals reach the command itself."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
