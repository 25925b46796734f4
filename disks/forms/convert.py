"""What a copy of a disk shall be, and where it goes."""

from __future__ import annotations

import os
from typing import Any

from django import forms

from disks.engine.raw import RAW
from disks.forms.new_file import (
    RootChoice,
    checked_folder,
    checked_name,
    folder_field,
    host_path,
    name_field,
    named_as,
    place_beside,
)
from disks.models import Disk
from disks.operations.convert import TARGETS, target_named

_FORMATS = [
    (target.name, "Plain image" if target is RAW else target.name.upper()) for target in TARGETS
]


class ConvertForm(forms.Form):
    format = forms.ChoiceField(choices=_FORMATS)
    disk_type = forms.ChoiceField(
        choices=[("dynamic", "Dynamic"), ("fixed", "Fixed")], required=False
    )
    root = RootChoice(label="Storage root")
    folder = folder_field()
    name = name_field()

    def __init__(self, data: Any, *, disk: Disk) -> None:
        super().__init__(self._completed(data, disk))

    def _completed(self, data: Any, disk: Disk) -> dict[str, Any]:
        """What was sent, with what a person would most likely choose where nothing was."""
        stem, _ = os.path.splitext(disk.name)
        known = {name for name, _ in _FORMATS}
        values = {
            "format": disk.format if disk.format in known else _FORMATS[0][0],
            "disk_type": "fixed" if disk.disk_type == "fixed" else "dynamic",
            "name": f"{stem}-copy",
        }
        values |= {key: data.get(key) for key in values if data.get(key) not in (None, "")}
        values |= place_beside(disk, data)
        if values["format"] in known:
            values["name"] = named_as(values["name"], target_named(values["format"]), TARGETS)
        return values

    @property
    def is_plain(self) -> bool:
        return bool(self.data["format"] == RAW.name)

    def clean_folder(self) -> str:
        return checked_folder(self.cleaned_data["folder"])

    def clean_name(self) -> str:
        return checked_name(self.cleaned_data["name"])

    def options(self) -> dict[str, Any]:
        """Keywords of services.converting.plan and request."""
        cleaned = self.cleaned_data
        return {
            "output": host_path(cleaned["root"], cleaned["folder"], cleaned["name"]),
            "format_name": cleaned["format"],
            "disk_type": None if self.is_plain else cleaned.get("disk_type") or "dynamic",
        }
