"""All addresses: the console's, which declare their roles in `disks/urls.py`."""

from disks.urls import urlpatterns

handler400 = "disks.views.errors.bad_request"
handler403 = "disks.views.errors.forbidden"
handler404 = "disks.views.errors.not_found"
handler500 = "disks.views.errors.internal_error"

__all__ = ["handler400", "handler403", "handler404", "handler500", "urlpatterns"]
