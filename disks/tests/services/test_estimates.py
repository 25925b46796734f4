"""How long a plan says it will take: with the proof, and within the limit of the storage."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

import pytest

from disks.models import Job
from disks.services import estimates
from disks.services.timing import MIB
from disks.tests.factories import make_job, make_root

pytestmark = pytest.mark.django_db

KINDS = (Job.Kind.MERGE, Job.Kind.CONVERT)


def done(seconds: float, mib: int, **result: Any) -> None:
    fields = {"token": result.pop("token", 1)}
    told = {"seconds": seconds, "bytes_written": mib * MIB} | result
    make_job(Job.Kind.MERGE, status=Job.Status.SUCCEEDED, result=told, **fields)


def guessed(mib: int, *paths: str, **more: Any) -> estimates.Guess:
    return estimates.guess(mib * MIB, KINDS, paths=paths, **more)


def test_without_a_job_or_a_limit_nothing_is_guessed() -> None:
    assert guessed(100) == estimates.Guess(None)


def test_the_last_jobs_are_the_measure_copy_and_proof_together() -> None:
    done(30, 100, copy_seconds=20, proof_seconds=10)
    done(10, 100, copy_seconds=8, proof_seconds=2)
    assert guessed(100).seconds == pytest.approx(20)
    assert estimates.proof_share(KINDS) == pytest.approx(12 / 28)


def test_what_a_job_waited_for_and_what_was_done_in_parts_is_no_measure() -> None:
    done(10, 100, copy_seconds=8, proof_seconds=2)
    done(100, 100, waited_seconds=90, copy_seconds=80, proof_seconds=20)  # limited, or held
    done(1, 100, token=2)  # gone on with: only its last part took a second
    done(1, 100, in_place=True)
    assert guessed(100).seconds == pytest.approx(10)
    assert guessed(100, in_place=True).seconds == pytest.approx(1)
    assert estimates.proof_share(KINDS) == pytest.approx(0.25)


def test_what_is_read_and_left_out_takes_its_time_as_well() -> None:
    make_root("/srv/slow", limit_bytes_per_second=5 * MIB)
    left_out = {"left_out_bytes": 300 * MIB}
    assert guessed(100, "/srv/slow/b.vhd", **left_out).seconds == pytest.approx(100)
    done(10, 100)
    assert guessed(100, **left_out).seconds == pytest.approx(25)


def test_the_slowest_root_decides_and_says_so() -> None:
    make_root("/srv/slow", limit_bytes_per_second=5 * MIB)
    make_root("/srv/fast", limit_bytes_per_second=500 * MIB)
    assert guessed(100, "/srv/fast/a.vhd", "/srv/slow/b.vhd") == estimates.Guess(40.0, 5 * MIB)
    done(10, 100)
    assert guessed(100, "/srv/slow/b.vhd") == estimates.Guess(40.0, 5 * MIB)
    assert guessed(100, "/srv/fast/a.vhd") == estimates.Guess(10.0)


def test_a_plan_says_that_it_does_not_fit_into_the_hours_that_are_left(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    make_root("/srv/vms", name="vms", hours_begin=time(22), hours_end=time(6))
    at = "/srv/vms/a.vhd"
    settings.JOBS_HELD_AT_MOST = 1
    done(100, 100)  # a second for each MB
    done(100, 100, in_place=True)
    says(monkeypatch, "2026-05-05 05:50")  # ten minutes are left
    assert guessed(600, at).hours == ""
    left = "It takes longer than the hours of vms last, which end at 06:00 on 5 May (UTC). It "
    goes_on = "then, its disks locked, and goes on in the next ones."
    assert guessed(601, at).hours == f"{left}waits with its worker {goes_on}"
    assert guessed(601, at, in_place=True).hours == f"{left}pauses {goes_on}"
    assert guessed(601, "/srv/elsewhere.vhd").hours == ""
    says(monkeypatch, "2026-05-05 12:00")  # it begins at 22:00, and has eight hours
    assert guessed(8 * 3600, at).hours == ""
    assert "which end at 06:00 on 6 May" in guessed(8 * 3600 + 1, at).hours
    settings.JOBS_HELD_AT_MOST = 0
    assert guessed(8 * 3600 + 1, at).hours.endswith("no worker may wait with it.")


def says(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    now = datetime.fromisoformat(text).replace(tzinfo=UTC)
    monkeypatch.setattr("django.utils.timezone.now", lambda: now)
