"""Entry point of the web server: `gunicorn vdadmin.wsgi`."""

import os

from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vdadmin.settings")
application = get_wsgi_application()


def _demand_secret() -> None:
    from django.conf import settings

    try:
        settings.SECRET_KEY  # noqa: B018  Django refuses an empty one when it is read
    except ImproperlyConfigured as problem:
        raise ImproperlyConfigured(
            "There is no secret. Set VDADMIN_SECRET_KEY to 50 random characters, "
            "or put them into the file secret-key in VDADMIN_STATE_DIR."
        ) from problem


_demand_secret()
