"""How a verb that plans and applies ends: the dry run's document, the sizes of a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disks.commandline.console import Console, described
from disks.engine.changes import FieldChange
from disks.engine.errors import ImageError


def conclude(
    console: Console, document: Mapping[str, Any], refused: ImageError | None, text: str
) -> int:
    """Show a dry run. 1 if it is refused: the document says why, in place of the error one."""
    if refused is None:
        console.result(document, text)
        return 0
    console.refuse(refused)
    console.result({**document, "refused": described(refused)})
    return 1


def sizes(done: Mapping[str, Any]) -> str:
    """The result of a copy as a line for a person."""
    return (
        f"{done['output']}: {done['file_size_before_bytes']:,} → "
        f"{done['file_size_after_bytes']:,} bytes; copied in {done['copy_seconds']:.1f} s, "
        f"proven in {done['proof_seconds']:.1f} s ({done['proof']})"
    )


def changed(change: FieldChange) -> str:
    """A field of a plan as a line for a person."""
    where = "" if change.offset is None else f" (byte {change.offset:,})"
    return f"{change.field}{where}: {change.now or 'nothing'} → {change.after or 'removed'}"


def count(number: int, word: str) -> str:
    """ "1 disk", "12 disks": a number with its word."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
