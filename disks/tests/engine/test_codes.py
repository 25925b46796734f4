"""Every code that anything can say has a title and an advice."""

from __future__ import annotations

import re
from pathlib import Path

from disks.engine.codes import CODES, advice, title

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
    for code, (words, sentence) in CODES.items():
        assert words[0].isupper() or words.startswith("blktap"), code
        assert not words.endswith("."), code
        assert sentence.endswith("."), code
        assert len(words) <= 60, code


def test_unknown_codes_have_a_general_advice() -> None:
    assert advice("E_FUTURE").endswith(".")
    assert title("E_FUTURE") == "E_FUTURE"
    assert title("E_PARENT_MISSING") == "Parent not found"
