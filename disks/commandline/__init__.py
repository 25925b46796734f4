"""`manage.py disk VERB …`: arguments to operations, JSON or text out; no Django."""

from disks.commandline.dispatch import main

__all__ = ["main"]
