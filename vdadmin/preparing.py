"""What must be there before anything is served: database, styles, administrator, demo root.

Stamps remember the inputs of the slow steps, so that a later start skips them and is up as
fast as Python can import.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
ADMINISTRATOR = "admin"


def preparations(state: Path, *, with_demo: bool) -> list[Callable[[], None]]:
    """The steps in their order; each does only what is missing."""
    return [
        _load_django,
        lambda: _migrate(state),
        lambda: _collect_static(state),
        _make_administrator,
        *([lambda: _make_demo(state)] if with_demo else []),
        _import_everything,
    ]


def _load_django() -> None:
    import django

    django.setup()


def _migrate(state: Path) -> None:
    from django.conf import settings
    from django.core.management import call_command

    wanted = _digest(BASE_DIR.glob("disks/migrations/*.py"), [BASE_DIR / "requirements.txt"])
    database = settings.DATABASES["default"]
    # A database elsewhere may have been replaced meanwhile: it is always asked itself.
    is_known = "sqlite3" in database["ENGINE"] and Path(str(database["NAME"])).exists()
    if is_known and _stamp(state, "migrated") == wanted:
        return
    _say("Preparing the database …")
    call_command("migrate", interactive=False, verbosity=0)
    _set_stamp(state, "migrated", wanted)


def _collect_static(state: Path) -> None:
    from django.conf import settings
    from django.core.management import call_command

    wanted = _digest(
        (path for path in BASE_DIR.glob("static/**/*") if path.is_file()),
        [BASE_DIR / "requirements.txt"],
    )
    collected = Path(settings.STATIC_ROOT) / "staticfiles.json"
    if collected.exists() and _stamp(state, "collected") == wanted:
        return
    _say("Collecting style sheets and scripts …")
    call_command("collectstatic", interactive=False, verbosity=0)
    _set_stamp(state, "collected", wanted)


def _make_demo(state: Path) -> None:
    """Once: what somebody changed in it, or removed, stays as it is."""
    from django.core.management import call_command

    if _stamp(state, "demo"):
        return
    _say("Making a demo storage root …")
    call_command("demo", verbosity=0)
    _set_stamp(state, "demo", "made")


def _make_administrator() -> None:
    """An administrator with a password that nobody else knows, shown once."""
    from django.contrib.auth import get_user_model

    users = get_user_model()._default_manager
    if users.exists():
        return
    password = secrets.token_urlsafe(12)
    users.create_superuser(username=ADMINISTRATOR, email="", password=password)
    _say("")
    _say(f"Sign in as    {ADMINISTRATOR}")
    _say(f"Password      {password}")
    _say("It is shown this once. To set another: .venv/bin/python manage.py changepassword admin")
    _say("")


def _import_everything() -> None:
    """What the children need, imported once here: they fork with it instead of each reading it."""
    from django.db import connections
    from django.urls import get_resolver

    import vdadmin.celery
    import vdadmin.wsgi

    vdadmin.celery.app.loader.import_default_modules()
    _ = get_resolver().url_patterns
    connections.close_all()  # a connection must not be shared by forked processes


def _digest(*groups: Iterable[Path]) -> str:
    """Changes when a file's name, size or time of change does."""
    digest = hashlib.sha256()
    for path in sorted(path for group in groups for path in group):
        seen = path.stat()
        digest.update(f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _stamp(state: Path, name: str) -> str:
    try:
        return (state / "stamps" / name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def _set_stamp(state: Path, name: str, value: str) -> None:
    (state / "stamps").mkdir(exist_ok=True)
    (state / "stamps" / name).write_text(value + "\n", encoding="ascii")


def _say(line: str) -> None:
    print(f"  {line}" if line else "", flush=True)
