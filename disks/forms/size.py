"""A size of a virtual disk as people type it: a number and a unit."""

from __future__ import annotations

from decimal import Decimal

from django import forms

from disks.engine.units import SECTOR_BYTES

UNITS = {"MB": 1024**2, "GB": 1024**3, "TB": 1024**4}


def size_field(*, required: bool = True, label: str = "Size") -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        required=required,
        max_digits=12,
        decimal_places=3,
        min_value=Decimal("0.001"),
        widget=forms.NumberInput(attrs={"class": "form-control", "min": "1", "step": "any"}),
        error_messages={"required": "Say how large the disk shall be."},
    )


def unit_field() -> forms.ChoiceField:
    return forms.ChoiceField(
        label="Unit",
        choices=[(unit, unit) for unit in UNITS],
        required=False,
        widget=forms.Select(attrs={"class": "form-select"}),
    )


def in_bytes(size: Decimal, unit: str) -> int:
    """In whole sectors."""
    count_bytes = int(size * UNITS[unit or "GB"])
    return count_bytes // SECTOR_BYTES * SECTOR_BYTES


def as_typed(size_bytes: int) -> tuple[str, str]:
    """Number and unit for a form's first view: the unit that people would choose."""
    unit = next((name for name in ("TB", "GB") if size_bytes >= UNITS[name]), "MB")
    text = f"{Decimal(size_bytes) / UNITS[unit]:.3f}".rstrip("0").rstrip(".")
    return text, unit
