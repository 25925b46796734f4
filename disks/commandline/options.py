"""The options that every verb has, and the storage roots that they describe."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, time

from disks.engine.errors import ImageError
from disks.engine.units import MIB
from disks.operations import windows
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root, parsed_view
from disks.operations.wall_clock import next_time
from disks.operations.windows import shown

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d+)([KMGT]?)", re.IGNORECASE)


def common_options() -> argparse.ArgumentParser:
    """A parser to name in `parents=[…]`."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--json", action="store_true", help="one JSON document on stdout, nothing else there"
    )
    group.add_argument(
        "--search",
        metavar="DIR",
        action="append",
        default=[],
        help="also look for parents below this directory, by identity (repeatable)",
    )
    group.add_argument(
        "--map",
        metavar="'C:\\VMs=/srv/vms'",
        action="append",
        default=[],
        type=_mapping,
        help="how Windows names a directory of this host (repeatable, preferred first)",
    )
    group.add_argument(
        "--root",
        metavar="DIR",
        action="append",
        default=[],
        help="parents may only be opened below these (repeatable); default: the directories "
        "of the files named, of --search and of --map",
    )
    return parser


def add_offline(parser: argparse.ArgumentParser) -> None:
    """--offline, for verbs that write."""
    parser.add_argument(
        "--offline",
        action="store_true",
        help="I declare: nobody has these disks, or disks that depend on them, open",
    )


def size_bytes(text: str) -> int:
    """`40G` in bytes; units are powers of 1,024. For an argument's `type`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 40G, 512M or 1048576")
    return int(match[1]) * 1024 ** _UNITS[match[2].upper()]


def add_limit(parser: argparse.ArgumentParser) -> None:
    """--limit, for verbs that move data."""
    parser.add_argument(
        "--limit",
        metavar="BYTES[K|M|G]",
        type=rate,
        default=0,
        help="move at most so many bytes per second, the proof counted like the copy",
    )


def add_stop_by(parser: argparse.ArgumentParser) -> None:
    """--stop-by, for verbs that can work in place: `args.stop_by`, in seconds since 1970."""
    parser.add_argument(
        "--stop-by",
        metavar="HH:MM",
        type=_next_time,
        help="stop between two steps then, by this host's clock, and say how to go on; in place "
        "only, for a copy could not be gone on with",
    )


def require_in_place(args: argparse.Namespace, *, in_place: bool) -> None:
    """Wrong usage where --stop-by was given for a copy."""
    if args.stop_by is not None and not in_place:
        args.usage_error("--stop-by goes with work in place: a copy could not be gone on with")


def _next_time(text: str) -> float:
    try:
        clock = time.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 06:00") from None
    return next_time(clock, datetime.now(UTC), zone=None).timestamp()


def rate(text: str) -> int:
    """`50M` in bytes per second; 0: no limit. For an argument's `type`."""
    bytes_per_second = size_bytes(text)
    if 0 < bytes_per_second < MIB:
        raise argparse.ArgumentTypeError(f"{text!r} is too slow; give at least 1M, or 0")
    return bytes_per_second


def add_ways(parser: argparse.ArgumentParser) -> None:
    """How disks are merged into the one below them: `args.copy`."""
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--in-place",
        action="store_true",
        help="move the child's data only (the default); can be stopped and resumed, not undone",
    )
    way.add_argument("--copy", action="store_true", help="by copy: needs the room, can be undone")


def add_unrelated(parser: argparse.ArgumentParser) -> None:
    """--unrelated, for verbs that merge into existing disks. Absolute paths."""
    parser.add_argument(
        "--unrelated",
        metavar="PATH",
        action="append",
        default=[],
        type=os.path.abspath,
        help="I declare: this file, or everything in this folder, which cannot be read, builds "
        "on no disk that is merged (repeatable)",
    )


