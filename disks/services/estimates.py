"""How long work will take: by this machine's last jobs, with the proof, within the limit."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from disks.models import Job
from disks.services import speed, timing

JOBS_ASKED = 5


@dataclass(frozen=True)
class Guess:
    """seconds: the proof included; None: no job to guess from, and no limit.

    limit_bytes_per_second: where it is the limit that decides; else 0.
    hours: what it means where its storage roots have hours, and it does not end within them.
    """

    seconds: float | None
    limit_bytes_per_second: int = 0
    hours: str = ""


def guess(
    count_bytes: int,
    kinds: Collection[str],
    *,
    paths: Iterable[str],
    in_place: bool = False,
    left_out_bytes: int = 0,
) -> Guess:
    """How long that many bytes take to be copied and proven.

    kinds     the jobs that are a measure; work in place is none for a copy, nor a copy for it
    paths     host paths that the work reads or writes: their roots' limit counts
    left_out_bytes  read as well, but not written
    """
    copied = spent = 0.0
    for result in _last_results(kinds, in_place=in_place):
        copied += float(result.get("bytes_written") or 0)
        spent += _at_full_speed(result)
    moved_bytes = 2.0 * count_bytes + left_out_bytes  # read to be copied, and once more
    fast = moved_bytes / 2 * spent / copied if copied > 0 and spent > 0 else None
    return within_limit(fast, moved_bytes, paths=paths, in_place=in_place)


def within_limit(
    seconds: float | None, moved_bytes: float, *, paths: Iterable[str], in_place: bool = False
) -> Guess:
    """The guess at full speed, or longer where the limit of a root says so.

    As if no other job ran there: those that do share the limit.
    """
    paths = list(paths)
    limit = speed.of_paths(paths)
    guess = Guess(seconds)
    if limit and (seconds is None or seconds <= moved_bytes / limit):
        guess = Guess(moved_bytes / limit, limit)
    if guess.seconds is None:
        return guess
    return replace(guess, hours=timing.does_not_fit(guess.seconds, paths, goes_on=in_place))


def proof_share(kinds: Collection[str]) -> float:
    """How long a proof took for each second of copying, in the last jobs; 1 where none tells."""
    copied = proven = 0.0
    for result in _last_results(kinds, in_place=False):
        if _number(result, "copy_seconds") > 0 and not result.get("waited_seconds"):
            copied += _number(result, "copy_seconds")
            proven += _number(result, "proof_seconds")
    return proven / copied if copied > 0 else 1.0


def _last_results(kinds: Collection[str], *, in_place: bool) -> list[dict[str, Any]]:
    """Of jobs that were done in one go: of others the seconds are those of the last part."""
    rows = Job.objects.filter(status=Job.Status.SUCCEEDED, kind__in=kinds, token__lte=1)
    return [
        result
        for result in rows.order_by("-pk").values_list("result", flat=True)[:JOBS_ASKED]
        if isinstance(result, dict)
        and bool(result.get("in_place")) is in_place
        and _at_full_speed(result) > 0
    ]


def _at_full_speed(result: dict[str, Any]) -> float:
    """Without what it waited for a limit, or while it was held."""
    return _number(result, "seconds") - _number(result, "waited_seconds")


def _number(result: dict[str, Any], key: str) -> float:
    value = result.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
