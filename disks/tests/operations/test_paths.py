"""Nothing outside the storage roots is opened or stat'ed, and odd names are lived with."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.operations import beneath
from disks.operations.paths import Roots
from disks.operations.storage_roots import EXCLUDED_FOLDERS, Root, is_internal_name

OUTSIDE = "outside-secret"


@pytest.fixture(params=["openat2", "stepwise"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of opening below a root: the kernel's, and component by component."""
    monkeypatch.setitem(beneath._state, "openat2", request.param == "openat2")
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """root/ with disks in it, and a file outside of it."""
    root = tmp_path / "root"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "a.vhd").write_bytes(b"a")
    (root / "deep" / "er" / "b.vhd").write_bytes(b"b")
    (tmp_path / OUTSIDE).write_bytes(b"secret")
    return root


def code_of(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(ImageError) as refused:
        call(*arguments, **options)  # type: ignore[operator]
    return refused.value.code


def test_files_open_below_the_root_by_both_ways(way: str, folder: Path) -> None:
    roots = Roots([Root(str(folder))])
    with roots.open(f"{folder}/deep/er/b.vhd") as file:
        assert file.read_at(0, 1) == b"b"
    with roots.open(f"{folder}/new.vhd", create=True) as file:
        file.write_at(0, b"new")
    assert (folder / "new.vhd").read_bytes() == b"new"
    assert code_of(roots.open, f"{folder}/new.vhd", create=True) == "E_EXISTS"
    assert code_of(roots.open, f"{folder}/none.vhd") == "E_NOT_FOUND"
    assert code_of(roots.open, f"{folder}/deep") == "E_NOT_A_FILE"
    assert code_of(roots.open, str(folder)) == "E_NOT_A_FILE"
    assert code_of(roots.open, f"{folder}/a.vhd/x") == "E_NOT_FOUND"


def test_links_are_not_followed_wherever_they_stand(way: str, folder: Path) -> None:
    """bad-input D63: symlinked file, folder, loop; the folder of the root itself may be one."""
    (folder / "out.vhd").symlink_to(folder.parent / OUTSIDE)
    (folder / "inside.vhd").symlink_to(folder / "a.vhd")
    (folder / "way-out").symlink_to(folder.parent)
    (folder / "loop").symlink_to(folder / "loop")
    roots = Roots([Root(str(folder))])
    for name in ("out.vhd", "inside.vhd", f"way-out/{OUTSIDE}", "loop", "loop/x.vhd"):
        assert code_of(roots.open, f"{folder}/{name}") == "E_OUTSIDE_ROOTS"
    assert sorted(roots.walk(str(folder))) == [f"{folder}/a.vhd", f"{folder}/deep/er/b.vhd"]
    alias = folder.parent / "alias"
    alias.symlink_to(folder)
    with Roots([Root(str(alias))]).open(f"{alias}/a.vhd") as file:
        assert file.read_at(0, 1) == b"a"


def test_another_file_system_below_a_root_is_not_entered(way: str) -> None:
    """bad-input D63: a mount below a root is a root of its own (/proc below / here)."""
    roots = Roots([Root("/")])
    assert code_of(roots.open, "/proc/self/mountinfo") == "E_OUTSIDE_ROOTS"
    own = Roots([Root("/"), Root("/proc")])
    assert own.locate("/proc/version") == (own.roots[0], "version")
    with own.open("/proc/version") as file:
        assert os.read(file.fd, 5) == b"Linux"


def test_pipes_sockets_devices_and_folders_are_refused_without_hanging(
    way: str, folder: Path
) -> None:
    """bad-input D64: FIFO, socket, device node, directory named x.vhd."""
    os.mkfifo(folder / "pipe.vhd")
    (folder / "folder.vhd").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    try:
        os.chdir(folder)  # the address of a socket must be short
        listener.bind("socket.vhd")
    finally:
        os.chdir(here)
    roots = Roots([Root(str(folder)), Root("/dev")])
    names = [f"{folder}/pipe.vhd", f"{folder}/folder.vhd", f"{folder}/socket.vhd", "/dev/null"]
    for name in names:
        assert code_of(roots.open, name) == "E_NOT_A_FILE"
        assert code_of(roots.open, name, writable=True) == "E_NOT_A_FILE"
    listener.close()
    assert sorted(roots.walk(str(folder))) == [f"{folder}/a.vhd", f"{folder}/deep/er/b.vhd"]


def test_hard_links_are_read_but_not_written_in_place(folder: Path) -> None:
    """bad-input D63: only nlink > 1 shows a hard link."""
    os.link(folder / "a.vhd", folder / "second.vhd")
    roots = Roots([Root(str(folder))])
    roots.open(f"{folder}/a.vhd").close()
    assert code_of(roots.open, f"{folder}/a.vhd", writable=True) == "E_HARD_LINKS"


def test_read_only_roots_open_nothing_for_writing(folder: Path) -> None:
    roots = Roots([Root(str(folder), name="archive", read_only=True)])
    roots.open(f"{folder}/a.vhd").close()
    assert code_of(roots.open, f"{folder}/a.vhd", writable=True) == "E_READ_ONLY"
    assert code_of(roots.open, f"{folder}/new.vhd", create=True) == "E_READ_ONLY"
    assert not (folder / "new.vhd").exists()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("..\\..\\..\\etc\\shadow", "E_OUTSIDE_ROOTS"),
        ("..\\..\\" + OUTSIDE, "E_OUTSIDE_ROOTS"),
        ("a/../../x.vhd", "E_OUTSIDE_ROOTS"),
        ("a\\../..\\x.vhd", "E_OUTSIDE_ROOTS"),
        ("x.vhd ", "E_NAME"),
        ("x.vhd.", "E_NAME"),
        ("dot.\\x.vhd", "E_NAME"),
        ("CON", "E_NAME"),
        ("con.vhd", "E_NAME"),
        ("LPT1", "E_NAME"),
        (".\\x.vhd:stream", "E_NAME"),
        ("x.vhd:stream", "E_OUTSIDE_ROOTS"),
        ("", "E_NAME"),
        ("..", "E_NAME"),
        ("x\0.vhd", "E_NAME"),
        ("http://host/x.vhd", "E_OUTSIDE_ROOTS"),
        ('json:{"driver":"nbd"}', "E_OUTSIDE_ROOTS"),
        ("nbd:host:10809", "E_OUTSIDE_ROOTS"),
        ("/etc/shadow", "E_OUTSIDE_ROOTS"),
        ("\\\\host\\share\\x.vhd", "E_OUTSIDE_ROOTS"),
    ],
)
def test_relative_paths_that_lead_out_or_mean_no_file_are_refused(
    folder: Path, text: str, code: str
) -> None:
    """bad-input D61, D62."""
    roots = Roots([Root(str(folder), windows_views=("C:\\VMs",))])
    assert code_of(roots.beside, f"{folder}/a.vhd", text) == code


