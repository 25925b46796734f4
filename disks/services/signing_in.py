"""Whether a sign-in may be tried at all: limits beyond those for one name from one address.

django-axes counts failures by name and address together and closes after a few. Somebody
who tries one password on many names, or one name from many addresses, stays below that.
"""

from __future__ import annotations

from datetime import timedelta

from axes.models import AccessAttempt, AccessLog
from django.conf import settings
from django.db.models import Sum
from django.utils import timezone


def why_closed(username: str, address: str) -> str:
    """A sentence, or "" where it may be tried.

    A name that strangers try is still open from addresses where it has signed in before, so
    that nobody can lock its owner out.
    """
    since = timezone.now() - timedelta(hours=settings.AXES_COOLOFF_TIME)
    recent = AccessAttempt.objects.filter(attempt_time__gte=since)
    count = Sum("failures_since_start")
    of_address = recent.filter(ip_address=address).aggregate(count=count)["count"] or 0
    if of_address >= settings.SIGN_IN_FAILURES_OF_AN_ADDRESS:
        return "Signing in from this address is closed for a quarter of an hour."
    of_name = recent.filter(username=username).aggregate(count=count)["count"] or 0
    if of_name >= settings.SIGN_IN_FAILURES_OF_A_NAME and not _knows(username, address):
        return (
            "Signing in with this name is closed for a quarter of an hour, except from where it "
            "was used before."
        )
    return ""


def _knows(username: str, address: str) -> bool:
    return bool(AccessLog.objects.filter(username=username, ip_address=address).exists())
