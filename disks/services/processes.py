"""Which process does a job, and whether that process is still there."""

from __future__ import annotations

import os
import socket
from typing import Any


def this_process() -> dict[str, Any]:
    """This process, told apart from every later one that gets the same number.

    A number means something only within one boot and one process namespace (containers may
    share a host's name), so both are kept. Empty where the system does not tell (no /proc).
    """
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "namespace": _namespace(),
        "pid": pid,
        "started": _start_time(pid),
    }


def is_dead(process: dict[str, Any]) -> bool:
    """True only when that process is certainly gone; of other hosts nothing is certain."""
    here = this_process()
    if not process.get("boot") or not process.get("namespace") or not process.get("started"):
        return False
    if (process["boot"], process["namespace"]) != (here["boot"], here["namespace"]):
        return False
    return _start_time(int(process["pid"])) != process["started"]


def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id").strip()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_time(pid: int) -> int:
    """Clock ticks from boot to the process's start; 0 when it is gone or a zombie."""
    text = _read(f"/proc/{pid}/stat")
    # the second field is the program's name in brackets, and may hold anything
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return 0
    return int(fields[19])


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