def test_relative_paths_in_both_styles_lead_to_the_same_file(folder: Path) -> None:
    roots = Roots([Root(str(folder))])
    target = f"{folder}/deep/er/b.vhd"
    for text in (
        ".\\deep\\er\\b.vhd",
        "deep/er/b.vhd",
        "deep\\.\\er/b.vhd",
        "x\\..\\deep\\er\\b.vhd",
    ):
        assert roots.beside(f"{folder}/a.vhd", text) == target
    assert roots.beside(target, "..\\..\\a.vhd") == f"{folder}/a.vhd"
    assert roots.beside(f"{folder}/a.vhd", "C:b.vhd") == f"{folder}/b.vhd"


def test_windows_paths_are_mapped_by_the_roots_views_only(folder: Path) -> None:
    """bad-input D61: UNC paths and long-path prefixes are text until a view covers them."""
    roots = Roots([Root(str(folder), windows_views=("C:\\VMs", "\\\\nas\\vms\\sub"))])
    target = f"{folder}/deep/er/b.vhd"
    for text in (
        "C:\\VMs\\deep\\er\\b.vhd",
        "c:/vms/deep/er/b.vhd",
        "\\\\?\\C:\\VMs\\deep\\er\\b.vhd",
        "\\\\NAS\\vms\\sub\\deep\\er\\b.vhd",
        "\\\\?\\UNC\\nas\\vms\\sub\\deep\\er\\b.vhd",
        "//nas/vms/sub/deep/er/b.vhd",
        "C:\\VMs\\x\\..\\DEEP\\er\\B.VHD",
        target,
    ):
        assert roots.from_windows(text) == [target], text
    for text in (
        "D:\\VMs\\a.vhd",
        "C:\\VMsX\\a.vhd",
        "C:\\Windows\\system.vhd",
        "\\\\nas\\vms\\a.vhd",
        "\\\\other\\vms\\sub\\a.vhd",
        "\\\\.\\PhysicalDrive0",
        "/etc/shadow",
        "C:a.vhd",
        "http://nas/vms",
        "C:\\VMs",
    ):
        assert roots.from_windows(text) == [], text
    assert code_of(roots.from_windows, "C:\\..\\..\\a.vhd") == "E_OUTSIDE_ROOTS"
    assert code_of(roots.from_windows, "C:\\VMs\\CON") == "E_NAME"


