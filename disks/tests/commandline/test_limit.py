"""`--limit`: every verb that moves data takes it, and it really limits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from disks.commandline import dispatch
from disks.tests.builders import MIB, build_dynamic
from disks.tests.commandline.running import Disk
from disks.tests.operations.worlds import content_of, noise


@pytest.fixture
def source(tmp_path: Path) -> Path:
    content = [(block * 4096, noise(block, 4096)) for block in range(4)]
    return build_dynamic(tmp_path, "source.vhd", size=8 * MIB, content=content).path


def test_a_limited_conversion_takes_its_time_for_copy_and_proof(
    disk: Disk, source: Path, tmp_path: Path
) -> None:
    """8 MiB are read to be copied and once more for the proof: 16 MiB at 20 MiB a second."""
    began = time.monotonic()
    done = disk("convert", source, tmp_path / "new.vhd", "--limit", "20M")
    seconds = time.monotonic() - began
    assert done.code == 0, done.err
    assert 16 / 20 - 0.3 <= seconds < 5
    assert content_of(tmp_path / "new.vhd") == content_of(source)


@pytest.mark.parametrize("verb", ["merge", "pile", "compact", "convert", "expand", "copy", "move"])
def test_every_verb_that_moves_data_takes_a_limit(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch.main([verb, "--help"]) == 0
    assert "--limit BYTES[K|M|G]" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["fast", "-1", "100K", "1"])
def test_a_limit_that_is_none_is_wrong_usage(disk: Disk, source: Path, wrong: str) -> None:
    done = disk("compact", source, f"--limit={wrong}")
    assert (done.code, "--limit" in done.err) == (2, True)
