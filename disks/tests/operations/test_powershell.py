"""PowerShell for the host: names stay names, the order is right, every step is guarded.

Judged by a reader of PowerShell's own rules for literals, written from its documentation
(about_Quoting_Rules): the same that its parser applies.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disks.operations import merge
from disks.operations.paths import Roots
from disks.operations.pile import planning, windows_script
from disks.operations.powershell import quoted
from disks.operations.storage_roots import Root
from disks.tests.operations.piles import FORMATS, Pile, make, ring, roots_of

QUOTES = "'\u2018\u2019\u201a\u201b"  # all of them open and close a literal
HOSTILE = {
    "quote": "it's",
    "typographic quotes": "a\u2018b\u2019c\u201ad\u201be",
    "newline": "a\nRemove-Item C",
    "carriage return": "a\rRemove-Item C",
    "backtick": "a`nb",
    "subexpression": "$(Remove-Item C)",
    "variable": "$env:windir",
    "double quote": '"; Remove-Item C; "',
    "end of comment": "#> Remove-Item C <#",
    "text direction": "\u202edhva.exe",
    "line separator": "a\u2028b",
    "beyond the first plane": "a\U000e0001b\U0001f600",
    "leading dash": "-Force",
    "brackets": "[a-z]*?",
    "nothing": "",
}


@dataclass
class Reader:
    """Reads one expression of literals from the start of a text, and stops behind it."""

    text: str
    at: int = 0

    def expression(self) -> str:
        if self.text[self.at] == "(":
            self.at += 1
            value = self.sum()
            assert self.text[self.at] == ")"
            self.at += 1
            return value
        return self.operand()

    def sum(self) -> str:
        value = self.operand()
        while self.text.startswith(" + ", self.at):
            self.at += 3
            value += self.operand()
        return value

    def operand(self) -> str:
        number = re.compile(r"\[char\](?:::ConvertFromUtf32\((\d+)\)|(\d+))").match(
            self.text, self.at
        )
        if number:
            self.at = number.end()
            return chr(int(number[1] or number[2]))
        assert self.text[self.at] in QUOTES, self.text[self.at :]
        self.at += 1
        value = ""
        while True:
            character = self.text[self.at]
            self.at += 1
            if character not in QUOTES:
                value += character
            elif self.text[self.at : self.at + 1] and self.text[self.at] in QUOTES:
                value += self.text[self.at]
                self.at += 1
            else:
                return value


def read(expression: str) -> str:
    reader = Reader(expression)
    value = reader.expression()
    assert reader.at == len(expression), "something stands behind the literal"
    return value


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_one_literal_on_one_line(name: str) -> None:
    expression = quoted(name)
    assert read(expression) == name
    assert expression.isprintable()


@given(st.text())
def test_any_text_comes_back_as_it_was(text: str) -> None:
    assert read(quoted(text)) == text
    assert quoted(text).isprintable()


def test_a_byte_that_is_no_utf_8_is_a_name_that_windows_cannot_have() -> None:
    assert read(quoted("a\udcffb")) == "a\ufffdb"


def test_a_plain_name_stays_plain() -> None:
    assert quoted(r"D:\VMs\srv01.vhdx") == r"'D:\VMs\srv01.vhdx'"


@given(st.text())
def test_the_command_for_the_machine_holds_two_literals_and_nothing_else(text: str) -> None:
    from disks.operations.powershell import point_machine

    command = point_machine(text, "new" + text)
    head = "Get-VM | Get-VMHardDiskDrive | Where-Object Path -eq "
    assert command.startswith(head)
    reader = Reader(command, len(head))
    assert reader.expression() == text
    middle = " | Set-VMHardDiskDrive -Path "
    assert command.startswith(middle, reader.at)
    assert read(command[reader.at + len(middle) :]) == "new" + text


# ---------------------------------------------------------------------- the script


def script(folder: Path, roots: Roots | None = None) -> str:
    roots = roots or roots_of(folder)
    plan = planning.plan(str(folder), roots)
    return windows_script.script(plan.piles, plan.forest, roots, str(folder))[0]


def merges(text: str) -> list[tuple[str, str]]:
    """What is merged into what, in the order of the script."""
    found = []
    for line in text.split("\n"):
        if line.startswith("    Merge-VHD -Path "):
            reader = Reader(line, len("    Merge-VHD -Path "))
            child = reader.expression()
            assert line.startswith(" -DestinationPath ", reader.at)
            reader.at += len(" -DestinationPath ")
            found.append((child, reader.expression()))
            assert line[reader.at :] == " -Confirm:$false"
    return found


def windows(*names: str) -> list[tuple[str, str]]:
    paths = [f"C:\\VMs\\{name}" for name in names]
    return list(itertools.pairwise(paths))


@pytest.mark.parametrize("format", FORMATS)
def test_it_merges_leaf_first_by_windows_paths(tmp_path: Path, format: str) -> None:
    made = make(tmp_path, format)
    names = [Path(path).name for path in made.paths("e", "d", "c", "b", "a", "vm")]
    text = script(tmp_path)
    assert merges(text) == windows(*names)
    assert text.isascii()


@pytest.mark.parametrize("format", FORMATS)
def test_every_merge_stands_behind_its_guards(tmp_path: Path, format: str) -> None:
    make(tmp_path, format)
    lines = script(tmp_path).split("\n")
    for number, line in enumerate(lines):
        if line.startswith("    Merge-VHD"):
            child, parent = merges(line)[0]
            assert lines[number - 1] == f"if (Test-Step {quoted(child)} {quoted(parent)}) {{"
            assert lines[number + 1] == f"    Complete-Step {quoted(child)}"
            assert f"{{ Assert-Link {quoted(child)} {quoted(parent)} }}" in "\n".join(
                lines[: lines.index(next(one for one in lines if one.startswith("# Step 1 ")))]
            )
    text = "\n".join(lines)
    for guard in ("Test-VHD -Path $Child", ".ParentPath -ne", ".Attached", "ShouldProcess($Child"):
        assert guard in text
    assert "$ErrorActionPreference = 'Stop'" in text
    assert "SupportsShouldProcess = $true" in text


@pytest.mark.parametrize("format", FORMATS)
def test_hostile_names_do_not_leave_their_literals_or_comments(tmp_path: Path, format: str) -> None:
    made = Pile(tmp_path, format)
    made.base()
    names = [name for name in HOSTILE.values() if name]
    below = "vm"
    for name in names:
        made.child(name, below)
        below = name
    text = script(tmp_path)
    order = [Path(path).name for path in made.paths(*reversed(names), "vm")]
    found = merges(text)
    assert [child.rpartition("\\")[2] for child, _ in found] == order[:-1]
    assert [parent.rpartition("\\")[2] for _, parent in found] == order[1:]
    for line in text.removeprefix("\ufeff").split("\n"):
        assert line.isprintable()
        code = line if line.startswith("#") else re.sub(r"^\s*", "", line)
        assert not code.startswith("Remove-Item")
    assert text.startswith("\ufeff")  # else Windows PowerShell 5 reads the names wrongly


@pytest.mark.parametrize("format", FORMATS)
def test_without_a_windows_view_names_are_told_from_the_folder_on(
    tmp_path: Path, format: str
) -> None:
    here, bases = tmp_path / "here", tmp_path / "bases"
    made = Pile(bases, format)
    here.mkdir()
    made.base()
    made.child("a", "vm", folder=here)
    roots = Roots(
        [Root(str(here)), Root(str(bases))], search=[str(here), str(bases)], identity_leads=True
    )
    text = script(here, roots)
    names = [Path(path).name for path in made.paths("a", "vm")]
    assert merges(text) == [(f".\\{names[0]}", f"..\\bases\\{names[1]}")]
    assert f"#   {here}" in text.split("\n")
    assert "It is not known how Windows names the folder" in text


@pytest.mark.parametrize("format", FORMATS)
def test_a_parent_that_windows_would_not_find_is_set_first_base_up(
    tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format, names="ab")
    made.shuffle(2)
    text = script(tmp_path)
    name = {key: f"C:\\VMs\\{built.path.name}" for key, built in made.disks.items()}
    sets = []
    for line in text.split("\n"):
        if line.startswith("    Set-VHD -Path "):
            reader = Reader(line, len("    Set-VHD -Path "))
            child = reader.expression()
            reader.at += len(" -ParentPath ")
            sets.append((child, reader.expression()))
    assert sets == [(name["a"], name["vm"]), (name["b"], name["a"])]
    assert text.index("Set-VHD -Path") < text.index("Merge-VHD -Path")


@pytest.mark.parametrize("format", FORMATS)
def test_what_windows_could_not_merge_either_is_left_out_and_said(
    tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format, names="ab")
    made.child("x", "b")
    made.child("y", "b")  # vm, a and b are a pile, but two disks build on it
    text = script(tmp_path)
    assert merges(text) == []
    assert "# Left out: other disks build on its leaf" in text
    made.disks["vm"].path.unlink()
    made.disks["y"].path.unlink()
    text = script(tmp_path)
    assert merges(text) == []
    assert "# Left out: This disk names " in text


@pytest.mark.parametrize("format", FORMATS)
def test_what_only_this_host_refuses_is_no_reason_on_windows(tmp_path: Path, format: str) -> None:
    made = make(tmp_path, format, names="ab")
    root = Root(str(tmp_path), windows_views=("C:\\VMs",), read_only=True)
    roots = Roots([root])
    plan = planning.plan(str(tmp_path), roots)
    assert plan.refused is not None
    assert plan.refused.code == "E_READ_ONLY"
    names = [Path(path).name for path in made.paths("b", "a", "vm")]
    assert merges(script(tmp_path, roots)) == windows(*names)


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_read_stops_the_script_until_it_is_declared_unrelated(
    tmp_path: Path, format: str
) -> None:
    """bad-input D66: it may be a sibling, and Merge-VHD cannot be undone."""
    made = make(tmp_path, format, names="ab")
    assert "param()" in script(tmp_path)
    assert "$Unrelated" not in script(tmp_path)
    damaged = made.damaged("dam\nRemove-Item C").name.replace("\n", "\\n")
    text = script(tmp_path)
    assert "param([switch] $Unrelated)" in text
    lines = text.split("\n")
    (guard,) = [at for at, line in enumerate(lines) if line.startswith("if (-not $Unrelated)")]
    assert "{ Stop-Here 'Some files cannot be read" in lines[guard]
    assert any(damaged in line for line in lines[:guard] if line[:1] == "#")
    assert not any("Merge-VHD -Path" in line for line in lines[:guard])
    assert len(merges(text)) == 2


@pytest.mark.parametrize("format", FORMATS)
def test_a_ring_gives_no_merge(tmp_path: Path, format: str) -> None:
    ring(tmp_path, format)
    assert merges(script(tmp_path)) == []


@pytest.mark.parametrize("format", FORMATS)
def test_the_merge_form_quotes_in_the_same_way(tmp_path: Path, format: str) -> None:
    made = Pile(tmp_path, format)
    made.base("it\u2019s")
    made.child("a", "it\u2019s")
    plan = merge.plan(made.path("a"), roots_of(tmp_path), into_parent=True)
    name = Path(made.path("it\u2019s")).name
    assert plan.commands[-1] == f"Test-VHD -Path {quoted(f'C:{chr(92)}VMs{chr(92)}{name}')}"
    assert read(plan.commands[-1].removeprefix("Test-VHD -Path ")) == f"C:\\VMs\\{name}"