def test_case_and_composed_letters_do_not_matter_but_exact_names_win(tmp_path: Path) -> None:
    """bad-input D65: case-only differences, NFC and NFD twins."""
    composed, decomposed = "B\u00e4se.vhd", "Ba\u0308se.vhd"
    (tmp_path / "Sub").mkdir()
    (tmp_path / "Sub" / decomposed).touch()
    (tmp_path / "X.VHD").touch()
    (tmp_path / "x.vhd").touch()
    roots = Roots([Root(str(tmp_path), windows_views=("C:\\VMs",))])
    assert roots.actual(f"{tmp_path}/sub/{composed.upper()}") == f"{tmp_path}/Sub/{decomposed}"
    assert roots.beside(f"{tmp_path}/c.vhd", "x.vhd") == f"{tmp_path}/x.vhd"
    assert roots.from_windows("C:\\VMs\\x.Vhd") == [f"{tmp_path}/X.VHD", f"{tmp_path}/x.vhd"]


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    """bad-input D65: bytes that are not UTF-8, 255-byte names, newline, RTL override."""
    raw = b"caf\xe9-" + b"\xff" * 3 + b".vhd"
    names = [raw, b"n" * 251 + b".vhd", b"two\nlines.vhd", "\u202edhv.vhd".encode()]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    roots = Roots([Root(str(tmp_path), windows_views=("C:\\VMs",))])
    found = list(roots.walk(str(tmp_path)))
    assert sorted(os.fsencode(os.path.basename(path)) for path in found) == sorted(names)
    for path in found:
        with roots.open(path) as file:
            assert file.read_at(0, 1) == b"x"
    odd = next(path for path in found if b"caf" in os.fsencode(path))
    assert roots.windows_path(odd) is None
    assert roots.relative_windows_path(f"{tmp_path}/child.vhd", odd) is None


def test_too_long_names_are_a_sentence(folder: Path) -> None:
    roots = Roots([Root(str(folder))])
    assert code_of(roots.open, f"{folder}/{'n' * 300}.vhd") == "E_NAME"
    assert code_of(roots.open, f"{folder}/\0.vhd") == "E_NAME"
    assert code_of(roots.open, "relative.vhd") == "E_NAME"


def test_folders_of_copies_and_own_files_are_left_out(folder: Path) -> None:
    """bad-input D56: snapshot, recycle and trash folders are never scanned nor led to."""
    for name in EXCLUDED_FOLDERS:
        (folder / name).mkdir()
        (folder / name / "copy.vhd").write_bytes(b"c")
    (folder / "MINE").mkdir()
    (folder / "MINE" / "copy.vhd").touch()
    for name in (".a.vhd.vdundo", ".a.vhd.17-1.vdtmp", ".vdroot"):
        (folder / name).touch()
        assert is_internal_name(name)
    assert not is_internal_name("a.vdundo.vhd")
    roots = Roots([Root(str(folder), windows_views=("C:\\VMs",), excluded=("mine",))])
    assert sorted(roots.walk(str(folder))) == [f"{folder}/a.vhd", f"{folder}/deep/er/b.vhd"]
    assert roots.from_windows("C:\\VMs\\.snapshot\\copy.vhd") == []
    assert code_of(roots.beside, f"{folder}/a.vhd", "#RECYCLE\\copy.vhd") == "E_OUTSIDE_ROOTS"


