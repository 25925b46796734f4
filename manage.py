#!/usr/bin/env python3
"""Entry point: `disk …` works on files alone, everything else is Django's."""

import os
import sys


def main() -> None:
    if sys.argv[1:2] == ["disk"]:
        # Before Django is imported: no settings, no database, and a quick answer.
        from disks.commandline import main as disk_main

        sys.exit(disk_main(sys.argv[2:]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vdadmin.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
