"""Which verb, with which arguments, and what comes of it: exit codes and error lines.

A verb lives in the module that VERBS names. Only that one is imported, so that the
quick verbs stay quick. Such a module has

    add_parser(subparsers, common)   adds its verbs, each with parents=[common]
    run(args, console) -> int        does one; 0 done, 3 for errors found by `check`

With several verbs in one module, each parser says `set_defaults(run=function)`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from disks.commandline.console import Console
from disks.commandline.options import common_options
from disks.engine.errors import ImageError
from disks.operations.progress import Cancelled, Stopped

DONE = 0
REFUSED = 1
USAGE = 2
ERRORS_FOUND = 3

# verb: (module, what it does). The order is that of the help text.
VERBS: dict[str, tuple[str, str]] = {
    "inspect": ("looking", "what the file is, and where its parent is"),
    "chain": ("looking", "every link from leaf to base"),
    "check": ("checking", "structural check of one file or a whole chain"),
    "hash": ("checking", "SHA-256 of the virtual content, read through the whole chain"),
    "candidates": ("linking", "possible parents in the search directories, ranked"),
    "update-parent": ("linking", "rewrite the parent link"),
    "undo-update": ("linking", "take the last update-parent back"),
    "repair": ("mending", "a footer, header or region table from its surviving copy"),
    "replay-log": ("mending", "write the log of a VHDX into the file"),
    "merge": ("merge", "merge one or more levels, into the parent or to a new disk"),
    "pile": ("piling", "merge the checkpoints of a folder in the right order"),
    "compact": ("compact", "give space back"),
    "convert": ("convert", "copy into another type or format; a chain is flattened"),
    "expand": ("expand", "enlarge a disk in place"),
    "create": ("create", "a new fixed, dynamic or differencing disk"),
    "copy": ("relocating", "copy a disk or its chain elsewhere, with links that are right there"),
    "move": ("relocating", "move or rename a disk, with the links of its children"),
    "delete": ("relocating", "put a disk into the trash, with its dependants named"),
    "recover": ("recovering", "finish or undo what an interrupted job left behind"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (0 done, 1 refused, 2 usage, 3 errors found)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(arguments)
    except SystemExit as left:  # argparse: 0 after --help, 2 after wrong usage
        return left.code if isinstance(left.code, int) else USAGE
    console = Console(
        as_json=args.json,
        bytes_per_second=getattr(args, "limit", 0),
        stop_by=getattr(args, "stop_by", None),
    )
    try:
        with console.interruptible():
            return int(args.run(args, console) or DONE)
    except SystemExit as left:  # a verb found the usage wrong
        return left.code if isinstance(left.code, int) else USAGE
    except ImageError as error:
        console.error(error)
    except Cancelled:
        console.error(ImageError("E_CANCELLED", "Stopped as asked; every file is as it was."))
    except Stopped as stopped:
        console.error(ImageError("E_STOPPED", stopped.reason, advice=stopped.how))
    except KeyboardInterrupt:
        console.error(ImageError("E_CANCELLED", "Stopped by the keyboard."))
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing can be said to him any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("VD_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        console.error(_internal(error))
    return REFUSED


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="manage.py disk",
        description="Work on virtual disks as files: no configuration, no database, no server.",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 check found errors.",
    )
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    if chosen in VERBS:
        module = importlib.import_module(f"disks.commandline.{VERBS[chosen][0]}")
        module.add_parser(subparsers, common_options())
        if hasattr(module, "run"):
            parser.set_defaults(run=module.run)
    else:
        for verb, (_, sentence) in VERBS.items():
            subparsers.add_parser(verb, help=sentence)
    args = parser.parse_args(arguments)
    args.usage_error = subparsers.choices[args.verb].error
    return args


def _internal(error: Exception) -> ImageError:
    """What nobody expected, as a sentence; the traceback only for who asks for it."""
    if isinstance(error, OSError):
        what = f"{error.strerror or error}"
    else:
        what = f"{type(error).__name__}: {error}"
    return ImageError(
        "E_INTERNAL",
        f"Something went wrong that should not ({what}).",
        advice="Run it again with VD_DEBUG=1 to see where, and please report that.",
    )
