"""`manage.py scan`: scan storage roots now, in this process, as a job that everybody sees."""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from disks.models import Job, StorageRoot
from disks.services import jobs, scanning


class Command(BaseCommand):
    help = "Bring the catalog up to date with the files below the storage roots."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("root", nargs="*", help="names or paths; none: all roots")
        parser.add_argument("--json", action="store_true", dest="as_json")

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = [self._found(name) for name in options["root"]] or list(StorageRoot.objects.all())
        if not chosen:
            raise CommandError("There is no storage root yet; `manage.py root add` declares one.")
        job = scanning.request_many(chosen, user=None, idempotency_key=uuid.uuid4().hex)
        job = jobs.run_now(job)
        if options["as_json"]:
            document = {"job": job.pk, "status": job.status, "error": job.error}
            self.stdout.write(json.dumps(document | job.result, indent=1))
        else:
            self.stdout.write(job.sentence)
            for problem in job.result.get("problems", []):
                self.stderr.write(f"{problem['code']}: {problem['message']}")
        if job.status == Job.Status.QUEUED:
            raise CommandError(f"Job {job.pk} has not begun yet; a worker starts it then.")
        if job.status != Job.Status.SUCCEEDED:
            raise CommandError(f"The scan ended as “{job.get_status_display()}”.")

    def _found(self, name: str) -> StorageRoot:
        root = StorageRoot.objects.filter(name=name).first()
        root = root or StorageRoot.objects.filter(path=name.rstrip("/") or "/").first()
        if root is None:
            raise CommandError(f"There is no storage root {name}.")
        return root