def file_path(text: str) -> str:
    """A file argument as an absolute path, spelled as its folder lists it.

    The user named it, so a link is followed.
    """
    path = os.path.abspath(text)
    path = os.path.realpath(path) if os.path.islink(path) else path
    with closing(Roots([Root(os.path.dirname(path))])) as beside:
        return beside.actual(path) if beside.exists(path) else path


def parent_path(text: str, roots: Roots) -> str:
    """A disk given as a host path or as a Windows path that --map covers."""
    if windows.parse_absolute(text) is None or os.path.exists(text):
        return file_path(text)
    found = roots.from_windows(text)
    if not found:
        raise ImageError(
            "E_UNMAPPED",
            f"No --map covers the Windows path {shown(text)}, so it is not known where it lies "
            "on this host.",
            value=text,
        )
    return next((path for path in found if roots.exists(path)), found[0])


def build_roots(
    args: argparse.Namespace, files: Sequence[str] = (), folders: Sequence[str] = ()
) -> Roots:
    """The roots that the options describe, for these files and folders (absolute paths).

    What the user names is trusted: the directories of files and the folders count as
    roots whatever --root says. Without --root those of --search and --map do, too.
    """
    views: dict[str, list[str]] = {}
    for view, folder in args.map:
        views.setdefault(folder, []).append(view)
    search = [os.path.abspath(folder) for folder in args.search]
    for folder in search:
        if not os.path.isdir(folder):
            args.usage_error(f"argument --search: {shown(folder)} is no directory")
    given = [os.path.abspath(folder) for folder in args.root]
    for folder in given:
        if not os.path.isdir(folder):
            args.usage_error(f"argument --root: {shown(folder)} is no directory")
    named = [os.path.dirname(path) for path in files] + list(folders)
    wanted = given if given else [*views, *search]
    mapped = [folder for folder in views if not given or _covered(folder, given)]
    paths = list(dict.fromkeys([*wanted, *mapped]))
    for folder in named:
        if not _reachable(folder, paths):
            paths.append(folder)
    return Roots(
        [Root(path, windows_views=_views_of(path, views)) for path in paths],
        search=search,
        identity_leads=True,
    )


def _mapping(text: str) -> tuple[str, str]:
    """`WINDOWS=DIR`, split where the right side is a directory (names may hold `=`)."""
    at = text.find("=")
    while at >= 0:
        view, folder = text[:at], os.path.abspath(text[at + 1 :])
        if text[at + 1 :] and os.path.isdir(folder):
            try:
                parsed_view(view)
            except ImageError as error:
                raise argparse.ArgumentTypeError(error.sentence) from error
            return view, folder
        at = text.find("=", at + 1)
    raise argparse.ArgumentTypeError(
        f"“{shown(text)}” must look like 'C:\\VMs=/srv/vms', with an existing directory"
    )


def _covered(folder: str, roots: Sequence[str]) -> bool:
    return any(folder == root or folder.startswith(root.rstrip("/") + "/") for root in roots)


def _reachable(folder: str, roots: Sequence[str]) -> bool:
    """True if folder lies below one of roots without a link or another mount in between."""
    for root in roots:
        if _covered(folder, [root]):
            try:
                same = os.stat(folder).st_dev == os.stat(root).st_dev
            except OSError:
                return True  # the operation itself will say what is wrong
            here = os.path.join(os.path.realpath(root), os.path.relpath(folder, root))
            if same and os.path.normpath(here) == os.path.realpath(folder):
                return True
    return False


def _views_of(path: str, views: dict[str, list[str]]) -> tuple[str, ...]:
    """A root's own views, or those of the mapped directory it lies in, continued."""
    best = max((folder for folder in views if _covered(path, [folder])), key=len, default=None)
    if best is None:
        return ()
    below = [part for part in path[len(best) :].split("/") if part]
    if not all(windows.is_windows_name(part) for part in below):
        return ()
    return tuple("\\".join([view.rstrip("\\"), *below]) for view in views[best])
