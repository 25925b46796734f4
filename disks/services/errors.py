"""Refusals of the rules, as errors that a person can read."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """A rule says no.

    code     stable, `E_…`, explained in `engine/codes.py`
    message  one sentence: what is refused and why
    advice   what to do next; empty when the code's own advice says it
    """

    def __init__(self, code: str, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.advice = advice

    def as_dict(self) -> dict[str, Any]:
        """The same keys as ImageError.as_dict()."""
        return {
            "code": self.code,
            "message": self.message,
            "file": None,
            "field": None,
            "offset": None,
            "value": None,
            "advice": self.advice,
        }

    @property
    def sentence(self) -> str:
        """As ImageError.sentence."""
        return f"{self.message} {self.advice}".strip()

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
