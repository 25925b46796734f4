"""Django's settings, and the only reader of the environment.

What may be set (everything has a safe default but the secret):

    VDADMIN_SECRET_KEY       signs sessions; else the file `secret-key` in the state folder
    VDADMIN_STATE_DIR        database, embedded broker, collected static files; `var/` here
    VDADMIN_STATIC_ROOT      where collected static files lie; `static/` in the state folder
    VDADMIN_ALLOWED_HOSTS    host names that requests may carry, with commas
    VDADMIN_TRUSTED_ORIGINS  origins (https://…) that forms may come from, with commas
    VDADMIN_BEHIND_PROXY     1: believe X-Forwarded-Proto and the last X-Forwarded-For
    VDADMIN_INSECURE_HTTP    1: plain HTTP, for one machine; cookies travel unprotected
    VDADMIN_ROOTS_BELOW      folders, with `:`, below which the browser may declare roots
    VDADMIN_STORAGE_ROOTS    roots as JSON: [{"name", "path", "windows_views", "opened_by",
                             "read_only", "excluded_folders", "scan_every_minutes",
                             "limit_bytes_per_second", "jobs_at_once", "hours"}]
    VDADMIN_TIME_ZONE        for times on pages; UTC
    VDADMIN_LOG_LEVEL        INFO
    DATABASE_URL             postgres://… ; else SQLite in the state folder
    REDIS_URL                the broker; else a server of our own
    VDADMIN_JOBS_HELD_AT_MOST  how many held copies may keep a worker process waiting; 1
    VDADMIN_JOB_…_SECONDS, VDADMIN_RECONCILER_…_SECONDS  timings of jobs, see below

A name that starts with VDADMIN_ and is not known here is a typing error, and refused.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from vdadmin import broker

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent

# Read elsewhere: by the tests, and by the supervisor before Django is there.
KNOWN_NAMES = {
    "VDADMIN_CORPUS",
    "VDADMIN_HOST",
    "VDADMIN_PORT",
    "VDADMIN_SECRET_KEY",
    "VDADMIN_STATE_DIR",
    "VDADMIN_STATIC_ROOT",
    "VDADMIN_ALLOWED_HOSTS",
    "VDADMIN_TRUSTED_ORIGINS",
    "VDADMIN_BEHIND_PROXY",
    "VDADMIN_INSECURE_HTTP",
    "VDADMIN_ROOTS_BELOW",
    "VDADMIN_STORAGE_ROOTS",
    "VDADMIN_TIME_ZONE",
    "VDADMIN_LOG_LEVEL",
    "VDADMIN_JOB_LEASE_SECONDS",
    "VDADMIN_JOB_HEARTBEAT_SECONDS",
    "VDADMIN_JOB_STOP_WRITING_SECONDS",
    "VDADMIN_JOB_PROGRESS_SECONDS",
    "VDADMIN_JOB_RESEND_SECONDS",
    "VDADMIN_JOBS_HELD_AT_MOST",
    "VDADMIN_RECONCILER_SECONDS",
    "VDADMIN_RECONCILER_ORPHANS_SECONDS",
}


def _switch(name: str) -> bool:
    """A switch is 1 or 0; anything else is refused, for "false" would be truthy elsewhere."""
    value = env.str(name, default="0")
    if value not in ("", "0", "1"):
        raise ImproperlyConfigured(f"{name} is {value!r}; set it to 1 or 0.")
    return value == "1"


def _names(name: str, default: list[str]) -> list[str]:
    return [part.strip() for part in env.list(name, default=default) if part.strip()]


STATE_DIR = Path(env.str("VDADMIN_STATE_DIR", default=str(BASE_DIR / "var"))).absolute()
INSECURE_HTTP = _switch("VDADMIN_INSECURE_HTTP")
BEHIND_PROXY = _switch("VDADMIN_BEHIND_PROXY")


def _kept_secret() -> str:
    """The secret that the one-command start made; empty text makes Django refuse to serve."""
    try:
        return (STATE_DIR / "secret-key").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


# --- who may ask, and over what ----------------------------------------------------------

SECRET_KEY = env.str("VDADMIN_SECRET_KEY", default="") or _kept_secret()
DEBUG = False  # no variable turns it on: its pages show settings and local variables
ALLOWED_HOSTS = _names("VDADMIN_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
if "*" in ALLOWED_HOSTS:
    raise ImproperlyConfigured(
        "VDADMIN_ALLOWED_HOSTS is `*`, which lets a forged Host header through; name the hosts."
    )
CSRF_TRUSTED_ORIGINS = _names("VDADMIN_TRUSTED_ORIGINS", [])

SECURE_SSL_REDIRECT = not INSECURE_HTTP
SECURE_REDIRECT_EXEMPT = [r"^health$"]  # asked from inside the machine, without TLS
SECURE_HSTS_SECONDS = 0 if INSECURE_HTTP else 365 * 24 * 3600
SECURE_HSTS_INCLUDE_SUBDOMAINS = not INSECURE_HTTP
SECURE_HSTS_PRELOAD = not INSECURE_HTTP
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not INSECURE_HTTP
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# the prefix makes browsers refuse such a cookie from a neighbour or over plain HTTP
SESSION_COOKIE_NAME = "vdadmin-session" if INSECURE_HTTP else "__Host-vdadmin-session"
CSRF_COOKIE_NAME = "vdadmin-csrf" if INSECURE_HTTP else "__Host-vdadmin-csrf"
SESSION_COOKIE_AGE = 12 * 3600
CSRF_FAILURE_VIEW = "disks.views.errors.csrf_failure"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],  # Tabler's CSS draws its arrows as data: pictures
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "object-src": [NONE],
    }
}

DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000  # a repair plan has a checkbox per child
DATA_UPLOAD_MAX_NUMBER_FILES = 1
FILE_UPLOAD_HANDLERS = ["vdadmin.uploads.RefuseUploads"]  # no form takes a file

# --- signing in --------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS: list[dict[str, Any]] = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"

AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
# Both together: by name alone anybody could lock an administrator out, by address alone
# one colleague a whole office.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
# Beyond that: one address that tries many names, and many addresses that try one name.
SIGN_IN_FAILURES_OF_AN_ADDRESS = 30
SIGN_IN_FAILURES_OF_A_NAME = 50
AXES_LOCKOUT_CALLABLE = "disks.views.session.locked_out"
AXES_CLIENT_IP_CALLABLE = "disks.views.guard.client_address"
AXES_HTTP_RESPONSE_CODE = 429
AXES_VERBOSE = False

# --- the parts ---------------------------------------------------------------------------

INSTALLED_APPS = [
    "disks.apps.ConsoleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "django_filters",
    "csp",
    "axes",
    "disks",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "vdadmin.middleware.PageHeaders",
    "csp.middleware.CSPMiddleware",
    "vdadmin.middleware.FragmentLimit",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
    "vdadmin.middleware.WindowsNames",
]
# (a second, at once) of the pieces of pages that htmx asks for; see vdadmin/middleware.py
FRAGMENTS_PER_BROWSER = (15, 60)
FRAGMENTS_PER_ADDRESS = (150, 600)
ROOT_URLCONF = "vdadmin.urls"
WSGI_APPLICATION = "vdadmin.wsgi.application"
APPEND_SLASH = False
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "disks.views.rendering.shell",
            ],
            "builtins": [
                "django.templatetags.static",
                "disks.templatetags.amounts",
                "disks.templatetags.names",
                "disks.templatetags.states",
                "disks.templatetags.console",
            ],
        },
    }
]
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

USE_TZ = True
TIME_ZONE = env.str("VDADMIN_TIME_ZONE", default="UTC")
LANGUAGE_CODE = "en"
USE_I18N = False

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = env.str("VDADMIN_STATIC_ROOT", default=str(STATE_DIR / "static"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# --- database ----------------------------------------------------------------------------

_database: dict[str, Any] = dict(
    env.db_url("DATABASE_URL", default=f"sqlite:///{STATE_DIR / 'vdadmin.sqlite3'}")
)
if _database["ENGINE"] == "django.db.backends.sqlite3":
    _database["OPTIONS"] = {
        # Readers never wait for the writer; the writer takes its lock at BEGIN, so that two
        # writers queue up instead of failing half way.
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
elif _database["ENGINE"] == "django.db.backends.postgresql":
    _database["CONN_MAX_AGE"] = 60
    _database["CONN_HEALTH_CHECKS"] = True
else:
    raise ImproperlyConfigured("DATABASE_URL must begin with postgres:// or sqlite:///.")
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- the broker, and jobs ----------------------------------------------------------------

REDIS_URL = env.str("REDIS_URL", default="")
BROKER_DIR = STATE_DIR / "broker"
CELERY_BROKER_URL = REDIS_URL or f"redis+socket://{broker.socket_path(BROKER_DIR)}"

# Seconds, all of them; the reasons are in disks/services/leases.py and reconciling.py.
JOB_LEASE_SECONDS = env.float("VDADMIN_JOB_LEASE_SECONDS", default=30.0)
JOB_HEARTBEAT_SECONDS = env.float("VDADMIN_JOB_HEARTBEAT_SECONDS", default=5.0)
JOB_STOP_WRITING_SECONDS = env.float("VDADMIN_JOB_STOP_WRITING_SECONDS", default=20.0)
JOB_PROGRESS_SECONDS = env.float("VDADMIN_JOB_PROGRESS_SECONDS", default=1.0)
JOB_RESEND_SECONDS = env.float("VDADMIN_JOB_RESEND_SECONDS", default=15.0)
RECONCILER_SECONDS = env.float("VDADMIN_RECONCILER_SECONDS", default=10.0)
RECONCILER_ORPHANS_SECONDS = env.float("VDADMIN_RECONCILER_ORPHANS_SECONDS", default=300.0)
if not (
    0 < JOB_HEARTBEAT_SECONDS < JOB_STOP_WRITING_SECONDS < JOB_LEASE_SECONDS
    and JOB_PROGRESS_SECONDS <= JOB_STOP_WRITING_SECONDS
):
    raise ImproperlyConfigured(
        "Job timings must keep this order: VDADMIN_JOB_HEARTBEAT_SECONDS < "
        "VDADMIN_JOB_STOP_WRITING_SECONDS < VDADMIN_JOB_LEASE_SECONDS."
    )
WORKER_PROCESSES = 2  # of the worker that the one-command start runs
# A copy that is paused keeps a worker process waiting; one at least shall be left for others.
JOBS_HELD_AT_MOST = env.int("VDADMIN_JOBS_HELD_AT_MOST", default=WORKER_PROCESSES - 1)
JOB_ATTEMPTS = 3  # starts of work that may simply be done again
JOB_RECOVERIES = 3  # tries to finish or undo before a person is needed
JOB_KEEP_DAYS = 400  # finished jobs; scans and checks 30; the audit is kept for good

CELERY_TASK_IGNORE_RESULT = True  # the job's row is the truth
CELERY_RESULT_BACKEND = None
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = False  # late, a job longer than an hour would be delivered twice
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # a message must not be able to stop a worker
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CONNECTION_TIMEOUT = 2.0
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 2.0,
    "socket_timeout": 5.0,
    "max_retries": 1,  # a page must not hang when the broker is away; the reconciler resends
    "interval_start": 0.0,
    "interval_step": 0.1,
    "interval_max": 0.2,
}
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"  # in memory: no file to break on a kill
CELERY_BEAT_SCHEDULE = {
    "request due scans": {
        "task": "disks.request_due_scans",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "forget old jobs": {
        "task": "disks.forget_old_jobs",
        "schedule": 6 * 3600.0,
        "options": {"expires": 3600.0},
    },
}

# --- storage roots -----------------------------------------------------------------------

_ROOT_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "path": str,
    "windows_views": list,
    "opened_by": str,
    "read_only": bool,
    "excluded_folders": list,
    "scan_every_minutes": int,
    "limit_bytes_per_second": int,
    "jobs_at_once": int,
    "hours": str,
}


def _roots_below() -> list[str]:
    """Folders below which an administrator may declare roots in the browser."""
    folders = [part for part in env.str("VDADMIN_ROOTS_BELOW", default="").split(":") if part]
    for folder in folders:
        if not os.path.isabs(folder):
            raise ImproperlyConfigured(f"VDADMIN_ROOTS_BELOW: {folder!r} is not a full path.")
    return [os.path.normpath(folder) for folder in folders]


def _storage_roots() -> list[dict[str, Any]]:
    """Roots that the installation declares; a misspelt key would silently do nothing."""
    text = env.str("VDADMIN_STORAGE_ROOTS", default="")
    if not text:
        return []
    try:
        rows = json.loads(text)
    except ValueError as problem:
        raise ImproperlyConfigured(f"VDADMIN_STORAGE_ROOTS is no JSON: {problem}") from problem
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ImproperlyConfigured("VDADMIN_STORAGE_ROOTS must be a JSON list of objects.")
    for row in rows:
        for key, value in row.items():
            if key not in _ROOT_KEYS:
                raise ImproperlyConfigured(
                    f"VDADMIN_STORAGE_ROOTS: {key!r} is not known; use {', '.join(_ROOT_KEYS)}."
                )
            if not isinstance(value, _ROOT_KEYS[key]):
                raise ImproperlyConfigured(f"VDADMIN_STORAGE_ROOTS: {key} is {value!r}.")
        if not row.get("name") or not os.path.isabs(row.get("path", "")):
            raise ImproperlyConfigured(
                "VDADMIN_STORAGE_ROOTS: every root needs a name and a full path."
            )
    return rows


ROOTS_BELOW = _roots_below()
STORAGE_ROOTS = _storage_roots()

# --- log ---------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.str("VDADMIN_LOG_LEVEL", default="INFO")},
    "loggers": {
        # Django's own handlers would print twice, or mail
        "django": {"handlers": [], "propagate": True},
        "django.server": {"handlers": [], "propagate": True},
        "axes": {"level": "WARNING"},
    },
}

_unknown = sorted(name for name in os.environ if name.startswith("VDADMIN_"))
_unknown = [name for name in _unknown if name not in KNOWN_NAMES]
if _unknown:
    raise ImproperlyConfigured(
        f"Not known: {', '.join(_unknown)}. Known are: {', '.join(sorted(KNOWN_NAMES))}."
    )
