"""`manage.py demo`: a storage root with healthy and broken disks, to try the console on."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from disks.engine.errors import ImageError
from disks.operations import demo
from disks.services import root_declarations, scanning
from disks.services.errors import Refusal


class Command(BaseCommand):
    help = "Make the demo storage root, declare it and scan it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "folder",
            nargs="?",
            default=str(settings.STATE_DIR / "demo"),
            help="an empty or new folder; demo/ in the state folder otherwise",
        )
        parser.add_argument("--name", default="Demo", help="the root's name in the console")

    def handle(self, *args: Any, **options: Any) -> None:
        folder: str = options["folder"]
        try:
            made = demo.make(folder)
            root = root_declarations.declare(
                path=folder,
                declared_by="command line",
                says=root_declarations.Declaration(
                    name=options["name"],
                    opened_by="nobody",
                    read_only=False,
                    windows_views=(demo.WINDOWS_VIEW,),
                ),
            )
            scanning.scan(root)
        except FileExistsError as error:
            raise CommandError(f"{error}: name an empty or a new folder.") from error
        except (ImageError, Refusal) as error:
            raise CommandError(str(error)) from error
        if options["verbosity"]:
            self.stdout.write(f"{len(made)} files made below {folder}; the root is declared.")
