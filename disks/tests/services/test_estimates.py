"""How long a plan says it will take: with the proof, and within the limit of the storage."""

from __future__ import annotations

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


def test_the_slowest_root_decides_and_says_so() -> None:
    make_root("/srv/slow", limit_bytes_per_second=5 * MIB)
    make_root("/srv/fast", limit_bytes_per_second=500 * MIB)
    assert guessed(100, "/srv/fast/a.vhd", "/srv/slow/b.vhd") == estimates.Guess(40.0, 5 * MIB)
    done(10, 100)
    assert guessed(100, "/srv/slow/b.vhd") == estimates.Guess(40.0, 5 * MIB)
    assert guessed(100, "/srv/fast/a.vhd") == estimates.Guess(10.0)