def test_a_root_whose_volume_was_swapped_is_noticed(folder: Path) -> None:
    """bad-input E75: a marker tells whether the right volume is mounted."""
    (folder / ".vdroot").write_text("0f1e\n")
    Roots([Root(str(folder), marker="0f1e")]).open(f"{folder}/a.vhd").close()
    for marker in ("other", "0f1"):
        roots = Roots([Root(str(folder), marker=marker)])
        assert code_of(roots.open, f"{folder}/a.vhd") == "E_ROOT_CHANGED"
    (folder / ".vdroot").unlink()
    assert (
        code_of(Roots([Root(str(folder), marker="0f1e")]).open, f"{folder}/a.vhd")
        == "E_ROOT_CHANGED"
    )


def test_a_link_that_is_swapped_in_after_the_check_is_not_followed(folder: Path) -> None:
    """bad-input E76: the job opens anew below the root; the form's check is not believed."""
    roots = Roots([Root(str(folder))])
    assert roots.exists(f"{folder}/deep/er/b.vhd")
    shutil.rmtree(folder / "deep")
    (folder / "deep").symlink_to(folder.parent)
    assert code_of(roots.open, f"{folder}/deep/{OUTSIDE}") == "E_OUTSIDE_ROOTS"


def test_windows_names_of_files_come_from_the_preferred_view(folder: Path) -> None:
    views = ("C:\\VMs", "\\\\nas\\vms")
    roots = Roots([Root(str(folder), windows_views=views)])
    assert roots.windows_path(f"{folder}/deep/er/b.vhd") == "C:\\VMs\\deep\\er\\b.vhd"
    relative = roots.relative_windows_path(f"{folder}/a.vhd", f"{folder}/deep/er/b.vhd")
    assert relative == ".\\deep\\er\\b.vhd"
    assert roots.relative_windows_path(f"{folder}/deep/er/b.vhd", f"{folder}/a.vhd") == (
        "..\\..\\a.vhd"
    )
    assert roots.windows_will_look_at(f"{folder}/a.vhd", relative) == [
        "C:\\VMs\\deep\\er\\b.vhd",
        "\\\\nas\\vms\\deep\\er\\b.vhd",
    ]
    assert Roots([Root(str(folder))]).windows_path(f"{folder}/a.vhd") is None


