"""`manage.py health web|neighbours`: what containers ask about themselves, by exit code."""

from __future__ import annotations

import http.client
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection


class Command(BaseCommand):
    help = "Exit 0 when the web server here answers, or when database and broker can be reached."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=["web", "neighbours"])
        parser.add_argument("--port", type=int, default=8000, help="of the web server here")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["what"] == "web":
            self._web(options["port"])
        else:
            self._database()
            self._broker()
        self.stdout.write("ok")

    def _web(self, port: int) -> None:
        """Asks under a name that the settings allow, past the proxy that adds TLS."""
        name = settings.ALLOWED_HOSTS[0].lstrip(".") if settings.ALLOWED_HOSTS else "localhost"
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            asking.request("GET", "/health", headers={"Host": name})
            status = asking.getresponse().status
        except OSError as error:
            raise CommandError(f"The web server does not answer: {error}") from error
        finally:
            asking.close()
        if status != 200:
            raise CommandError(f"The web server answers {status}.")

    def _database(self) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {error}") from error

    def _broker(self) -> None:
        from vdadmin.celery import app

        try:
            with app.connection_for_read() as broker:
                broker.ensure_connection(max_retries=1, timeout=5)
        except OSError as error:  # kombu's connection errors are made into these
            raise CommandError(f"The broker does not answer: {error}") from error
