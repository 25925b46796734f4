"""`manage.py reconciler`: the supervised loop that no job gets lost behind."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connection

from disks import tasks
from disks.services.reconciling import Reconciler


class Command(BaseCommand):
    help = "Sends waiting jobs, recovers those whose worker died. Runs until it is told to end."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="one round, then end")

    def handle(self, *args: Any, **options: Any) -> None:
        reconciler = Reconciler(tasks.send, tasks.queue_depth)
        if options["once"]:
            reconciler.round()
            return
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        while not ended.is_set():
            reconciler.round()
            connection.close_if_unusable_or_obsolete()
            ended.wait(settings.RECONCILER_SECONDS)
