"""`manage.py job`: list, show, cancel, pause, resume, retry, wait; every answer is JSON."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from disks import tasks
from disks.models import Job
from disks.services import half_merged, jobs, stopping
from disks.services.errors import Refusal


class Command(BaseCommand):
    help = "Jobs: list, show ID, cancel ID, pause ID, resume ID, retry ID, wait ID. Prints JSON."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="the newest jobs")
        listing.add_argument("--status", choices=Job.Status.values, help="only these")
        listing.add_argument("--kind", choices=Job.Kind.values, help="only these")
        listing.add_argument("--limit", type=int, default=50)
        for verb, explains in (
            ("show", "one job, with its log"),
            ("cancel", "stop it"),
            ("pause", "have it go on later: a worker is free, its disks stay locked"),
            ("resume", "go on with a paused one"),
            ("start-now", "do not wait for the clock, whatever the hours of its roots"),
            ("retry", "a new job with the same parameters, or another try of its recovery"),
        ):
            parser_of_verb = verbs.add_parser(verb, help=explains)
            parser_of_verb.add_argument("id", type=int)
            if verb == "resume":
                parser_of_verb.add_argument(
                    "--only-touched",
                    action="store_true",
                    help="of a merge whose parent has other times since it was stopped: I know "
                    "that nobody has written to it",
                )
        waiting = verbs.add_parser("wait", help="until it ends; exit code 0 if it succeeded")
        waiting.add_argument("id", type=int)
        waiting.add_argument("--timeout", type=float, help="seconds; then exit code 3")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "list":
            self._list(options)
            return
        job = Job.objects.filter(pk=options["id"]).first()
        if job is None:
            raise CommandError(f"There is no job {options['id']}.")
        try:
            getattr(self, f"_{options['verb'].replace('-', '_')}")(job, options)
        except Refusal as refusal:
            self._print({"error": refusal.as_dict()})
            self.stderr.write(f"error: {refusal}")
            sys.exit(1)

    def _list(self, options: dict[str, Any]) -> None:
        found = Job.objects.select_related("requested_by").order_by("-pk")
        for name in ("status", "kind"):
            if options[name]:
                found = found.filter(**{name: options[name]})
        self._print({"jobs": [jobs.document(job) for job in found[: max(0, options["limit"])]]})

    def _show(self, job: Job, options: dict[str, Any]) -> None:
        log = [{"at": line.at, "text": line.text} for line in job.log.all()]
        self._print(jobs.document(job) | {"log": log})

    def _cancel(self, job: Job, options: dict[str, Any]) -> None:
        self._print(jobs.document(stopping.cancel(job, None, "command line")))

    def _pause(self, job: Job, options: dict[str, Any]) -> None:
        self._print(jobs.document(stopping.pause(job, None, "command line")))

    def _resume(self, job: Job, options: dict[str, Any]) -> None:
        touched = half_merged.touched_base(job) if options["only_touched"] else None
        untouched = touched[1] if touched else None
        self._print(jobs.document(stopping.resume(job, None, "command line", untouched=untouched)))

    def _start_now(self, job: Job, options: dict[str, Any]) -> None:
        self._print(jobs.document(stopping.start_now(job, None, "command line")))

    def _retry(self, job: Job, options: dict[str, Any]) -> None:
        with transaction.atomic():
            again = jobs.retry(job, None, "command line")
            tasks.enqueue(again)
        self._print(jobs.document(again))

    def _wait(self, job: Job, options: dict[str, Any]) -> None:
        deadline = time.monotonic() + (options["timeout"] or float("inf"))
        while job.is_active and time.monotonic() < deadline:
            time.sleep(0.2)
            job.refresh_from_db()
        self._print(jobs.document(job))
        if job.is_active:
            sys.exit(3)
        if job.status != Job.Status.SUCCEEDED:
            sys.exit(1)

    def _print(self, document: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(document, indent=1, default=_as_text))


def _as_text(value: Any) -> str:
    return str(value.isoformat() if hasattr(value, "isoformat") else value)
