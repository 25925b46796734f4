"""`manage.py root`: list, add, set, probe, accept and remove storage roots."""

from __future__ import annotations

import argparse
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from disks.commandline.options import rate
from disks.engine.errors import ImageError
from disks.models import StorageRoot
from disks.services import root_declarations, root_state
from disks.services.errors import Refusal
from disks.services.root_declarations import Declaration


class Command(BaseCommand):
    help = "Storage roots: the folders that the console may look at."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="all roots")
        listing.add_argument("--json", action="store_true", dest="as_json")
        add = verbs.add_parser("add", help="declare a folder; read-only unless said otherwise")
        add.add_argument("path")
        _add_options(add)
        change = verbs.add_parser("set", help="change what is said about a root")
        change.add_argument("name", help="its name or path")
        change.add_argument("--rename", dest="name_new")
        _add_options(change, with_name=False)
        for verb, words in (
            ("probe", "try out what its storage can do"),
            ("accept", "take the folder as it is now, after a restore or a move of the volume"),
            ("remove", "forget a root; no file is touched"),
        ):
            verbs.add_parser(verb, help=words).add_argument("name", help="its name or path")
        verbs.add_parser("sync", help="declare what VDADMIN_STORAGE_ROOTS names")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, options["verb"])(options)
        except (Refusal, ImageError) as error:
            advice = getattr(error, "advice", "")
            raise CommandError(f"{error}{' ' + advice if advice else ''}") from error

    def list(self, options: dict[str, Any]) -> None:
        rows = StorageRoot.objects.prefetch_related("windows_views")
        if options["as_json"]:
            documents = [root_declarations.as_dict(root) | {"state": root.state} for root in rows]
            self.stdout.write(json.dumps({"roots": documents}, indent=1))
            return
        for root in rows:
            views = ", ".join(view.prefix for view in root.windows_views.all()) or "no Windows view"
            writing = "read-only" if root.read_only else f"opened by {root.opened_by}"
            self.stdout.write(f"{root.name}: {root.path} ({root.state}, {writing}, {views})")

    def add(self, options: dict[str, Any]) -> None:
        root = root_declarations.declare(
            path=options["path"],
            declared_by=StorageRoot.DeclaredBy.COMMAND_LINE,
            says=_said(options, options["name_new"]),
        )
        self.stdout.write(f"Added {root.name}: {root.path}")
        self._tell(root.probe)

    def set(self, options: dict[str, Any]) -> None:
        root = _found(options["name"])
        leads_before = root_declarations.decides_links(root)
        root_declarations.change(root, says=_said(options, options["name_new"]))
        self.stdout.write(f"Changed {root.name}.")
        if root_declarations.decides_links(root) != leads_before:
            self.stdout.write("Parent paths may lead elsewhere now: `manage.py scan` follows.")

    def probe(self, options: dict[str, Any]) -> None:
        self._tell(root_state.probe(_found(options["name"])))

    def accept(self, options: dict[str, Any]) -> None:
        root = root_declarations.accept(_found(options["name"]))
        self.stdout.write(f"{root.name} is the folder that is now at {root.path}.")

    def remove(self, options: dict[str, Any]) -> None:
        root = _found(options["name"])
        root_declarations.remove(root)
        self.stdout.write(f"Removed {root.name}; its files stay where they are.")

    def sync(self, options: dict[str, Any]) -> None:
        for root in root_declarations.sync_from_settings():
            self.stdout.write(f"{root.name}: {root.path}")

    def _tell(self, found: dict[str, Any]) -> None:
        for key in ("readable", "writable", "locks", "hard_links", "ownership"):
            answer = {True: "yes", False: "no", None: "not tried"}[found[key]]
            self.stdout.write(f"  {key.replace('_', ' ')}: {answer}")
        for problem in found["problems"]:
            self.stdout.write(f"  {problem}")


def _add_options(parser: argparse.ArgumentParser, *, with_name: bool = True) -> None:
    if with_name:
        parser.add_argument("--name", dest="name_new", help="default: the folder's name")
    parser.add_argument("--opened-by", choices=StorageRoot.OpenedBy.values)
    writing = parser.add_mutually_exclusive_group()
    writing.add_argument("--read-only", action="store_true", default=None, dest="read_only")
    writing.add_argument("--writable", action="store_false", default=None, dest="read_only")
    parser.add_argument(
        "--windows-view",
        "--view",
        action="append",
        dest="views",
        metavar="PREFIX",
        help=r"how Windows sees the folder (C:\VMs, \\nas\vms); the first is preferred",
    )
    parser.add_argument("--exclude", action="append", metavar="FOLDER", help="a folder name")
    parser.add_argument("--scan-every", type=int, metavar="MINUTES", help="0: by hand only")
    parser.add_argument(
        "--limit",
        type=rate,
        metavar="BYTES[K|M|G]",
        help="what all jobs together may move here in a second; 0: no limit",
    )
    parser.add_argument(
        "--hours",
        metavar="22:00-06:00",
        help="when long jobs run here, in the console's time zone; empty: at any time",
    )
    parser.add_argument(
        "--jobs-at-once",
        type=int,
        metavar="NUMBER",
        help="how many jobs may move data here at once; 0: no limit",
    )


def _said(options: dict[str, Any], name: str | None) -> Declaration:
    if options["read_only"] is False and options["opened_by"] is None:
        raise CommandError("--writable needs --opened-by: say who else opens these disks.")
    return Declaration(
        name=name,
        opened_by=options["opened_by"],
        read_only=options["read_only"],
        windows_views=options["views"],
        excluded_folders=options["exclude"],
        scan_every_minutes=options["scan_every"],
        limit_bytes_per_second=options["limit"],
        jobs_at_once=options["jobs_at_once"],
        hours=options["hours"],
    )


def _found(name: str) -> StorageRoot:
    root = StorageRoot.objects.filter(name=name).first()
    root = root or StorageRoot.objects.filter(path=name.rstrip("/") or "/").first()
    if root is None:
        raise CommandError(f"There is no storage root {name}.")
    return root
