"""The table of work names things that exist."""

from __future__ import annotations

from disks.models import Job
from disks.services.work import WORK, function


def test_every_kind_has_its_work_and_every_name_of_the_table_is_there():
    assert set(WORK) >= set(Job.Kind)
    for kind, work in WORK.items():
        for name in (work.run, work.recover, work.finished):
            assert not name or callable(function(name)), kind