def test_relative_paths_between_roots_follow_windows_where_it_knows_both(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.vhd").touch()
    roots = Roots(
        [
            Root(f"{tmp_path}/one", windows_views=("\\\\nas\\a", "C:\\VMs\\deep")),
            Root(f"{tmp_path}/two", windows_views=("C:\\Bases",)),
            Root(f"{tmp_path}/three", windows_views=("D:\\",)),
        ]
    )
    child, same_drive, other_drive = (
        f"{tmp_path}/{name}/x.vhd" for name in ("one", "two", "three")
    )
    assert roots.relative_windows_path(child, same_drive) == "..\\..\\Bases\\x.vhd"
    assert roots.relative_windows_path(child, other_drive) is None
    assert roots.beside(child, "..\\..\\Bases\\x.vhd") == same_drive
    assert not roots.is_assumed_relative(child, same_drive)
    bare = Roots([Root(f"{tmp_path}/one"), Root(f"{tmp_path}/two")])
    assert bare.relative_windows_path(child, same_drive) == "..\\two\\x.vhd"
    assert bare.is_assumed_relative(child, same_drive)


def test_bad_views_and_relative_roots_are_refused() -> None:
    assert code_of(Root, "/srv", windows_views=("VMs",)) == "E_NAME"
    assert code_of(Root, "srv") == "E_NAME"
    Root("/srv", windows_views=("C:", "C:\\", "\\\\nas\\share"))


_HOSTILE = """
import sys
from disks.engine.errors import ImageError
from disks.operations.inspection import inspect
from disks.operations.paths import Root, Roots
root, *files = sys.argv[1:]
roots = Roots([Root(root, windows_views=("C:\\\\VMs",))])
print("READY", flush=True)
for path in files:
    document = inspect(path, roots)
    assert document["parent"]["status"] != "found", document
for text in ("/etc/shadow", "\\\\\\\\evil-host\\\\share\\\\x.vhd", "..\\\\..\\\\etc\\\\shadow"):
    for call in (lambda: roots.from_windows(text), lambda: roots.beside(files[0], text)):
        try:
            call()
        except ImageError:
            pass
print("DONE", flush=True)
"""


def hostile_children(folder: Path) -> Iterator[Path]:
    from disks.tests.builders import build_differencing, build_fixed

    parent = build_fixed(folder.parent, "real-parent.vhd", size=65536)
    texts = [
        "/etc/shadow",
        "C:\\Windows\\System32\\config\\SAM",
        "\\\\?\\C:\\Windows\\x.vhd",
        "\\\\evil-host\\share\\x.vhd",
        "//evil-host/x.vhd",
        "http://evil-host/x.vhd",
        'json:{"driver":"nbd","host":"evil-host"}',
        "nbd:evil-host:10809",
        "..\\..\\..\\etc\\shadow",
        "..\\real-parent.vhd",
        "a/../../real-parent.vhd",
        "x.vhd:stream",
        "CON",
    ]
    for number, text in enumerate(texts):
        locators = {"W2ru": text, "W2ku": text, "MacX": f"file://{text}"}
        child = build_differencing(
            folder, f"c{number}.vhd", parent, locators=locators, parent_name=text, block_size=4096
        )
        yield child.path


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_hostile_locators_cause_no_system_call_outside_the_roots(folder: Path) -> None:
    """bad-input D61: no stat, no open, no network outside of the roots (strace)."""
    files = [str(path) for path in hostile_children(folder)]
    trace = folder.parent / "trace.txt"
    calls = "trace=%file,%network"
    run = subprocess.run(
        [
            *["strace", "-f", "-s", "512", "-e", calls, "-o", str(trace)],
            *[sys.executable, "-c", _HOSTILE, str(folder), *files],
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    if "ptrace" in run.stderr:
        pytest.skip(f"this machine does not let strace work: {run.stderr}")
    assert run.returncode == 0, run.stderr
    lines = trace.read_text(errors="replace").splitlines()
    opened = [line for line in lines if "openat2(" in line or "open" in line]
    assert any(os.path.basename(files[0]) in line for line in opened)
    # A bare name beside the child, asked for by the folder's descriptor, is inside the root.
    beside = re.compile(r'\(\d+, "[^"/]+"')
    for word in ("shadow", "real-parent", "evil-host", "System32", "x.vhd", "SAM"):
        asked = [line for line in lines if word in line and "execve" not in line]
        assert [line for line in asked if not beside.search(line)] == []
    assert [line for line in lines if "connect(" in line or "socket(AF_INET" in line] == []


def test_hostile_locators_open_nothing_outside_the_roots(folder: Path) -> None:
    """bad-input D61: the same by Python's own audit events, where strace is missing."""
    files = [str(path) for path in hostile_children(folder)]
    watcher = (
        "import sys\nseen = []\n"
        "sys.addaudithook(lambda name, args: seen.append((name, str(args[0])))\n"
        "    if name in ('open', 'os.listdir', 'os.scandir', 'socket.connect') else None)\n"
    )
    report = "\nfor name, path in seen: print(name, path)\n"
    run = subprocess.run(
        [sys.executable, "-c", watcher + _HOSTILE + report, str(folder), *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert run.returncode == 0, run.stderr
    events = run.stdout.split("READY", 1)[1]
    assert "open c0.vhd" in events
    for word in ("shadow", "real-parent", "evil-host", "System32", "connect"):
        assert word not in events
