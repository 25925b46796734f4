"""The settings as an installation meets them: each in a process of its own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest
from django.conf import settings

SECRET = "s3cr3t-" + "abcdefghijklmnopqrstuvwxyz0123456789-" * 2


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=settings.BASE_DIR,
        env=keep | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def value(expression: str, **environment: str) -> str:
    code = f"from vdadmin import settings; print({expression})"
    keep = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=settings.BASE_DIR,
        env=keep | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_check_deploy_finds_nothing_in_production_settings(tmp_path):
    """bad-input G109."""
    done = manage(
        "check",
        "--deploy",
        "--fail-level",
        "DEBUG",
        VDADMIN_SECRET_KEY=SECRET,
        VDADMIN_STATE_DIR=str(tmp_path),
        VDADMIN_ALLOWED_HOSTS="disks.example",
    )
    assert "System check identified no issues (0 silenced)." in done.stdout
    assert done.returncode == 0, done.stderr


def test_production_is_the_default():
    """bad-input G113."""
    names = [
        "DEBUG",
        "SECURE_SSL_REDIRECT",
        "SESSION_COOKIE_SECURE",
        "CSRF_COOKIE_SECURE",
        "SESSION_COOKIE_NAME",
        "SECURE_HSTS_SECONDS",
        "SECRET_KEY",
    ]
    shown = value(f"[getattr(settings, name) for name in {names}]", VDADMIN_STATE_DIR="/nowhere")
    assert shown == "[False, True, True, True, '__Host-vdadmin-session', 31536000, '']"


def test_plain_http_only_when_told():
    assert value("settings.SECURE_SSL_REDIRECT", VDADMIN_INSECURE_HTTP="1") == "False"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"VDADMIN_DEBUG": "1"}, "Not known: VDADMIN_DEBUG."),
        ({"VDADMIN_ALOWED_HOSTS": "x"}, "Not known: VDADMIN_ALOWED_HOSTS."),
        ({"VDADMIN_INSECURE_HTTP": "yes"}, "VDADMIN_INSECURE_HTTP is 'yes'; set it to 1 or 0."),
        ({"VDADMIN_ALLOWED_HOSTS": "*"}, "VDADMIN_ALLOWED_HOSTS is `*`"),
        ({"VDADMIN_ROOTS_BELOW": "srv"}, "VDADMIN_ROOTS_BELOW: 'srv' is not a full path."),
        ({"VDADMIN_STORAGE_ROOTS": "{"}, "VDADMIN_STORAGE_ROOTS is no JSON"),
        ({"VDADMIN_STORAGE_ROOTS": "{}"}, "VDADMIN_STORAGE_ROOTS must be a JSON list"),
        (
            {"VDADMIN_STORAGE_ROOTS": '[{"name": "a", "path": "/a", "readonly": true}]'},
            "VDADMIN_STORAGE_ROOTS: 'readonly' is not known",
        ),
        (
            {"VDADMIN_STORAGE_ROOTS": '[{"name": "a", "path": "/a", "read_only": "no"}]'},
            "VDADMIN_STORAGE_ROOTS: read_only is 'no'.",
        ),
        (
            {"VDADMIN_STORAGE_ROOTS": '[{"name": "a", "path": "a"}]'},
            "VDADMIN_STORAGE_ROOTS: every root needs a name and a full path.",
        ),
        ({"DATABASE_URL": "mysql://a/b"}, "DATABASE_URL must begin with postgres://"),
    ],
)
def test_values_that_make_no_sense_are_refused_loudly(environment, sentence):
    """bad-input G113."""
    assert sentence in value("1", **environment)


def test_server_without_a_secret_does_not_start(tmp_path):
    """bad-input G113: there is no default secret."""
    done = subprocess.run(
        [sys.executable, "-c", "import vdadmin.wsgi"],
        cwd=settings.BASE_DIR,
        env={"PATH": os.environ["PATH"], "VDADMIN_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "There is no secret. Set VDADMIN_SECRET_KEY" in done.stderr


def test_no_program_is_started_but_the_broker_and_no_shell_ever():
    """bad-input G106: so no name of a disk can become an argument, an option or a command."""
    starting = ("subprocess", "os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn")
    found = set()
    for folder in ("disks", "vdadmin"):
        for file in sorted((settings.BASE_DIR / folder).rglob("*.py")):
            if "tests" in file.parts:
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute | ast.Name):
                    name = ast.unparse(node)
                elif isinstance(node, ast.Import | ast.ImportFrom):
                    name = ast.unparse(node).split()[1]
                else:
                    continue
                if name.startswith(starting):
                    found.add(f"{folder}/{file.name}")
                assert name != "shell", file
    assert found == {"vdadmin/broker.py", "vdadmin/start.py"}


def test_messages_are_json_and_the_broker_is_no_address_of_the_network(tmp_path):
    """bad-input G112: pickle is off, and no browser reaches a socket in a folder of ours."""
    told = "[settings.CELERY_TASK_SERIALIZER, settings.CELERY_ACCEPT_CONTENT]"
    assert value(told) == "['json', ['json']]"
    address = value("settings.CELERY_BROKER_URL", VDADMIN_STATE_DIR=str(tmp_path))
    assert address.startswith("redis+socket:///")


def test_kept_secret_is_read_from_the_state_folder(tmp_path):
    (tmp_path / "secret-key").write_text("kept\n")
    assert value("settings.SECRET_KEY", VDADMIN_STATE_DIR=str(tmp_path)) == "kept"


def test_databases():
    sqlite = value("settings.DATABASES['default']['OPTIONS']['transaction_mode']")
    assert sqlite == "IMMEDIATE"
    postgres = value(
        "settings.DATABASES['default']['ENGINE']", DATABASE_URL="postgres://u:p@db/vdadmin"
    )
    assert postgres == "django.db.backends.postgresql"


def test_redirect_to_https_and_strict_transport(client, settings):
    """bad-input G109."""
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 31536000
    answer = client.get("/login")
    assert (answer.status_code, answer["Location"]) == (301, "https://testserver/login")
    assert client.get("/login", secure=True)["Strict-Transport-Security"] == "max-age=31536000"
    assert client.get("/nothing", secure=True).status_code == 404
