"""How large a disk shall become."""

from __future__ import annotations

from django import forms

from disks.forms.size import in_bytes, size_field, unit_field


class ExpandForm(forms.Form):
    size = size_field(label="New size")
    unit = unit_field()

    @property
    def size_bytes(self) -> int:
        return in_bytes(self.cleaned_data["size"], self.cleaned_data.get("unit") or "")
