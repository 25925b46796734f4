"""What a new disk shall be."""

from __future__ import annotations

from typing import Any

from django import forms

from disks.forms.new_file import (
    RootChoice,
    checked_folder,
    checked_name,
    folder_field,
    host_path,
    name_field,
)
from disks.forms.size import in_bytes, size_field, unit_field
from disks.models import Disk

TYPES = [
    ("dynamic", "Dynamic: grows as it is filled"),
    ("fixed", "Fixed: takes its whole size at once"),
    ("differencing", "Differencing: holds the changes to a parent"),
]


class CreateForm(forms.Form):
    disk_type = forms.ChoiceField(label="Kind", choices=TYPES, widget=forms.RadioSelect)
    root = RootChoice(label="Storage root")
    folder = folder_field()
    name = name_field()
    size = size_field(required=False)
    unit = unit_field()
    block_size = forms.ChoiceField(
        label="Block size",
        choices=[("2097152", "2 MB, as Windows makes them"), ("524288", "512 KB, finer")],
        required=False,
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    parent = forms.IntegerField(required=False, min_value=1, max_value=2**53)

    def clean_folder(self) -> str:
        return checked_folder(self.cleaned_data["folder"])

    def clean_name(self) -> str:
        return checked_name(self.cleaned_data["name"])

    def clean_parent(self) -> Disk | None:
        number = self.cleaned_data["parent"]
        if number is None:
            return None
        found = Disk.objects.select_related("root").filter(pk=number).first()
        if found is None:
            raise forms.ValidationError("This parent is not in the catalog any more.")
        return found

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("disk_type") == "differencing":
            if "parent" in cleaned and cleaned["parent"] is None:
                self.add_error("parent", "Choose the parent of the differencing disk.")
            self.errors.pop("size", None)
        elif "size" in cleaned and cleaned.get("size") is None:
            self.add_error("size", "Say how large the disk shall be.")
        return cleaned

    @property
    def size_bytes(self) -> int | None:
        """The virtual size in whole sectors; None for a differencing disk."""
        cleaned = self.cleaned_data
        if cleaned["disk_type"] == "differencing" or cleaned.get("size") is None:
            return None
        return in_bytes(cleaned["size"], cleaned.get("unit") or "")

    def options(self) -> dict[str, Any]:
        """Keywords of services.creating.plan and request."""
        cleaned = self.cleaned_data
        differencing = cleaned["disk_type"] == "differencing"
        return {
            "path": host_path(cleaned["root"], cleaned["folder"], cleaned["name"]),
            "disk_type": cleaned["disk_type"],
            "size_bytes": self.size_bytes,
            "parent": cleaned["parent"].path if differencing else None,
            "block_size_bytes": int(cleaned.get("block_size") or 2 * 1024**2),
        }
