"""How long work will take: by this machine's last jobs, with the proof, within the limit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from disks.models import Job, StorageRoot
from disks.services import declarations, speed, timing
from disks.services.timing import Choice

JOBS_ASKED = 5


@dataclass(frozen=True)
class Measure:
    """What a guess rests on: it can be made anew when something else is chosen for the job.

    seconds      at full speed, the proof included; None: no job to guess from
    moved_bytes  what a limit counts: all that is read and written
    roots        keys of the storage roots whose limit and hours count
    """

    seconds: float | None
    moved_bytes: float
    roots: Sequence[int]
    in_place: bool = False


@dataclass(frozen=True)
class Guess:
    """seconds: the proof included; None: no job to guess from, and no limit.

    limit_bytes_per_second: where it is the limit that decides; else 0.
    hours: what it means where its storage roots have hours, and it does not end within them.
    """

    seconds: float | None
    limit_bytes_per_second: int = 0
    hours: str = ""
    measure: Measure | None = field(default=None, compare=False)


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
    """The guess at full speed, or longer where the limit of a root says so."""
    roots = declarations.roots_of(paths)
    measure = Measure(seconds, moved_bytes, [root.pk for root in roots], in_place)
    return _guess(measure, roots, Choice())


def chosen(measure: Measure, choice: Choice) -> Guess:
    """The guess once more, for what was chosen for the job."""
    return _guess(measure, list(StorageRoot.objects.filter(pk__in=measure.roots)), choice)


def _guess(measure: Measure, roots: Sequence[StorageRoot], choice: Choice) -> Guess:
    """As if no other job ran on these roots: those that do share the limit."""
    seconds, limit = measure.seconds, choice.limit_bytes_per_second
    if limit is None:
        limit = speed.of_roots(roots)
    if limit and (seconds is None or seconds <= measure.moved_bytes / limit):
        seconds = measure.moved_bytes / limit
    else:
        limit = 0
    if seconds is None:
        return Guess(None, measure=measure)
    hours = timing.does_not_fit(seconds, roots, choice, goes_on=measure.in_place)
    return Guess(seconds, limit, hours, measure)


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
