"""Every code that anything can say has a title and an advice."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from disks.engine.codes import CODES, advice, command, title

PROJECT = Path(__file__).resolve().parents[3]
CODE = re.compile(r"""(?<!startswith\()["']([EWN]_[A-Z][A-Z_]+)["']""")


def used_codes() -> dict[str, str]:
    """Code to the file that uses it, over all of the project but the tests."""
    found = {}
    for path in sorted((PROJECT / "disks").rglob("*.py")):
        if "tests" not in path.parts and path.name != "codes.py":
            for code in CODE.findall(path.read_text()):
                found.setdefault(code, str(path.relative_to(PROJECT)))
    return found


def test_every_code_in_use_is_explained() -> None:
    missing = {code: path for code, path in used_codes().items() if code not in CODES}
    assert missing == {}


def test_explanations_are_sentences() -> None:
    for code, (words, sentence, _) in CODES.items():
        assert words[0].isupper() or words.startswith("blktap"), code
        assert not words.endswith("."), code
        assert sentence.endswith("."), code
        assert len(words) <= 60, code


def test_unknown_codes_have_a_general_advice() -> None:
    assert advice("E_FUTURE").endswith(".")
    assert title("E_FUTURE") == "E_FUTURE"
    assert title("E_PARENT_MISSING") == "Parent not found"


class Said(NamedTuple):
    """What is said at one place of the code: the message, and advice of its own."""

    code: str
    message: str
    advice: str
    place: str


def text_of(node: ast.AST | None) -> str:
    """A text as far as it stands there; … for what is only known when it runs."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
        case None:
            return ""
    return "…"


def said(path: Path) -> Iterator[Said]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        own = next((one.value for one in node.keywords if one.arg == "advice"), None)
        is_refusal = isinstance(node.func, ast.Name) and node.func.id == "Refusal"
        for at, argument in enumerate(node.args[:-1]):
            code = text_of(argument)
            if re.fullmatch(r"[EWN]_[A-Z][A-Z_]+", code):
                if is_refusal and own is None and len(node.args) > at + 2:
                    own = node.args[at + 2]
                place = f"{path.relative_to(PROJECT)}:{node.lineno}"
                yield Said(code, text_of(node.args[at + 1]), text_of(own), place)


SAID = [
    one
    for path in sorted((PROJECT / "disks").rglob("*.py"))
    if "tests" not in path.parts and path.name != "codes.py"
    for one in said(path)
]
SMALL = """a an and are as at be by can do does for from has have if in into is it its no not of
on one or other so than that the them then there they this to was what which who with you"""
SMALL_WORDS = frozenset(SMALL.split())


def sentences(text: str) -> list[frozenset[str]]:
    """The words that matter of each sentence and part of one."""
    found = (re.findall(r"[a-z]{2,}", part.lower()) for part in re.split(r"[.;:]\s|[.;:]$", text))
    return [words for one in found if len(words := frozenset(one) - SMALL_WORDS) > 1]


def repeated(message: str, told: str) -> bool:
    """Whether a sentence of the one says what a sentence of the other says."""
    return any(
        len(mine & theirs) > max(2, 0.5 * min(len(mine), len(theirs)))
        for mine in sentences(message)
        for theirs in sentences(told)
    )


def first_words(text: str) -> set[str]:
    parts = re.split(r"[.:;]\s+", text)
    return {part.split()[0].capitalize() for part in parts if part.split()}


NAMING = "A. Disks. If. It. Its. Job. No. Nothing. Only. Some. Something. That. The. What"
TELLING = first_words(" ".join(known.advice for known in CODES.values())) - first_words(NAMING)
"""How a sentence begins that tells somebody to do something: Look, Choose, Wait."""


@pytest.mark.parametrize("code", sorted({one.code for one in SAID}))
def test_what_to_do_next_does_not_say_the_message_again(code: str) -> None:
    for one in SAID:
        if one.code == code:
            for told in (one.advice or advice(code), one.advice or command(code, "/vm/a.vhd")):
                assert not repeated(one.message, told), f"{one.place}: {one.message} – {told}"


def test_a_message_tells_nobody_what_to_do() -> None:
    """That is its advice, for else both do: by other words, where no test can tell."""
    assert {"Look", "Choose", "Wait", "Merge", "Repair"} <= TELLING
    telling = [(one.place, one.message) for one in SAID if first_words(one.message) & TELLING]
    assert telling == []


def test_a_sentence_that_is_said_again_is_found() -> None:
    again = "Shut the machine that uses the disk down, and try again."
    assert repeated("It is in use. Shut that machine down and try again.", again)
    assert not repeated("The disk is in use by a machine.", again)


def test_only_at_a_terminal_a_command_is_named() -> None:
    flags = re.compile(r"(^|\s)--[a-z]|manage\.py|disk recover")
    assert [code for code, known in CODES.items() if flags.search(known.advice)] == []
    elsewhere = [one for one in SAID if not one.place.startswith("disks/commandline/")]
    assert [one for one in elsewhere if flags.search(one.message + one.advice)] == []
    assert "“manage.py disk recover /vm”" in command("E_UNFINISHED", "/vm/a.vhd")
    assert "Jobs page" in advice("E_UNFINISHED")
    assert command("E_CHANGED", None) == advice("E_CHANGED")
