"""The command line contract: keys, exit codes, the error line and the error document."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from disks.commandline.dispatch import VERBS
from disks.tests.builders import Built, build_differencing, build_dynamic, build_fixed
from disks.tests.commandline.running import Disk
from disks.tests.operations import worlds
from disks.tests.operations.test_merge_in_place_leaf_used import stopped

PROJECT = Path(__file__).parents[3]
SIZE = 256 * 1024
BLOCK = 64 * 1024
INSPECT_KEYS = {
    "path",
    "format",
    "type",
    "virtual_size_bytes",
    "file_size_bytes",
    "allocated_bytes",
    "block_size_bytes",
    "blocks_total",
    "blocks_allocated",
    "logical_sector_bytes",
    "identity",
    "virtual_disk_id",
    "creator",
    "created",
    "parent",
    "findings",
}
ERROR_KEYS = {"code", "message", "advice", "file", "field", "offset", "value"}
CORPUS_HASHES = {
    "ntfs-differential.vhd": "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144",
    "ntfs-dynamic.vhd": "8b10b52e3d1e76075d05a5101a6536b9fa8376a5b8f7c22f502d0987d165c876",
    "ntfs-fixed.vhd": "cd81fade3878f1b2957f1ece168201876bdf4e90c9b30f60c2f232eba5fea76c",
}


@pytest.fixture
def base(tmp_path: Path) -> Built:
    return build_fixed(tmp_path, "base.vhd", size=SIZE, content=[(1, b"\x11" * 512)])


@pytest.fixture
def child(tmp_path: Path, base: Built) -> Built:
    return build_differencing(
        tmp_path, "child.vhd", base, block_size=BLOCK, content=[(2, b"\x22" * 512)]
    )


def moved(tmp_path: Path, built: Built, folder: str = "moved") -> Path:
    (tmp_path / folder).mkdir()
    return built.path.rename(tmp_path / folder / built.path.name)


def test_inspect_gives_every_key_of_the_contract(disk: Disk, base: Built, child: Built) -> None:
    outcome = disk.json("inspect", child.path)
    document = outcome.document
    assert (outcome.code, outcome.err) == (0, "")
    assert document.keys() >= INSPECT_KEYS
    assert document["path"] == str(child.path)
    assert (document["format"], document["type"]) == ("vhd", "differencing")
    assert document["virtual_size_bytes"] == SIZE
    assert document["file_size_bytes"] == child.path.stat().st_size
    assert document["allocated_bytes"] == child.path.stat().st_blocks * 512
    assert document["block_size_bytes"] == BLOCK
    assert (document["blocks_total"], document["blocks_allocated"]) == (4, 1)
    assert document["logical_sector_bytes"] == 512
    assert document["identity"] == child.identity
    assert document["virtual_disk_id"] is None
    assert document["creator"] == "win  10.0"
    assert document["created"] == "2020-10-11T11:37:55Z"
    parent = document["parent"]
    assert parent["identity"] == base.identity
    assert (parent["name"], parent["timestamp"]) == ("C:\\VMs\\base.vhd", None)
    assert parent["locators"] == [
        {"code": "W2ku", "path": "C:\\VMs\\base.vhd"},
        {"code": "W2ru", "path": ".\\base.vhd"},
    ]
    assert (parent["status"], parent["path"]) == ("found", str(base.path))
    first = parent["trace"][0]
    assert {key: first[key] for key in ("source", "raw", "candidate", "verdict")} == {
        "source": "W2ru",
        "raw": ".\\base.vhd",
        "candidate": str(base.path),
        "verdict": "match",
    }
    for finding in document["findings"]:
        assert finding.keys() >= {"level", "code", "message", "field", "offset"}


def test_inspect_of_a_fixed_disk_has_no_parent_and_no_blocks(disk: Disk, base: Built) -> None:
    document = disk.json("inspect", base.path).document
    assert document.keys() >= INSPECT_KEYS
    assert (document["type"], document["parent"]) == ("fixed", None)
    assert (document["block_size_bytes"], document["blocks_total"]) == (None, None)


def test_inspect_of_a_damaged_disk_has_nulls_and_findings(disk: Disk, child: Built) -> None:
    """bad-input A16, as the command line shows it: a document, not an error."""
    child.patch_header(checksum=1)
    outcome = disk.json("inspect", child.path)
    assert outcome.code == 0
    document = outcome.document
    assert document.keys() >= INSPECT_KEYS
    assert (document["type"], document["parent"], document["identity"]) == (None, None, None)
    assert "E_HEADER_CHECKSUM" in {finding["code"] for finding in document["findings"]}


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "E_TOO_SMALL"), (b"x" * 511, "E_TOO_SMALL"), (b"y" * 4096, "E_NO_FOOTER")],
)
def test_what_is_no_disk_is_an_error_line_and_document(
    disk: Disk, tmp_path: Path, content: bytes, code: str
) -> None:
    """bad-input A1, A2."""
    path = tmp_path / "text.vhd"
    path.write_bytes(content)
    outcome = disk.json("inspect", path)
    assert outcome.code == 1
    assert outcome.document["error"].keys() == ERROR_KEYS
    assert outcome.document["error"]["code"] == code
    lines = outcome.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {code}: ")


def test_a_missing_file_and_a_folder_are_refused(disk: Disk, tmp_path: Path) -> None:
    """bad-input D64."""
    for path, code in ((tmp_path / "none.vhd", "E_NOT_FOUND"), (tmp_path, "E_NOT_A_FILE")):
        outcome = disk("inspect", path)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.startswith(f"error: {code}: ")
    os.mkfifo(tmp_path / "pipe.vhd")
    assert disk("inspect", tmp_path / "pipe.vhd").err.startswith("error: E_NOT_A_FILE: ")


def test_chain_lists_every_link_and_says_whether_it_is_complete(
    disk: Disk, tmp_path: Path, base: Built, child: Built
) -> None:
    """bad-input D54: a missing parent is told, never read as zeros."""
    leaf = build_differencing(tmp_path, "leaf.vhd", child, block_size=BLOCK)
    document = disk.json("chain", leaf.path).document
    assert document["status"] == "complete"
    assert [link["path"] for link in document["links"]] == [
        str(leaf.path),
        str(child.path),
        str(base.path),
    ]
    moved(tmp_path, base)
    outcome = disk.json("chain", leaf.path)
    assert (outcome.code, outcome.document["status"]) == (0, "broken")
    assert [link["path"] for link in outcome.document["links"]] == [str(leaf.path), str(child.path)]
    assert outcome.document["links"][-1]["parent"]["status"] == "missing"
    refused = disk.json("hash", leaf.path)
    assert refused.code == 1
    assert refused.document["error"]["code"] == "E_PARENT_MISSING"


def test_a_ring_ends_with_status_cycle(disk: Disk, tmp_path: Path, base: Built) -> None:
    """bad-input D52."""
    one = build_differencing(tmp_path, "one.vhd", base, block_size=BLOCK)
    two = build_differencing(tmp_path, "two.vhd", one, block_size=BLOCK)
    build_differencing(tmp_path, "one.vhd", two, block_size=BLOCK, unique_id=one.unique_id)
    document = disk.json("chain", one.path).document
    assert document["status"] == "broken"
    assert [Path(link["path"]).name for link in document["links"]] == ["one.vhd", "two.vhd"]
    assert document["links"][-1]["parent"]["status"] == "cycle"
    assert disk.json("hash", one.path).document["error"]["code"] == "E_CYCLE"


def test_long_chains_are_followed_to_a_limit(disk: Disk, tmp_path: Path) -> None:
    """bad-input D53: 31 levels warn, 300 end at 256, no recursion."""
    built = build_fixed(tmp_path, "l0.vhd", size=8192)
    for level in range(1, 300):
        built = build_differencing(tmp_path, f"l{level}.vhd", built, block_size=4096)
        if level == 31:
            checked = disk.json("check", built.path, "--chain").document
            assert "W_CHAIN_DEPTH" in {row["code"] for row in checked["findings"]}
            assert disk("hash", built.path).code == 0
    document = disk.json("chain", built.path).document
    assert (document["status"], len(document["links"])) == ("broken", 256)
    assert disk.json("hash", built.path).document["error"]["code"] == "E_CHAIN_DEPTH"


def test_a_stored_parent_time_that_differs_is_a_note(
    disk: Disk, tmp_path: Path, base: Built
) -> None:
    """bad-input D58: it never blocks; Windows writes 0."""
    child = build_differencing(
        tmp_path, "child.vhd", base, block_size=BLOCK, parent_timestamp=12345
    )
    outcome = disk.json("check", child.path, "--chain")
    assert outcome.code == 0
    levels = {row["code"]: row["level"] for row in outcome.document["findings"]}
    assert levels["N_PARENT_TIMESTAMP"] == "note"
    assert disk("hash", child.path).code == 0


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils is missing")
def test_a_disk_that_qemu_has_open_is_not_written(
    disk: Disk, tmp_path: Path, base: Built, child: Built
) -> None:
    """bad-input E72."""
    target = moved(tmp_path, base)
    machine = subprocess.Popen(
        ["qemu-io", "-f", "vpc", str(child.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert machine.stdin is not None
        assert machine.stdout is not None
        machine.stdin.write("read 0 512\n")
        machine.stdin.flush()
        assert "read 512/512" in machine.stdout.readline()
        before = child.path.read_bytes()
        command = ("update-parent", child.path, "--parent", target, "--offline")
        assert disk.json(*command).document["error"]["code"] == "E_IN_USE"
        assert child.path.read_bytes() == before
    finally:
        machine.communicate("quit\n", timeout=20)
    assert disk(*command).code == 0


def test_check_exits_with_3_for_errors(disk: Disk, tmp_path: Path, child: Built) -> None:
    sound = disk.json("check", child.path, "--deep", "--chain")
    assert (sound.code, sound.document["errors"]) == (0, 0)
    assert sound.document.keys() >= {"file", "errors", "warnings", "findings"}
    overlapping = build_dynamic(
        tmp_path, "bad.vhd", size=SIZE, block_size=BLOCK, allocate=[0, 1], bat={1: 4}
    )
    outcome = disk.json("check", overlapping.path)
    assert outcome.code == 3
    assert outcome.document["errors"] == len(
        [finding for finding in outcome.document["findings"] if finding["level"] == "error"]
    )
    assert disk("check", overlapping.path).code == 3


def test_check_of_a_chain_finds_errors_in_ancestors_and_between_levels(
    disk: Disk, tmp_path: Path, base: Built, child: Built
) -> None:
    leaf = build_differencing(tmp_path, "leaf.vhd", child, block_size=BLOCK)
    assert disk.json("check", leaf.path).document["errors"] == 0
    child.patch(child.footer_offset, bytes(512))
    outcome = disk.json("check", leaf.path, "--chain")
    assert outcome.code == 3
    assert {row["file"] for row in outcome.document["findings"] if row["level"] == "error"} == {
        str(child.path)
    }


def test_hash_is_that_of_the_virtual_content(disk: Disk, child: Built) -> None:
    outcome = disk.json("hash", child.path)
    assert outcome.document == {"virtual_size_bytes": SIZE, "sha256": child.sha256}


def test_hash_is_refused_of_what_a_merge_has_written_to_not_of_what_reads_as_ever(
    disk: Disk, tmp_path: Path
) -> None:
    world = worlds.chain(tmp_path, grandchild=True)
    stopped(world.leaf.path, world.base.path, world.roots)
    assert world.grandchild is not None
    for reads in (world.leaf, world.grandchild):
        assert reads.sha256 in disk("hash", reads.path).out
    for half_way in (world.base, world.middle):
        assert "E_UNFINISHED" in disk("hash", half_way.path).err


@pytest.mark.parametrize(("name", "sha256"), CORPUS_HASHES.items())
def test_hash_agrees_with_the_disks_made_by_windows(
    disk: Disk, corpus: Path, name: str, sha256: str
) -> None:
    outcome = disk.json("hash", corpus / "windows-ntfs" / name)
    assert outcome.document == {"virtual_size_bytes": 4 * 1024 * 1024, "sha256": sha256}


def test_search_finds_the_parent_by_identity_and_says_that_windows_would_not(
    disk: Disk, tmp_path: Path, base: Built, child: Built
) -> None:
    """bad-input D56: one match is used, two are refused with the list."""
    target = moved(tmp_path, base, "elsewhere")
    target = target.rename(target.parent / "renamed.vhd")
    assert disk("hash", child.path).code == 1
    searched = ("--search", target.parent)
    assert disk.json("hash", child.path, *searched).document["sha256"] == child.sha256
    document = disk.json("inspect", child.path, *searched).document
    assert (document["parent"]["status"], document["parent"]["path"]) == ("found", str(target))
    assert document["parent"]["trace"][-1]["source"] == "identity"
    assert "W_PARENT_ELSEWHERE" in {finding["code"] for finding in document["findings"]}
    shutil.copy(target, target.parent / "copy.vhd")
    outcome = disk.json("hash", child.path, *searched)
    assert outcome.document["error"]["code"] == "E_PARENT_AMBIGUOUS"
    assert disk.json("inspect", child.path, *searched).document["parent"]["status"] == "ambiguous"


def test_map_leads_windows_paths_to_this_host(
    disk: Disk, tmp_path: Path, base: Built, child: Built
) -> None:
    target = moved(tmp_path, base, "vms")
    outcome = disk.json("inspect", child.path, "--map", f"C:\\VMs={target.parent}")
    assert outcome.document["parent"]["path"] == str(target)
    assert "W_PARENT_ELSEWHERE" not in {row["code"] for row in outcome.document["findings"]}


def test_inspect_says_which_option_would_let_it_look_further(
    disk: Disk, tmp_path: Path, base: Built
) -> None:
    (tmp_path / "children").mkdir()
    locators = {"W2ru": "..\\base.vhd", "W2ku": "C:\\VMs\\base.vhd"}
    far = build_differencing(tmp_path / "children", "far.vhd", base, locators=locators)
    said = disk("inspect", far.path).out
    assert "try          --root DIR" in said
    assert "try          --map" in said
    found = disk("inspect", far.path, "--root", tmp_path).out
    assert "Parent status  found" in found
    assert "try  " not in found


def test_root_limits_where_parents_are_opened(disk: Disk, tmp_path: Path, base: Built) -> None:
    """bad-input D61, D62: outside of the roots is not looked at."""
    folder = tmp_path / "deep"
    folder.mkdir()
    child = build_differencing(
        folder, "child.vhd", base, block_size=BLOCK, locators={"W2ru": "..\\base.vhd"}
    )
    document = disk.json("inspect", child.path).document
    assert document["parent"]["trace"][0]["verdict"] == "outside-roots"
    assert document["parent"]["status"] == "outside-roots"
    assert (
        disk.json("inspect", child.path, "--root", tmp_path).document["parent"]["status"] == "found"
    )


def test_candidates_are_ranked_with_reasons(
    disk: Disk, tmp_path: Path, base: Built, child: Built
) -> None:
    target = moved(tmp_path, base, "store")
    other = build_fixed(tmp_path / "store", "other.vhd", size=SIZE)
    build_fixed(tmp_path / "store", "small.vhd", size=SIZE // 2)
    build_differencing(tmp_path / "store", "grandchild.vhd", child, block_size=BLOCK)
    outcome = disk.json("candidates", child.path, "--search", tmp_path / "store")
    rows = outcome.document["candidates"]
    assert [(Path(row["path"]).name, row["verdict"]) for row in rows] == [
        (target.name, "match"),
        (other.path.name, "identity-mismatch"),
    ]
    assert rows[0]["identity"] == base.identity
    assert rows[0]["reasons"][0].startswith("the identity that the child names")
    assert all(row.keys() >= {"path", "identity", "verdict", "reasons"} for row in rows)


def test_the_text_of_a_link_plan_names_what_changes_and_no_nothing(
    disk: Disk, tmp_path: Path, base: Built, child: Built
) -> None:
    target = moved(tmp_path, base, "vms")
    command = ("update-parent", child.path, "--parent", target, "--dry-run")
    changes = disk.json(*command).document["changes"]
    rows = [line for line in disk(*command).out.splitlines() if " → " in line]
    assert len(rows) == len([one for one in changes if one["now"] != one["after"]]) > 0
    assert not any("None" in row for row in rows)
    assert any(one["after"] is None for one in changes)
    assert any(row.endswith(" → removed") for row in rows)


def test_update_and_undo_by_host_path_and_by_windows_path(
    disk: Disk, tmp_path: Path, base: Built, child: Built
) -> None:
    target = moved(tmp_path, base, "vms")
    root = ("--root", tmp_path)
    before = child.path.read_bytes()
    planned = disk.json("update-parent", child.path, "--parent", target, "--dry-run")
    assert planned.code == 0
    assert planned.document["changes"]
    assert child.path.read_bytes() == before
    done = disk.json("update-parent", child.path, "--parent", target, "--offline")
    assert (done.code, done.document["after"]["name"]) == (0, "base.vhd")
    assert disk.json("hash", child.path, *root).document["sha256"] == child.sha256
    back = disk.json("undo-update", child.path)
    assert (back.code, back.document["after"]) == (0, done.document["before"])
    mapped = ("--map", f"C:\\VMs={tmp_path}/vms")
    typed = disk("update-parent", child.path, "--parent", "C:\\VMs\\base.vhd", *mapped)
    assert typed.code == 0
    assert "Windows will look at: C:\\VMs\\base.vhd" in typed.out
    assert disk.json("hash", child.path, *root).document["sha256"] == child.sha256
    assert disk("undo-update", child.path).code == 0
    assert disk.json("undo-update", child.path).document["error"]["code"] == "E_NOTHING_TO_UNDO"
    unmapped = disk.json("update-parent", child.path, "--parent", "E:\\x\\base.vhd")
    assert unmapped.document["error"]["code"] == "E_UNMAPPED"


def test_an_identity_mismatch_needs_its_own_word(disk: Disk, tmp_path: Path, child: Built) -> None:
    """bad-input D55."""
    other = build_fixed(tmp_path, "other.vhd", size=SIZE)
    command = ("update-parent", child.path, "--parent", other.path)
    assert disk.json(*command).document["error"]["code"] == "E_PARENT_IDENTITY"
    forced = disk(*command, "--ignore-id-mismatch")
    assert forced.code == 0
    assert "another disk" in forced.err


def test_managed_disks_need_offline(disk: Disk, tmp_path: Path, base: Built) -> None:
    child = build_differencing(tmp_path, "vm.avhd", base, block_size=BLOCK)
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(base.path, store / "base.vhd")
    command = ("update-parent", child.path, "--parent", store / "base.vhd")
    planned = disk.json(*command, "--dry-run")
    assert (planned.code, planned.document["refused"]["code"]) == (1, "E_MANAGED")
    assert "--offline" in planned.document["refused"]["advice"]
    assert disk.json(*command).document["error"] == planned.document["refused"]
    assert disk(*command, "--offline").code == 0


def test_recover_says_what_it_did(disk: Disk, tmp_path: Path, base: Built, child: Built) -> None:
    target = moved(tmp_path, base)
    before = child.path.read_bytes()
    assert disk.json("recover", tmp_path).document == {"recovered": []}
    run = subprocess.run(
        [sys.executable, "manage.py", "disk", "update-parent", child.path, "--parent", target],
        cwd=PROJECT,
        env={**os.environ, "VD_FAULT": "relink.header.fsync:1:kill"},
        check=False,
        capture_output=True,
    )
    assert run.returncode == -signal.SIGKILL
    assert disk.json("undo-update", child.path).document["error"]["code"] == "E_UNFINISHED"
    assert "E_UNFINISHED" in {
        row["code"] for row in disk.json("inspect", child.path).document["findings"]
    }
    outcome = disk.json("recover", tmp_path)
    assert outcome.code == 0
    assert [(row["path"], row["action"]) for row in outcome.document["recovered"]] == [
        (str(child.path), "undone")
    ]
    assert child.path.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["inspect"],
        ["inspect", "a", "--colour"],
        ["update-parent", "a.vhd"],
        ["inspect", "a", "--map", "nonsense"],
        ["inspect", "a", "--map", "VMs=/tmp"],
        ["inspect", "a", "--search", "/no/such/folder"],
        ["inspect", "a", "--root", "/no/such/folder"],
        ["recover", "/no/such/folder"],
    ],
)
def test_wrong_usage_exits_with_2(disk: Disk, arguments: list[str]) -> None:
    outcome = disk(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "usage:" in outcome.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_has_the_common_options(disk: Disk, verb: str) -> None:
    outcome = disk(verb, "--help")
    assert outcome.code == 0
    for option in ("--json", "--search", "--map", "--root"):
        assert option in outcome.out
    if verb in ("update-parent", "undo-update", "merge", "compact"):
        assert "--offline" in outcome.out
        assert "--dry-run" in outcome.out


def test_the_unexpected_is_one_line_without_a_traceback(
    disk: Disk, child: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    from disks.commandline import looking

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(looking, "inspect", fail)
    outcome = disk.json("inspect", child.path)
    assert outcome.code == 1
    assert outcome.err.startswith("error: E_INTERNAL: ")
    assert len(outcome.err.splitlines()) == 1
    assert outcome.document["error"]["code"] == "E_INTERNAL"


def test_names_that_are_no_text_are_printed_escaped(
    disk: Disk, tmp_path: Path, base: Built
) -> None:
    """bad-input D65: bytes that are not UTF-8, control characters, RTL override."""
    for number, raw in enumerate((b"b\xff.vhd", b"two\nlines.vhd", "\u202edhv.vhd".encode())):
        odd = os.fsdecode(os.path.join(os.fsencode(tmp_path), raw))
        shutil.copy(base.path, odd)
        assert disk.json("inspect", odd).code == 0, number
        shown = disk("inspect", odd).out.splitlines()[0]
        assert shown.isprintable()


def manage(*arguments: str | Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """manage.py in a process of its own, without any environment of ours."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DJANGO", "VDADMIN", "DATABASE", "REDIS"))
    }
    command = [sys.executable, *(["-c", code] if code else ["manage.py"]), *map(str, arguments)]
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )


def test_manage_py_hands_disk_on_without_django(child: Built) -> None:
    run = manage("disk", "inspect", child.path, "--json")
    assert run.returncode == 0, run.stderr
    code = (
        "import sys; from disks.commandline import main; main(sys.argv[1:]);"
        "print([name for name in sys.modules"
        " if name.split('.')[0] in ('django', 'celery', 'redis', 'numpy')], file=sys.stderr)"
    )
    run = manage("inspect", child.path, "--json", code=code)
    assert run.stderr.strip() == "[]"


def test_a_reader_that_leaves_early_causes_no_noise(child: Built) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "disk", "chain", str(child.path), "--json"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(timeout=20)
